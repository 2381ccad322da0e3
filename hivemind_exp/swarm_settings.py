"""The settings of a node's swarm: the table ``[swarm]`` of a profile."""

from typing import Annotated

from pydantic import Field

from hivemind_exp.settings_table import NotNegative, Section


class SwarmConfig(Section):
    """The swarm that the node belongs to, and how peers reach the node. Without ``join``, the node trains alone."""

    join: Annotated[str, Field(pattern=r"^(swarm1:[0-9a-f]{64}(@[A-Za-z0-9/._:-]+(,[A-Za-z0-9/._:-]+)*)?)?$")] = ""
    """Invitation to a swarm: swarm1:HASH@ADDRESS,…. The swarm's charter fixes the tasks and the game. Empty: the
    node trains alone."""
    external: NotNegative | None = None
    """J: groups from peers that each step of the game "sampling" learns from. Unset: as many as game.groups."""
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Port to listen on. 0: choose a free one at the first start and keep it."""
    announce: list[str] = []
    """Addresses at which peers reach this node, such as /ip4/203.0.113.7/tcp/4001. Empty: this machine's addresses."""
    loopback: bool = False
    """Accept connections from this machine only."""
    relay: bool = True
    """Let peers with a public address forward connections to nodes that cannot be reached directly."""

    @property
    def charter(self) -> str | None:
        """The swarm's id: SHA-256 (hex) of its charter. None: no swarm."""
        return self.join.removeprefix("swarm1:").partition("@")[0] or None
