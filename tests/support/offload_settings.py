"""A configuration with ``[offload]`` settings."""

from __future__ import annotations

from typing import Any

from hivemind_exp.config import Config


def config(
    provider: str = "openai", *, mybox: Any = None, luffy: bool = False, generation: Any = None, **offload: Any
) -> Config:
    """Return a configuration that offloads to ``provider``. ``mybox``: changes to a server of one's own."""
    own = {"mybox": {"base_url": "http://box/v1", "model": "m"} | (mybox or {})}
    train = {"teacher_loss": "luffy" if luffy else "gated"}
    sections = {"providers": own, "train": train, "generation": generation or {}}
    return Config.model_validate({"offload": {"provider": provider} | offload, **sections})
