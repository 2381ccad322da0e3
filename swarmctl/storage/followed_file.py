"""Follow a growing file, even if it is renamed, truncated, or deleted and created again (logrotate)."""

import os
from collections import deque
from io import FileIO
from pathlib import Path

from hivemind_exp.event_files import is_still, open_all


class FollowedFile:
    """A file that is read from its current end, or from its start if ``whole``. It need not exist yet.

    If the file has older parts (``hivemind_exp.event_files``), ``whole`` includes them. The rest of a file that has
    been renamed is read before the new one.
    """

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._older: set[tuple[str, int]] = set()
        self._files: deque[FileIO] = deque()
        """Files to read, oldest first. Only the last one may grow."""
        self._open_newer()
        self.start = 0
        """Where reading starts, in bytes."""
        if not whole:
            while self._files and Path(str(self._files[0].name)) != path:
                self._files.popleft().close()
            if self._files:
                self.start = self._files[0].seek(0, os.SEEK_END)

    def read(self, most: int = -1) -> bytes:
        """Return at most ``most`` bytes that were appended since the last call; empty if there are none."""
        while True:
            if self._files:
                file = self._files[0]
                if os.fstat(file.fileno()).st_size < file.tell():
                    file.seek(0)  # truncated
                if data := file.read(most):
                    return data
            if len(self._files) > 1:
                self._files.popleft().close()
            elif not self._open_newer():
                return b""
            # Now the first file no longer grows. Its last lines may have been written after it was read.

    def _open_newer(self) -> bool:
        """Open the files that were begun since the last call. Returns whether there are any."""
        last = self._files[-1] if self._files else None
        if last is not None and is_still(self._path, last.fileno()):
            return False
        known, self._older = self._older, set()
        newer = []
        for file in open_all(self._path):
            found, is_part = os.fstat(file.fileno()), Path(str(file.name)) != self._path
            key = Path(str(file.name)).name, found.st_ino
            if is_part:
                self._older.add(key)
            if (is_part and key in known) or (last is not None and os.path.samestat(found, os.fstat(last.fileno()))):
                file.close()
            else:
                newer.append(file)
        self._files.extend(newer)
        return bool(newer)
