"""What code that was loaded before the sandbox closed has left in this process: threads and memory."""

import resource
import sys
import threading
from pathlib import Path
from typing import Any

from hivemind_exp.foreign_text import foreign

_FEW = 3


def threads_left() -> str:
    """Return the names of the other Python threads, as text for people; empty if there are none.

    Stops the thread of tqdm, which many libraries use: it only watches progress bars.
    """
    for thread in threading.enumerate():
        if type(thread).__module__ == "tqdm._monitor":
            tqdm: Any = sys.modules["tqdm"]
            tqdm.tqdm.monitor_interval = 0  # else the next progress bar starts another one
            watching: Any = thread
            watching.exit()
    others = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    return ", ".join(foreign(thread.name, 40) for thread in others[:_FEW]) + (", …" if len(others) > _FEW else "")


def mapped_bytes() -> int:
    """Return the size of this process's address space (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()
