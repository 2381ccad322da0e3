"""What fixes a node's questions. A lone node has a charter of its own, which nobody else needs to see."""

from __future__ import annotations

import hashlib
import json

from hivemind_exp.config import Config


def charter_id(config: Config) -> str:
    """Return SHA-256 (hex) over what the questions follow from, tasks and seed, as canonical JSON."""
    rules = {"tasks": [task.model_dump(mode="json") for task in config.tasks], "seed": config.node.seed}
    return hashlib.sha256(json.dumps(rules, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
