"""Write files that are generated from the code, or with ``--check`` compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def update(files: Mapping[Path, str], arguments: Sequence[str]) -> int:
    """Write each file whose text differs. With ``--check`` in ``arguments``, report it instead and return 1."""
    stale = 0
    for path, text in files.items():
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale = 1
        if "--check" in arguments:
            print(f"{path} is out of date: run python -m tools.generate")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return stale if "--check" in arguments else 0
