"""Whether metrics can go where ``report.to`` says, found out before a model is built."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from typing import TYPE_CHECKING

from hivemind_exp.errors import ConfigurationError, KeyProblem

if TYPE_CHECKING:  # the trainer imports this before it handles signals
    from hivemind_exp.config import Config


def check_reports(config: Config) -> None:
    """Raise ``ConfigurationError`` where a library is missing: they are not among swarmctl's own."""
    for name in config.report.to:
        if importlib.util.find_spec(name) is None:
            raise ConfigurationError(
                f"report.to names {name}, which is not installed",
                next=f"{shlex.quote(sys.executable)} -m pip install {name}",
            )


def explain_refusal(error: Exception) -> KeyProblem | None:
    """Return what an exception of Weights & Biases means if it is about the key; None for any other."""
    kind = type(error)
    without = kind.__name__ == "UsageError" and "API key" in str(error)
    if not kind.__module__.startswith("wandb.") or not (without or kind.__name__ == "AuthenticationError"):
        return None
    return KeyProblem(
        "report.to names wandb, and Weights & Biases has no valid key (WANDB_MODE=offline needs none)",
        next="swarmctl keys set wandb",
    )
