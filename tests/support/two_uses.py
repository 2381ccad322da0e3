"""A node's API side with two providers: one generates, the other grades. Without a trainer."""

from __future__ import annotations

from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.offload.judge import STAGE, judge_messages
from hivemind_exp.rollouts.types import CompletionRequest
from tests.support.engine_rig import PRICE_IN, PRICE_OUT

GRADE_IN, GRADE_OUT = 5.0, 20.0
"""The judge's price, in dollars per million tokens."""


def configure_both(generator_url: str, judge_url: str, *, needs_key: bool = False, **offload: Any) -> Config:
    """Return the configuration of a node whose completions come in part from ``box``, and are graded by ``grader``."""
    about = {"model": "test-model", "needs_key": needs_key}
    return Config.model_validate(
        {
            "node": {"name": "hosted"},
            "tasks": ["spell_backward"],
            "generation": {"max_completion_tokens": 64},
            "offload": {
                "provider": "box",
                "share": 0.5,
                "fallback": [],
                "prices": {
                    "box": {"input": PRICE_IN, "output": PRICE_OUT},
                    "grader": {"input": GRADE_IN, "output": GRADE_OUT},
                },
                "limits": {"usd": "unlimited"},
                **offload,
            },
            "judge": {"provider": "grader"},
            "providers": {
                "box": {"base_url": generator_url, "group": "n", **about},
                "grader": {"base_url": judge_url, **about},
            },
        }
    )


def grade(number: int, round_: int = 0) -> CompletionRequest:
    """Return the request for a grade of a completion."""
    messages = judge_messages("Is it brief?", "q", f"completion {number}", "mark")
    return CompletionRequest(round_, STAGE, f"grade {number}", messages, (0,), version=0)
