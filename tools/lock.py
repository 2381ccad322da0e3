"""Write the files that pin every package: ``python -m tools.lock``. It needs uv and the package index.

``requirements/*.txt`` have each package's version and the hashes of its files for all platforms. Together they
hold everything that an installation needs: the installer resolves nothing. ``constraints.txt`` has only the versions,
for other ways to install. Versions stay as they are in ``constraints.txt``; edit that file to change one.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIRECTORY = ROOT / "requirements"
_ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9-]*)(?P<rest>==.*\n(?:    --hash=.*\n)+)", re.MULTILINE)
_OF_TORCH = re.compile(r"torch|triton|cuda-.*|nvidia-(?!ml-py).*|liger-kernel")
"""torch, what its default build on Linux brings, and what is of use only with that one. The CPU build is at PyTorch's
own index, with other hashes."""
_BUILD = ("setuptools",)


def compiled(*options: str) -> dict[str, str]:
    """Return every package that an installation needs, with its version, marker and hashes."""
    how = ("--universal", "--python-version=3.11", "--generate-hashes", "--no-annotate", "--no-header", "--quiet")
    uv = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml"]
    command = [*uv, *how, "--constraints=constraints.txt", *options]
    text = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    return {found["name"]: found[0] for found in _ENTRY.finditer(text)}


def files() -> dict[Path, str]:
    """Return the content of each file."""
    base, everything = compiled(), compiled("--all-extras")
    build = "".join(everything[name] for name in _BUILD)
    torch = "".join(entry for name, entry in everything.items() if _OF_TORCH.fullmatch(name))
    others = "".join(entry for name, entry in base.items() if not _OF_TORCH.fullmatch(name) and name not in _BUILD)
    added = {name: entry for name, entry in everything.items() if name not in base and name not in _BUILD}
    more = "".join(entry for name, entry in added.items() if not _OF_TORCH.fullmatch(name))
    pins = "".join(entry.split(maxsplit=1)[0] + "\n" for entry in everything.values())
    head = "# Written by python -m tools.lock. "
    return {
        DIRECTORY / "build.txt": f"{head}What builds packages that are published as source only.\n{build}",
        DIRECTORY / "torch.txt": f"{head}The default build of torch.\n{torch}",
        DIRECTORY / "base.txt": f"{head}Everything else that swarmctl needs.\n{others}",
        DIRECTORY / "extras.txt": f"{head}What the optional dependencies add.\n{more}",
        ROOT / "constraints.txt": f"{head}The tested versions: pip install -c constraints.txt .\n{pins}",
    }


if __name__ == "__main__":
    DIRECTORY.mkdir(exist_ok=True)
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")
