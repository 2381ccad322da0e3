"""The estimated cost of a round, before any request."""

from __future__ import annotations

import pytest

from hivemind_exp.config import Config
from swarmctl.run.offload_plan import estimate


@pytest.mark.parametrize(("groups", "size"), [(1, 4), (8, 8), (64, 8)])
def test_estimated_cost_of_a_round_matches_its_tokens(groups: int, size: int) -> None:
    config = Config.model_validate(
        {
            "tasks": ["spell_backward"],
            "game": {"groups": groups, "group_size": size},
            "offload": {"provider": "openai", "model": "gpt-4o-mini"},
        }
    )
    found = estimate(config)
    assert found.usd == pytest.approx(found.prompt_tokens * 0.15e-6 + found.completion_tokens * 0.6e-6, rel=0.01)
    assert found.usd < found.usd_at_most


@pytest.mark.slow
def test_estimate_counts_each_stage_with_its_quotations() -> None:
    def cost(*stages: str) -> float:
        return estimate(
            Config.model_validate(
                {
                    "tasks": ["spell_backward"],
                    "game": {"kind": "study-group"},
                    "offload": {"provider": "openai", "model": "gpt-4o-mini", "stages": list(stages)},
                }
            )
        ).usd_at_most

    assert cost("answer") < cost("critique") < cost("resolve")
    assert cost("answer", "critique", "resolve") == pytest.approx(sum(map(cost, ("answer", "critique", "resolve"))))


def test_estimate_uses_the_teachers_own_limit_and_the_discounts() -> None:
    def at_most(**offload: object) -> float:
        settings = {"provider": "openai", "model": "gpt-6-luna", "reasoning_effort": "none"} | offload
        small = {"max_completion_tokens": 128}
        config = {"tasks": ["spell_backward"], "generation": small, "offload": settings}
        return estimate(Config.model_validate(config)).usd_at_most

    dollars = 64 * 1024 * 0.75e-6  # of 64 completions, at the highest tier
    assert dollars < at_most() < 1.1 * dollars
    assert at_most(max_tokens=128) < at_most() / 6
    assert at_most(reasoning_effort=None) > 2.5 * at_most()
    assert at_most(batch=True) == pytest.approx(at_most() / 2)
    assert at_most(service_tier="flex") == at_most(), "a service may answer a request at its normal price"
