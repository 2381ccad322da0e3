"""Files replaced whole, so that a reader or a crash never meets half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

READABLE = 0o644
PRIVATE = 0o600


def replace_text(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Put ``text`` into a file, under its name only once it is on the disk."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
