"""What the engines that a node can start differ in: one module each, listed in ``swarmctl.serving.registry``."""

import itertools
import os
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models import smollm2
from hivemind_exp.secrets import without_secrets
from swarmctl.serving.gpus import Place

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Torch's settings, which are meant for the node. With expandable segments, some servers cannot sleep."""


@dataclass(frozen=True, slots=True)
class ServerEngine:
    """How the servers of one engine are started, and what their output means."""

    name: str
    """As in ``offload.serving.engine``; its program usually has this name, too."""
    title: str
    """Its name in prose."""
    arguments: Callable[[Config, int, Place], list[str]]
    """Returns what follows the program, given the port. Those of ``offload.serving.arguments`` come last, so they win.

    Raises ``ConfigurationError``.
    """
    environment: Callable[[Mapping[str, str], Place, bool], dict[str, str]]
    """Returns the server's environment: the given one without keys. The last argument: whether the node trains all
    weights."""
    causes: tuple[tuple[str, str], ...]
    """What it prints when it cannot start (a pattern), and what helps."""
    share_flag: str
    """The flag for its share of the GPU's memory."""
    outside: float
    """The share of the GPU's memory that it takes beside the one of its flag. An allowance."""
    ranks: tuple[int, ...]
    """The ranks for which it keeps room. Empty: any."""
    unknown: tuple[str, str, str] | None = None
    """How it shows that nobody knows whether it sleeps: the path of a JSON object, the name of a text in it, and how
    that begins. None: it always knows."""

    @property
    def install(self) -> str:
        """Return the command that installs it."""
        return f"uv tool install {self.name}"

    def program(self, config: Config) -> list[str]:
        """Return the program of ``offload.serving.command``, with its path. Raises ``ConfigurationError``."""
        first, *rest = shlex.split(config.offload.serving.command)
        path = shutil.which(os.path.expanduser(first))
        if path is None:
            raise ConfigurationError(
                f"offload.serving.command: no program {foreign(first)} on the PATH. {self.title} needs an environment "
                "of its own, because it brings its own torch; if it is installed elsewhere, give its path: "
                f"--serve /PATH/TO/bin/{self.name}",
                next=self.install,
            )
        return [str(Path(path).absolute()), *rest]

    def model(self, config: Config) -> str:
        """Return the model as the engine finds it. Raises ``ConfigurationError`` for the demo's model."""
        name = config.model.name
        if name == "tiny":
            again = f"swarmctl run --model smollm2 --serve {self.name}"
            raise ConfigurationError(f"{self.title} cannot serve the demo's tiny model", next=again)
        if name == smollm2.NAME:
            stored = smollm2.stored(os.environ)
            return smollm2.HUB_ID if stored is None else str(stored)
        return name


def is_open(words: Sequence[str]) -> bool:
    """Whether arguments open a server to other machines."""
    for word, following in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if len(name) > len("--h") and "--host".startswith(name) and (value if equals else following) not in LOOPBACK:
            return True
    return False


def base_environment(before: Mapping[str, str], place: Place, _whole: bool = False) -> dict[str, str]:
    """Return the part of a server's environment that does not depend on the engine."""
    kept = {name: value for name, value in without_secrets(before).items() if name != "PYTHONPATH"}
    if place.turns:
        for name in ALLOCATOR:
            kept.pop(name, None)
    if place.gpu is not None:
        kept |= {"CUDA_VISIBLE_DEVICES": place.gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return kept | {"DO_NOT_TRACK": "1"}
