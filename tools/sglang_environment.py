"""Install SGLang for the CPU beside vLLM: ``python tools/sglang_environment.py build/sglang build/vllm``.

For ``make test-sglang``. SGLang's own code runs, but its kernels (``sglang-kernel``) are built for GPUs only, so torch
computes everything (``tools/sglang_cpu``). Torch and most libraries come from vLLM's environment, which has builds for
the CPU. ``PIP_FLAGS`` holds options for pip, such as an index.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "sglang==0.5.23",
    *("xgrammar==0.2.7", "outlines==0.1.11", "torch_memory_saver==0.0.10", "gguf==0.19.0", "nvidia-ml-py==13.615.71"),
    *("orjson==3.13.0", "xxhash==4.1.0", "zstandard==0.25.0", "easydict==1.14", "distro==1.9.0", "soundfile==0.14.0"),
    *("ipython==9.18.1", "traitlets==5.16.1", "decorator==5.3.1", "stack_data==0.6.3", "executing==2.3.0"),
    *("asttokens==3.0.2", "pure_eval==0.2.4", "prompt_toolkit==3.0.53", "wcwidth==0.9.4", "matplotlib_inline==0.2.2"),
    *("jedi==0.20.1", "parso==0.8.7", "pexpect==4.9.0", "ptyprocess==0.7.0"),
)
"""What SGLang imports and vLLM's environment lacks. SGLang's own requirements are for GPUs."""
STAND_INS = {"sitecustomize.py": "sitecustomize.py", "sgl_kernel.py": "sgl_kernel/__init__.py"}
"""Files of ``tools/sglang_cpu``, and where Python finds them."""


def packages_of(python: Path) -> Path:
    """Return an environment's directory of packages."""
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(subprocess.run([python, "-c", find], check=True, capture_output=True, text=True).stdout.strip())


def install(directory: Path, vllm: Path) -> None:
    """Make the environment, or complete it. Raises ``CalledProcessError`` if pip fails."""
    python = directory / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    flags = shlex.split(os.environ.get("PIP_FLAGS", ""))
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--no-cache-dir", "--no-deps"]
    subprocess.run([*pip, *flags, *PACKAGES], check=True)
    packages = packages_of(python)
    (packages / "vllm.pth").write_text(f"{packages_of(vllm.absolute() / 'bin' / 'python')}\n", encoding="utf-8")
    for source, target in STAND_INS.items():
        (packages / target).parent.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).parent / "sglang_cpu" / source, packages / target)


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]), Path(sys.argv[2]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: {shlex.join(map(str, error.cmd))} failed")
