"""Install this checkout into a virtual environment: ``python tools/install.py .venv``.

Only the standard library is used: this runs before anything is installed. uv is used if it is on the PATH, else pip. A
Linux machine without an NVIDIA GPU gets the CPU build of torch if an index offers one, which saves about 2.5 GB.

The hash of every package is checked (``requirements/``), except that of the CPU build of torch: PyTorch publishes it at
an index of its own. Packages that are published as source only are built with a setuptools whose hash was checked.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import queue
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
HASHED = ROOT / "requirements"
FAILED = 1
CANNOT_START = 3
INTERRUPTED = 130
_WSL_DRIVER = Path("/usr/lib/wsl/lib/nvidia-smi")
_DRIVER_FILES = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"), _WSL_DRIVER)
_STEP = re.compile(r"\s*(?:Collecting|Downloading|Building|Preparing|Installing)\s.*")
_LARGE = re.compile(r"\s*Downloading .*\((?:\d\d+(?:\.\d+)? MB|.* GB)\)")
_BUILD = re.compile(r"\s*(?:Preparing metadata|Building (?:editable|wheel) for (\S+)) \(pyproject\.toml\).*")
_WHEEL = re.compile(r"(Downloading [^\s-]+-[^\s-]+)-\S+\.whl")
"""pip's line about a wheel, whose name without the tags says enough and leaves room for the size."""
_UNPACKING = "Installing collected packages:"
"""How pip's longest line begins. It lists all packages, and for minutes nothing follows it."""
_LINES_OF_A_FAILURE = 40
_BEGAN = time.monotonic()
_UV_CPU_INDEX = ("--torch-backend", "cpu")
"""uv knows where PyTorch publishes its CPU builds; pip needs an index in ``PIP_FLAGS``."""
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def has_nvidia_gpu() -> bool:
    """Return whether an NVIDIA driver is installed."""
    return shutil.which("nvidia-smi") is not None or any(file.exists() for file in _DRIVER_FILES)


