"""Search for a planted key wherever a process could leak it: /proc while it runs, files and output afterwards."""

from __future__ import annotations

import base64
import os
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote

_LARGEST = 64 * 2**20


@cache
def forms(key: str) -> list[bytes]:
    """Return the forms that a key may have: plain, quoted for a URL, hexadecimal, UTF-16 and base64."""
    raw = key.encode()
    found = [raw, quote(key, safe="").encode(), raw.hex().encode(), key.encode("utf-16-le")]
    for shift in range(3):  # base64 looks different at each of three alignments; its edges depend on adjacent bytes
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.append(encode(b"\0" * shift + raw)[4:-4])
    return found


def has_key(content: bytes, key: str) -> bool:
    """Whether ``content`` contains the key in any form."""
    return any(form in content for form in forms(key))


def files_with(root: Path, key: str) -> list[Path]:
    """Return the files below ``root`` that contain the key."""
    return [path for path in root.rglob("*") if path.is_file() and has_key(path.read_bytes(), key)]


def _read(pid: int, name: str) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _family(pid: int) -> Iterator[int]:
    """Yield a process and its descendants. Unlike psutil, this does not look at all processes of the machine."""
    yield pid
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            for child in _read(pid, f"task/{thread}/children").split():
                yield from _family(int(child))


class ProcessScan(threading.Thread):
    """Repeatedly scans a process and its descendants, except the first one's environment, which the test set."""

    def __init__(self, pid: int, key: str) -> None:
        super().__init__(daemon=True)
        self._root, self._key = pid, key
        self._over = threading.Event()
        self.found: set[str] = set()
        self.seen: dict[int, int] = {}
        """How often each process was scanned."""
        self.commands: set[str] = set()
        self._clean: set[tuple[int, ...]] = set()
        """Contents of files that were searched: device, file, size and time of the last change."""

    def run(self) -> None:
        while not self._over.is_set():
            for pid in list(_family(self._root)):
                self._scan(pid)
            self._over.wait(0.05)

    def end(self) -> None:
        self._over.set()
        self.join()

    def _scan(self, pid: int) -> None:
        self.seen[pid] = self.seen.get(pid, 0) + 1
        self.commands.add(_read(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace"))
        self._look(Path(f"/proc/{pid}/cmdline"), f"cmdline of {pid}")
        # A process with the first one's command line was just forked and still has the first one's environment.
        if _read(pid, "cmdline") != _read(self._root, "cmdline"):
            self._look(Path(f"/proc/{pid}/environ"), f"environ of {pid}")
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                path = Path(f"/proc/{pid}/fd/{descriptor}")
                with suppress(OSError):
                    state = path.stat()
                    # Pipes are skipped: reading one would consume its content.
                    if stat.S_ISREG(state.st_mode) and state.st_size < _LARGEST:
                        self._look_once(path, state, f"open file {os.readlink(path)} of {pid}")

    def _look_once(self, path: Path, state: os.stat_result, where: str) -> None:
        """Search a file, unless its content was searched before."""
        content = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns)
        # The clock of files has steps: two changes that follow each other closely may have the same time.
        settled = time.time() - state.st_mtime > 1.0
        if content not in self._clean and not self._look(path, where) and settled:
            self._clean.add(content)

    def _look(self, path: Path, where: str) -> bool:
        """Search a file. Returns whether the key was found, or the file could not be read."""
        with suppress(OSError):
            if not has_key(path.read_bytes(), self._key):
                return False
            self.found.add(where)
        return True
