"""Helpers for tests that watch processes."""

from __future__ import annotations

import psutil


def is_alive(pid: int) -> bool:
    """Whether a process exists and has not ended. On some systems, ended orphans remain as zombies."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
