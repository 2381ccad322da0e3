"""The clock: peers refuse each other when theirs differ by more than three seconds."""

import ctypes
import shutil
import struct
import sys
import time
from email.utils import parsedate_to_datetime

from swarmctl.doctor.check import Context, Finding, ok, skipped, warning
from swarmctl.doctor.web import ask_hub
from swarmctl.keys.http_client import Unanswered
from swarmctl.storage.hub_cache import endpoint

TOLERATED = 3.0
"""Seconds of difference at which hivemind refuses a peer."""
_UNSYNCHRONISED = 0x40
_TIMEX_BYTES = 512
_TIMEX_STATUS = 40
"""Offset of ``status`` in ``struct timex`` on 64-bit Linux."""


def clock(context: Context) -> Finding:
    """Compare with the hub's Date header; without network, ask the kernel whether anything keeps the clock right."""
    if not context.offline:
        try:
            offset = _offset(endpoint(context.environment))
        except Unanswered as error:
            return _kernel(f"hub: {error}")
        if offset is not None:
            # The header has whole seconds and the answer took its time: half a second is no finding.
            text = f"{abs(offset):.1f} s {'ahead of' if offset > 0 else 'behind'} the hub's"
            if abs(offset) > TOLERATED:
                return warning(f"{text}; peers refuse a difference of {TOLERATED:g} s", _cure())
            return ok("within a second or two of the hub's" if abs(offset) > 0.5 else "agrees with the hub's")
    return _kernel("no network asked" if context.offline else "the hub's answer has no date")


def _offset(address: str) -> float | None:
    """Return how many seconds this clock is ahead of a server's. Raises Unanswered."""
    before = time.time()
    date = ask_hub("HEAD", address + "/").headers.get("date")
    middle = (before + time.time()) / 2
    try:
        # The server cut its fraction of a second: half of one on average.
        return middle - parsedate_to_datetime(date).timestamp() - 0.5 if date else None
    except ValueError:
        return None


def _kernel(why: str) -> Finding:
    state = synchronised()
    if state is None:
        return skipped(f"{why}; this system does not tell whether its clock is kept right")
    if state:
        return ok("kept right by a time service, says the kernel")
    return skipped(f"{why}; the kernel knows of no time service")


def synchronised() -> bool | None:
    """Return whether the kernel says that a time service keeps the clock right; None where it cannot be asked.

    No library asks it: ``adjtimex`` is not in Python, and ``timedatectl`` not in containers.
    """
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: only read
    try:
        if ctypes.CDLL(None).adjtimex(buffer) < 0:
            return None
    except AttributeError:
        return None
    (status,) = struct.unpack_from("i", buffer, _TIMEX_STATUS)
    return not status & _UNSYNCHRONISED


def _cure() -> str:
    if sys.platform == "darwin":
        return "sudo sntp -sS time.apple.com"
    return "sudo timedatectl set-ntp true" if shutil.which("timedatectl") else "date -u"
