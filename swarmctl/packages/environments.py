"""Install an environment of ``verifiers`` when it is used for the first time, into a virtual environment of its own.

uv does it if it is there, because it is faster and keeps one copy of each file; else ``venv`` and pip. Only wheels are
installed, so no package's code runs before its task is loaded.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

from hivemind_exp.config import ENVIRONMENT, TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.environments import LIBRARY, RECORD, Installation, described
from swarmctl.packages.index import new_directory, run_installer
from swarmctl.paths import shown
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import write_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting

DOWNLOAD = "about 80 MB"
_SUPPORTED = f"{LIBRARY}>=0.1.10,<0.5,!=0.2.*,!=0.3.*"
_OLD = f"{LIBRARY}>=0.1.10,<0.2"
_NEW_MODULE = f"{LIBRARY}.v1"
_OLD_IMPORTS = f"import gc; gc.disable(); import {LIBRARY}; getattr({LIBRARY}, 'ToolEnv', None)"
_NEW_IMPORTS = f"""
import contextlib, gc
gc.disable()
import {_NEW_MODULE}
with contextlib.suppress(ImportError):
    import {_NEW_MODULE}.tasksets
"""
"""Also what the library imports when an environment is loaded."""


def install_environments(tasks: Iterable[TaskConfig], prompter: Prompter, retry: str) -> None:
    """Install the environments among ``tasks`` that are not on this machine.

    Asks first. ``retry``: the command that agrees in advance. Raises ``TaskError`` or ``Cancelled``.
    """
    for task in tasks:
        if task.name.startswith(ENVIRONMENT) and not (found := Installation.of(task.name)).versions:
            _agree(found, prompter, retry)
            _install(task.name, found, prompter)


def _agree(found: Installation, prompter: Prompter, retry: str) -> None:
    missing = f"environment {found.package} is not on this machine"
    prompter.confirm(
        f"{missing[:1].upper()}{missing[1:]}. While it loads, its code runs outside the sandbox: it can read your "
        f"files and use the network. Install it and {LIBRARY} from the Python package index ({DOWNLOAD})?",
        TaskError(
            f"{missing}. To install it and {LIBRARY} from the Python package index ({DOWNLOAD}), agree with --yes",
            next=retry,
        ),
        "Nothing was installed.",
    )


def _install(task: str, found: Installation, prompter: Prompter) -> None:
    with new_directory(found.directory.parent) as directory:
        installer = _Installer(found, directory)
        installer.run([*installer.create, str(directory)], prompter.say)
        named = f"{found.package}=={found.wanted}" if found.wanted else found.package
        installer.run([*installer.install, named, _SUPPORTED], prompter.say)
        if _needs_old(found, directory):
            prompter.say(f"{found.package} is written for an older {LIBRARY}, which is installed instead.")
            installer.run([*installer.install, named, _OLD], prompter.say)
        versions = {name: _distribution(directory, name).version for name in (found.package, LIBRARY)}
        summary = str(_distribution(directory, found.package).metadata.json.get("summary", ""))
        with waiting(prompter.say, f"starting {LIBRARY} once"):
            _start(directory, versions[LIBRARY], found)
        with disk_errors(directory):
            if Installation.of(task).versions:
                return  # another command has just installed it
            write_json(directory / RECORD, {"schema": 1, "task": task, "versions": versions, "summary": summary})
            shutil.rmtree(found.directory, ignore_errors=True)  # one without a record, or whose Python is gone
            os.replace(directory, found.directory)
    prompter.say(
        f"Environment {described(versions)} is now in {shown(found.directory)}. Delete that directory to remove it."
    )


class _Installer:
    """uv, or venv with pip, for one virtual environment."""

    def __init__(self, found: Installation, directory: Path) -> None:
        self._found = found
        options = ("--quiet", "--only-binary", ":all:")  # they would list a hundred packages
        uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
        python = str(directory / "bin" / "python")
        if uv is not None:
            # The directory exists already, so that it is deleted if this fails.
            self.create: Sequence[str] = (uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable)
            self.install: Sequence[str] = (uv, "pip", "install", "--python", python, *options)
        else:
            self.create = (sys.executable, "-m", "venv")
            self.install = (python, "-m", "pip", "install", "--disable-pip-version-check", *options)

    def run(self, command: Sequence[str], say: Writer) -> None:
        """Run a step, whose output the user sees if it fails. Raises ``TaskError`` then."""
        if not run_installer(command, f"installing environment {self._found.package}", say):
            raise TaskError(
                f"cannot install environment {self._found.package}; the reason is above", next="swarmctl tasks list"
            )


def _distribution(directory: Path, name: str) -> Distribution:
    """Return an installed package. Raises ``PackageNotFoundError``."""
    libraries = directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for each in Distribution.discover(name=name, path=[str(libraries)]):
        return each
    raise PackageNotFoundError(name)


def _needs_old(found: Installation, directory: Path) -> bool:
    """Whether a package that accepts the new ``verifiers`` uses only the old one: most say no newest version."""
    if _is_old(_distribution(directory, LIBRARY).version):
        return False
    files = [file for file in _distribution(directory, found.package).files or () if file.suffix == ".py"]
    with disk_errors(directory, "read"):
        texts = [Path(str(file.locate())).read_text(encoding="utf-8", errors="replace") for file in files]
    return not any(_NEW_MODULE in text for text in texts) and any("def load_environment" in text for text in texts)


def _start(directory: Path, version: str, found: Installation) -> None:
    """Import ``verifiers`` once, which compiles what it imports: otherwise, the first workers would do it twice."""
    done = subprocess.run(
        [str(directory / "bin" / "python"), "-P", "-s", "-c", _OLD_IMPORTS if _is_old(version) else _NEW_IMPORTS],
        env={"PYTHONUTF8": "1"},  # no keys
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise TaskError(
            f"{LIBRARY} {version}, which environment {found.package} needs, does not start: {foreign(last)}",
            next="swarmctl tasks list",
        )


def _is_old(version: str) -> bool:
    return version.startswith("0.1.")


def environment_lines(tasks: Iterable[TaskConfig]) -> list[str]:
    """Return a line about each environment among the tasks."""
    found = [Installation.of(task.name) for task in tasks if task.name.startswith(ENVIRONMENT)]
    return [
        f"{each.origin} in {shown(each.directory)}"
        if each.versions
        else f"{each.package} is not on this machine; the first run installs it ({DOWNLOAD})"
        for each in found
    ]
