"""The task workers of this process."""

from __future__ import annotations

import contextlib

import psutil


def task_workers() -> list[psutil.Process]:
    """Return this process's task workers that have not ended."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "hivemind_exp.tasks.workers.worker" in " ".join(child.cmdline()):
                found.append(child)
    return found
