"""Python and the libraries: supported versions, no missing files, one copy of each, all from one environment."""

import csv
import importlib.metadata
import os
import runpy
import shlex
import shutil
import site
import sys
from collections import defaultdict
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from swarmctl.doctor.check import Context, Finding, failed, ok, quoted, warning
from swarmctl.paths import shown
from swarmctl.terminal.command_line import launcher
from swarmctl.terminal.sentences import several

PINS: dict[str, tuple[str, str]] = {
    "base58": (">=2.1", "2.1.1"),
    "cryptography": (">=44", "50.0.2"),
    "datasets": (">=5.0,<6", "5.2.0"),
    "genai-prices": (">=0.2.3", "0.2.3"),
    "hivemind": (">=1.1.12,<1.2", "1.1.12"),
    "httpx2": (">=2.16,<3", "2.16.2"),
    "jinja2": (">=3.1", "3.1.6"),
    "keyring": (">=25.6", "25.7.0"),
    "math-verify": (">=0.9,<0.10", "0.9.0"),
    "msgpack": (">=1.1", "1.2.4"),
    "nvidia-ml-py": (">=12", "13.615.71"),
    "openai": (">=3.54,<4", "3.54.0"),
    "peft": (">=0.21,<0.22", "0.21.2"),
    "psutil": (">=6", "7.2.2"),
    "pydantic": (">=2.12,<3", "2.14.3"),
    "pydantic-settings": (">=2.16,<3", "2.16.3"),
    "pyyaml": (">=6", "6.0.3"),
    "reasoning-gym": ("==0.1.25", "0.1.25"),
    "rich": (">=14", "15.0.0"),
    "safetensors": (">=0.5", "0.8.0"),
    "tomlkit": (">=0.13", "0.15.2"),
    "torch": (">=2.8,<3", "2.13.0"),
    "transformers": (">=5.23,<5.24", "5.23.0"),
    "trl": (">=1.16,<1.17", "1.16.0"),
    "typer": (">=0.27,<0.29", "0.28.0"),
}
"""The libraries that a node needs: the accepted range and the tested version of each.

Repeated from pyproject.toml and constraints.txt, because neither is installed with the package. A test compares them.
"""
DECISIVE = ("torch", "transformers", "trl", "peft", "datasets", "hivemind")
"""Libraries that often change their behavior between minor versions."""
_OLDEST = (3, 11)
_NEWEST_TESTED = (3, 13)
_SHOWN = 4


def install(*packages: str, force: bool = False, build: bool = False, index: str | None = None) -> str:
    """Return the command that installs packages into this program's environment.

    ``force``: also if this version is installed. ``build``: the same, for another build of it, which needs other
    libraries. ``index``: the index that has it; None: the usual one.
    """
    python = shlex.quote(sys.executable)
    named = " ".join(map(shlex.quote, [*packages, *([f"--index-url={index}"] if index else [])]))
    if find_spec("pip") is None and shutil.which("uv"):
        return f"uv pip install --python {python} {'--reinstall ' if force or build else ''}{named}"
    again = "--force-reinstall " if build else "--force-reinstall --no-deps " if force else ""
    return f"{python} -m pip install {again}{named}"


def installed(name: str) -> str | None:
    """Return the version of an installed package, or None."""
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(name)
    return None


def version(_context: Context) -> Finding:
    """Check the version and build of Python."""
    running = sys.version_info[:3]
    text = f"Python {'.'.join(map(str, running))} in {shown(Path(sys.prefix))}"
    if running[:2] < _OLDEST:
        return failed(f"{text}; swarmctl needs 3.11 or newer")
    if sys.maxsize < 2**32:
        return failed(f"{text} is a 32-bit build, but PyTorch needs a 64-bit one")
    if running[:2] > _NEWEST_TESTED:
        return warning(
            f"{text}; tested up to {'.'.join(map(str, _NEWEST_TESTED))}, so some libraries may have no wheel for it"
        )
    return ok(text)