def pinned_torch() -> str:
    """Return the torch version in ``constraints.txt``."""
    match = re.search(r"^torch==([\w.]+)", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert match, "constraints.txt pins torch"
    return match[1]


class Installer:
    """uv or pip, installing into one virtual environment.

    Parameters
    ----------
    venv
        Directory of the virtual environment.
    uv
        Path of uv, or None to use pip.
    flags
        Further options of ``uv pip install`` or ``pip install``, such as an index.
    """

    def __init__(self, venv: Path, uv: str | None, flags: Sequence[str]) -> None:
        self.venv = venv
        self.uv = uv
        self.python = venv / "bin" / "python"
        pip = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check"]
        with_uv = [str(uv), "pip", "install", "--python", str(self.python)]
        self._install = [*(with_uv if uv else pip), *flags]

    @property
    def name(self) -> str:
        """``uv`` or ``pip``."""
        return "uv" if self.uv else "pip"

    def create_venv(self) -> bool:
        """Create the virtual environment, with pip, unless it exists; return False if that fails.

        Python has a copy of pip, so this needs no index. On Debian, that copy is another package; if it is missing, uv
        installs pip.
        """
        if self.python.exists():
            return True
        commands = [[sys.executable, "-m", "venv", str(self.venv)]]
        if self.uv and importlib.util.find_spec("ensurepip") is None:
            empty = [self.uv, "venv", "--quiet", "--python", sys.executable, str(self.venv)]
            commands = [empty, [*self._install, "--quiet", "pip"]]
        doing = f"Creating a virtual environment in {self.venv.name}"
        created = False
        try:
            created = all(run_with_progress(command, doing) == 0 for command in commands)
        finally:
            if not created:
                shutil.rmtree(self.venv, ignore_errors=True)
        return created

    def cpu_build(self) -> list[str] | None:
        """Return the arguments that select the CPU build of torch; None if no reachable index offers it."""
        torch = f"torch=={pinned_torch()}+cpu"
        choices = [[torch], [*_UV_CPU_INDEX, torch]] if self.uv else [[torch]]
        return next((choice for choice in choices if self._offered(choice)), None)

    def _offered(self, requirement: Sequence[str]) -> bool:
        command = [*self._install, "--dry-run", "--no-deps", "--quiet", *requirement]
        return run_with_progress(command, "Looking for torch without CUDA", may_fail=True) == 0

    def install(self, extras: Sequence[str], torch: Sequence[str], *, editable: bool) -> int:
        """Install the checkout and exactly the packages in ``requirements/``; return the installer's exit code.

        ``torch``: arguments that select its CPU build; empty for the default build.
        """
        project = [f"{ROOT}[{','.join(extras)}]" if extras else str(ROOT)]
        if editable:
            # Type checkers cannot follow the import hooks that setuptools uses for editable installs by default.
            project = ["--config-settings", "editable_mode=compat", "--editable", *project]
        steps = [
            hashed("build"),
            torch or hashed("torch"),
            hashed("base", *(["extras"] if extras else [])),
            ["--no-build-isolation", *project],
        ]
        code = next((code for step in steps if (code := self._run([*self._install, "--no-deps", *step]))), 0)
        if code == 0 and self.uv:
            self._compile()
        return code

    def _compile(self) -> None:
        """Compile what uv installed, as pip does by default.

        Task workers may write nothing, so they would compile their libraries at each start. uv's ``--compile-bytecode``
        shows no progress and takes minutes. Files that do not compile, such as templates, are left as they are.
        """
        directories = [str(path) for path in self.venv.glob("lib/python*/site-packages")]
        command = [str(self.python), "-m", "compileall", "-q", "-j", "0", *directories]
        run_with_progress(command, "Compiling the installed packages", may_fail=True)

    def _run(self, command: Sequence[str]) -> int:
        if self.uv:
            return subprocess.run(command, check=False).returncode
        return run_with_progress(command, "Starting pip")


def hashed(*names: str) -> list[str]:
    """Return the arguments that install the packages in files of ``requirements/``, after checking their hashes.

    They are built, where that is needed, with what is installed: an isolated build would fetch build tools unchecked.
    """
    files = [word for name in names for word in ("--requirement", str(HASHED / f"{name}.txt"))]
    return ["--require-hashes", "--no-build-isolation", *files]


def run_with_progress(command: Sequence[str], doing: str, *, may_fail: bool = False) -> int:
    """Run a program that is silent or prints hundreds of lines, and show its work and its time on one line.

    Without a terminal, only ``doing``, large downloads and the number of packages are printed. If the program fails,
    the end of its output is printed to stderr, unless it ``may_fail``. Returns its exit code.
    """
    began = time.monotonic()
    _show(doing, began)
    printed: deque[str] = deque(maxlen=_LINES_OF_A_FAILURE)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        while True:
            try:
                line = lines.get(timeout=1)
            except queue.Empty:
                line = ""
            if line is None:
                break
            if line:
                printed.append(line)
                doing = _step(line) or doing
            if sys.stdout.isatty() or _LARGE.search(line) or line.startswith(_UNPACKING):
                _show(doing, began)
    if sys.stdout.isatty():
        print("\r\x1b[K", end="", flush=True)
    if process.returncode != 0 and not may_fail:
        print("".join(printed), end="", file=sys.stderr)
    return process.returncode


def _read(stream: TextIO, lines: queue.SimpleQueue[str | None]) -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def say(text: str) -> None:
    """Print a sentence, wrapped between words on a terminal."""
    wide = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else len(text)
    print(textwrap.fill(text, max(20, wide), break_long_words=False, break_on_hyphens=False), flush=True)


def _show(doing: str, began: float) -> None:
    """Show what a program does: on a terminal in place of what was shown before, with the time since it ``began``."""
    if not sys.stdout.isatty():
        print(doing, flush=True)
        return
    elapsed = f"; {_elapsed(began)} so far"
    room = max(0, shutil.get_terminal_size().columns - len(elapsed) - 1)
    print(f"\r\x1b[K{doing[:room]}{elapsed}", end="", flush=True)


def _elapsed(began: float) -> str:
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _step(line: str) -> str | None:
    """Return what pip is doing according to one of its lines; None if the line does not tell."""
    if line.startswith(_UNPACKING):
        number = line.count(",") + 1
        return f"Installing {number} {'package' if number == 1 else 'packages'}"
    if (build := _BUILD.match(line)) is not None:
        return f"Building {build[1] or 'packages'}"
    match = _STEP.match(line)
    return _WHEEL.sub(r"\1", " ".join(match[0].split())) if match else None


def announce(installer: Installer, venv: str, wants_cpu: bool, torch: Sequence[str]) -> None:
    """Print what is installed, how large the download is, and how to make it smaller."""
    cuda = platform.system() == "Linux" and not torch
    size = "about 3 GB to download, most of it torch with CUDA" if cuda else "about 0.5 GB to download"
    say(f"Installing into {venv} with {installer.name}: {size}.")
    if cuda and wants_cpu:
        say("No NVIDIA GPU was found, but no reachable package index offers torch without CUDA.")
        if installer.uv:
            say(f"uv looked in {_CPU_INDEX}. To use a mirror or a directory: make run PIP_FLAGS='--find-links …'")
        else:
            say(f"For 0.5 GB: make run PIP_FLAGS='--extra-index-url {_CPU_INDEX}'")


_FOR_UV = {
    "PIP_INDEX_URL": (("UV_DEFAULT_INDEX", "UV_INDEX_URL"), " "),
    "PIP_EXTRA_INDEX_URL": (("UV_INDEX", "UV_EXTRA_INDEX_URL"), " "),
    "PIP_FIND_LINKS": (("UV_FIND_LINKS",), ","),
}
"""pip's variables. For each, uv's names for the same, the newest first, and what separates several values there."""


def for_uv(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which uv uses the indexes that are set for pip. Variables of uv's own go first."""
    found = {}
    for name, (names, separator) in _FOR_UV.items():
        places = environment.get(name, "").split()
        if places and not any(each in environment for each in names):
            found[names[0]] = separator.join(places)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Create the environment and install; return the exit code. Ctrl-C ends it without a traceback."""
    # As pip does, uv trusts the certificates that the system trusts, such as those of a company's proxy.
    os.environ.setdefault("UV_SYSTEM_CERTS", "1")
    os.environ.update(for_uv(os.environ))
    try:
        return _main(arguments)
    except KeyboardInterrupt:
        print("\nCancelled. To continue the installation: make run", file=sys.stderr)
        return INTERRUPTED


def _main(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("venv", help="directory of the virtual environment")
    parser.add_argument("--extra", action="append", default=[], help="optional dependencies, such as dev")
    parser.add_argument("--torch", choices=("auto", "cpu", "default"), default="auto", help="which build of torch")
    parser.add_argument("--no-editable", action="store_true", help="copy the code into the environment")
    options = parser.parse_args(arguments)

    flags = shlex.split(os.environ.get("PIP_FLAGS", ""))
    installer = Installer(Path(options.venv).absolute(), shutil.which("uv"), flags)
    if not installer.create_venv():
        print(f"error: cannot create a virtual environment in {options.venv}", file=sys.stderr)
        if not installer.uv:
            print("  try: apt-get install python3-venv", file=sys.stderr)
        return CANNOT_START
    wants_cpu = options.torch == "cpu" or (
        options.torch == "auto" and platform.system() == "Linux" and not has_nvidia_gpu()
    )
    torch = (installer.cpu_build() if wants_cpu else None) or []
    announce(installer, options.venv, wants_cpu, torch)
    if installer.install(options.extra, torch, editable=not options.no_editable) != 0:
        print(f"error: {installer.name} could not install swarmctl; its message is above", file=sys.stderr)
        print("  try: make run", file=sys.stderr)
        return FAILED
    say(f"Installed into {options.venv} in {_elapsed(_BEGAN)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
