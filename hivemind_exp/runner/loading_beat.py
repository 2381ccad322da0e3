"""Shows that a node lives while it downloads or loads a large file, in which it checks for no stop request."""

import resource
import time
from collections.abc import Callable

EVERY_S = 5.0
_BLOCKS = 2048
"""Blocks of 512 bytes read or written since the last look: less than a slow download, more than a log."""


def beat_while_loading(beat: Callable[[], None]) -> None:
    """Call ``beat`` every few seconds in which this process reads or writes files. Does not return."""
    before = blocks_moved()
    while True:
        time.sleep(EVERY_S)
        now = blocks_moved()
        if now - before >= _BLOCKS:
            beat()
        before = now


def blocks_moved() -> int:
    """Return the blocks that this process has read from disks and written to them."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock + used.ru_oublock