def libraries(_context: Context) -> Finding:
    """Compare the installed versions with the accepted ranges and the tested versions."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    wrong: dict[str, str] = {}
    other: dict[str, str] = {}
    missing = [name for name in PINS if installed(name) is None]
    for name, (accepted, tested) in PINS.items():
        found = Version(installed(name) or tested)
        if not SpecifierSet(accepted).contains(found, prereleases=True):
            wrong[name] = f"{name} {found} (needs {accepted})"
        elif name in DECISIVE and found.release[:2] != Version(tested).release[:2]:
            other[name] = f"{name} {found} (tested {tested})"
    if missing or wrong:
        text = "; ".join([*wrong.values(), *([f"missing: {', '.join(missing)}"] if missing else [])])
        return failed(text, _as_tested(*missing, *wrong))
    if other:
        return warning("supported, but not the tested version: " + ", ".join(other.values()), _as_tested(*other))
    decisive = ", ".join(f"{name} {installed(name)}" for name in ("torch", "transformers", "trl", "hivemind"))
    return ok(f"all {len(PINS)} libraries have supported versions: {decisive}")


def _as_tested(*names: str, force: bool = False) -> str:
    return install(*(f"{name}=={PINS[name][1]}" for name in names), force=force)


def whole(_context: Context) -> Finding:
    """Look for files that an interrupted or mixed installation lost or left behind."""
    lost = {name: lost_files(importlib.metadata.distribution(name)) for name in PINS if installed(name)}
    damaged = {name: number for name, number in lost.items() if number}
    if damaged:
        text = "missing files: " + ", ".join(f"{name} ({count})" for name, count in damaged.items())
        return failed(text, install(*(f"{name}=={installed(name)}" for name in damaged), force=True))
    leftovers = sorted(path for place in _places() for path in Path(place).glob("~*"))
    if leftovers:
        text = f"{several(len(leftovers), 'leftover')} of an interrupted pip install, such as {shown(leftovers[0])}"
        return warning(text, f"rm -r {quoted(leftovers)}")
    return ok("no library files are missing")


def lost_files(distribution: importlib.metadata.Distribution) -> int:
    """Return how many of a distribution's recorded modules and libraries no longer exist."""
    # Parsed here because ``Distribution.files`` builds an object for each of torch's 12,000 files.
    record = distribution.read_text("RECORD")
    base = Path(str(distribution.locate_file("")))
    rows = csv.reader((record or "").splitlines())
    names = (row[0] for row in rows if row and row[0].endswith((".py", ".so", ".dylib", ".json")))
    return sum(not os.path.exists(base / name) for name in names)


def _places() -> list[str]:
    return [entry for entry in dict.fromkeys(sys.path) if entry and os.path.isdir(entry)]


def mixed(context: Context) -> Finding:
    """Look for two copies of one library, and for libraries from outside this environment."""
    from packaging.utils import canonicalize_name

    found: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for distribution in importlib.metadata.distributions(path=_places()):
        name = str(canonicalize_name(distribution.metadata["Name"] or ""))
        if name in PINS:
            found[name].append((distribution.version, Path(str(distribution.locate_file(""))).resolve()))
    twice = {name: sorted(set(copies)) for name, copies in found.items() if len(set(copies)) > 1}
    if twice:
        name, copies = next(iter(twice.items()))
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        where = ", ".join(f"{number} in {shown(place)}" for number, place in copies[:_SHOWN])
        return failed(f"{name}{more} installed more than once: {name} {where}", _as_tested(name, force=True))
    user = Path(site.getusersitepackages()).resolve() if site.ENABLE_USER_SITE else None
    outside = [name for name, copies in found.items() if user is not None and copies[0][1] == user]
    if user is not None and outside and len(outside) < len(found):
        named = ", ".join(outside[:_SHOWN])
        text = f"libraries from two places: {named} from {shown(user)}, others from {shown(Path(sys.prefix))}"
        return warning(text, f"PYTHONNOUSERSITE=1 {launcher()} doctor python")
    if path := context.environment.get("PYTHONPATH"):
        return warning(f"PYTHONPATH={path} takes precedence over the installed libraries", "unset PYTHONPATH")
    active = context.environment.get("VIRTUAL_ENV") or context.environment.get("CONDA_PREFIX")
    if active and Path(active).resolve() != Path(sys.prefix).resolve():
        return warning(
            f"the active environment is {shown(Path(active))}, but swarmctl runs in {shown(Path(sys.prefix))}: "
            "pip would install into the wrong one",
            "deactivate" if "VIRTUAL_ENV" in context.environment else "conda deactivate",
        )
    return ok(f"one copy of each library, all in {shown(Path(sys.prefix))}")


def torch_build() -> tuple[str, str | None, str | None]:
    """Return torch's version and the CUDA and ROCm versions it was built for, without importing torch.

    Raises FileNotFoundError if torch is not installed.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("torch is not installed")
    values = runpy.run_path(str(Path(spec.origin).with_name("version.py")))
    return values.get("__version__") or "unknown", values.get("cuda"), values.get("hip")


def environments(context: Context) -> Finding:
    """Look for the environments of verifiers among the profile's tasks, which have their own virtual environments."""
    from swarmctl.packages.environments import environment_lines

    lines = environment_lines(context.config.tasks)
    if not lines:
        return ok("no task needs a virtual environment")
    return ok(f"{'; '.join(lines)}. While they load, they run as you, outside the sandbox")
