"""What fixes a node's questions: the swarm's charter, or one of its own, which nobody else needs to see."""

from __future__ import annotations

import hashlib
import json

from hivemind_exp.config import Config


def charter_id(config: Config) -> str:
    """Return the id of the node's swarm. Of a lone node: SHA-256 (hex) over what its questions follow from, tasks and
    seed, as canonical JSON."""
    if config.swarm.charter is not None:
        return config.swarm.charter
    rules = {"tasks": [task.model_dump(mode="json") for task in config.tasks], "seed": config.node.seed}
    return hashlib.sha256(json.dumps(rules, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
