"""A node's charter id, which determines its questions. The journal stores everything under this id."""

from hivemind_exp.config import Config, charter_id
from hivemind_exp.node_files import NodeFiles


def node_charter(config: Config, files: NodeFiles) -> str:
    """Return a node's charter id: its swarm's, or the one with which it was created."""
    return config.swarm.charter or files.fixed_charter() or charter_id(config)
