"""Follow a growing file, even if it is renamed, truncated, or deleted and created again (logrotate)."""

import os
from io import FileIO
from pathlib import Path


class FollowedFile:
    """A file that is read from its current end, or from its start if ``whole``. It need not exist yet."""

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._file = self._opened()
        self.start = 0 if self._file is None or whole else self._file.seek(0, os.SEEK_END)
        """Where reading starts, in bytes."""

    def read(self, most: int = -1) -> bytes:
        """Return at most ``most`` bytes that were appended since the last call; empty if there are none."""
        if self._file is not None:
            if os.fstat(self._file.fileno()).st_size < self._file.tell():
                self._file.seek(0)  # truncated
            if data := self._file.read(most):
                return data
        newer = self._opened()
        if newer is None:
            return b""
        if self._file is not None:
            if os.path.sameopenfile(self._file.fileno(), newer.fileno()):
                newer.close()
                return b""
            self._file.close()
        self._file = newer
        return newer.read(most)

    def _opened(self) -> FileIO | None:
        try:
            return self._path.open("rb", buffering=0)
        except FileNotFoundError:
            return None
