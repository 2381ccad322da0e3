"""Asking a swarm for its charter before there is a node: with the key that the node will have, so that peers meet no
stranger who is gone a moment later."""

from contextlib import closing
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.events import discard
from hivemind_exp.swarm.identity import Identity
from hivemind_exp.swarm.invitation import parse
from hivemind_exp.swarm.node import SwarmNode

PATIENCE_S = 30.0
"""How long somebody may take to answer."""


def fetch_charter(config: Config, key: Path, directory: Path) -> bytes:
    """Return the signed charter that ``swarm.join`` stands for, from whoever of its addresses answers.

    Args:
        key: file with the identity that asks.
        directory: for what a node remembers of a swarm, until this is over.

    Raises:
        SwarmError: nobody gave it.
        IdentityProblem: ``key`` cannot be used.
    """
    invitation = parse(config.swarm.join)
    node = SwarmNode(
        Identity.load(key),
        invitation.charter,
        key=key,
        directory=directory,
        settings=config.swarm.model_copy(update={"port": 0, "announce": [], "relay": False}),
        invitation=invitation.addresses,
        emit=discard,
    )
    with closing(node):
        node.start()
        return node.fetch_charter(PATIENCE_S)
