"""A task worker that records which of its sites suggest commands: ``python -m … FILE ROLE PARENT_PID``."""

from __future__ import annotations

import sys
from pathlib import Path

from hivemind_exp.tasks.workers import worker
from tests.support.advice import record_in_sandbox

if __name__ == "__main__":
    with Path(sys.argv.pop(1)).open("a", encoding="utf-8") as stream:
        record_in_sandbox(stream)
        worker.serve()
