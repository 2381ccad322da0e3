"""Write wheels, so that a test can install packages that are on no index."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path


def write_wheel(
    directory: Path,
    name: str,
    files: Mapping[str, str],
    *,
    version: str = "0.1.0",
    requires: Sequence[str] = (),
    summary: str = "A package.",
) -> Path:
    """Write a wheel with ``files`` (path within the wheel -> text) and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", f"Summary: {summary}"]
    lines += [f"Requires-Dist: {each}" for each in requires]
    about = {
        "METADATA": "\n".join([*lines, ""]),
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    everything = {**files, **{f"{stem}.dist-info/{key}": text for key, text in about.items()}}
    record = f"{stem}.dist-info/RECORD"
    everything[record] = "".join(f"{each},,\n" for each in [*everything, record])
    path = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for each, text in everything.items():
            wheel.writestr(each, text)
    return path
