"""What a launched file describes, in the terms that its formats share."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from swarmctl.errors import UsageError


@dataclass(frozen=True, slots=True)
class GpuRequest:
    """The GPU of each node: a model, or any with enough memory."""

    name: str | None = None
    gigabytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the GPU that ``--gpu`` names; None for ``none``. Raises ``UsageError``."""
        if text.lower() == "none":
            return None
        if memory := re.fullmatch(r"([1-9]\d{0,3})\s?GB", text, re.IGNORECASE):
            return cls(gigabytes=int(memory[1]))
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.-]{0,40}", text):
            return cls(name=text)
        raise UsageError(
            f"invalid --gpu: {text!r}. Use a model such as H100, memory such as 24GB, or none",
            next="swarmctl launch --help",
        )


@dataclass(frozen=True, slots=True)
class Machines:
    """Nodes to start elsewhere."""

    name: str
    """The nodes' common name; a number is added to it."""
    count: int
    gpu: GpuRequest | None
    """None: nodes without GPUs."""
    arguments: Sequence[str]
    """Of ``swarmctl run``, without the node's name."""
    variables: Sequence[str] = ()
    """Environment variables with keys. The file names them; their values come from whoever starts it."""
    gpus: int = 1
    """GPUs of each node."""
    installs: Sequence[str] = ()
    """Shell commands that install more than swarmctl."""

    @property
    def label(self) -> str:
        """The name as all programs accept it: lowercase letters, digits and hyphens, a letter first."""
        label = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return label if label[:1].isalpha() else f"swarm-{label}".rstrip("-")

    def command(self, number: str, program: Sequence[str] = ("swarmctl",)) -> str:
        """Return the shell command that starts a node. ``number``: its number, or the variable with it."""
        before = shlex.join([*program, "run", "--node"])
        after = shlex.join([*self.arguments, "--restart", "on-failure", "--plain", "--yes", "--no-input"])
        return f"{before} {shlex.quote(self.name)}-{number} {after}"


INSTALL = (
    "command -v cc >/dev/null || (sudo apt-get update && sudo apt-get install --yes build-essential python3-dev)",
    "command -v uv >/dev/null || python3 -m pip install --user uv || python3 -m pip install --break-system-packages uv",
    'export PATH="$HOME/.local/bin:$PATH"',
    "uv tool install --compile-bytecode --constraints constraints.txt .",
)
"""Shell commands that install swarmctl from a clone of the repository, in the current directory."""
