"""The estimated cost of a round, before any request."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.config import Config, LimitsConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.prices import Usage
from hivemind_exp.run_record import RunRecord, write_record
from swarmctl.run import estimate as estimates
from swarmctl.run import offload_plan
from swarmctl.run.estimate import Estimate
from swarmctl.run.offload_plan import Plan, banner

NEW = NodeFiles(Path("/nonexistent"))


def plan(config: Config, files: NodeFiles) -> Plan:
    found = offload_plan.plan(config, files)
    assert found is not None
    return found


def estimate(config: Config) -> Estimate:
    return estimates.estimate(config, NEW)


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


@pytest.mark.slow
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


SMALL: dict[str, dict[str, object]] = {
    "game": {"groups": 2, "group_size": 4, "rounds": 12},
    "generation": {"max_completion_tokens": 16},
    "offload": {"provider": "mybox", "rounds": "0-7", "prices": {"mybox": {"input": 1.0, "output": 4.0}}},
    "providers": {"mybox": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}},
}


def small(**limits: object) -> Config:
    offload = SMALL["offload"] | {"limits": limits}
    return Config.model_validate({"tasks": ["spell_backward"], **SMALL, "offload": offload})


def test_a_teachers_generous_limit_is_not_its_usual_length() -> None:
    found = estimate(small())
    assert found.completion_tokens == 8 * 16
    assert found.usd_at_most > 8 * 1024 * 4e-6


def used(files: NodeFiles, model: str, rounds: int, usage: Usage) -> None:
    ledger = Ledger(files.ledger, LimitsConfig())
    for round_ in range(-1, rounds):  # the test request does not count
        key = RequestKey("mybox", model, round_, "answer", "q", 1)
        ledger.settle(ledger.reserve(key, 0.01), usage if round_ >= 0 else Usage(1, 9000), 0.002)
    ledger.keep(ledger.reserve(key, 0.01), "timed out")
    ledger.close()


@pytest.mark.slow
def test_a_node_that_has_offloaded_is_estimated_from_its_own_requests(tmp_path: Path) -> None:
    files, config = NodeFiles(tmp_path), small()
    used(files, "other", 5, Usage(1, 1))
    assert estimates.estimate(config, files) == estimate(config)
    used(files, "m", 3, Usage(100, 20, cached=40))
    found = estimates.estimate(config, files)
    assert (found.measured_rounds, found.prompt_tokens, found.completion_tokens) == (3, 800, 160)
    assert found.usd == pytest.approx(8 * (100e-6 + 20 * 4e-6))
    assert found.usd_at_most == estimate(config).usd_at_most
    text = banner(plan(config, files))[2]
    assert "about 960 tokens, about 0.0014 USD (measured over 3 rounds, at most 0.03" in text
    assert "All 8 rounds left: about 0.012 USD (at most 0.2" in text
    write_record(files.run, RunRecord(begun=True, stop={"event": "stop", "reason": "limit", "round": 5}))
    assert "All 3 rounds left: " in banner(plan(config, files))[2]
    with closing(Journal(files.journal, "")) as journal:  # the run stopped while it repeated steps after a crash
        for round_ in range(6):
            journal.commit(Manifest(round_, round_, 0, 1, ()))
    assert "All 2 rounds left: " in banner(plan(config, files))[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"usd": 0.0002}, " The cap does not cover a round; 0.036 USD (--max-usd) would."),
        ({"usd": 0.01}, " The cap may not cover a round; 0.036 USD (--max-usd) would."),
        ({"usd_per_day": 0.01}, " The daily cap may not cover a round; 0.036 USD (offload.limits.usd_per_day) would."),
        ({"usd": 1.0}, ""),
    ],
)
def test_a_cap_below_the_most_that_a_round_can_cost_is_reported(limits: dict[str, object], text: str) -> None:
    assert banner(plan(small(**limits), NEW))[2].partition("over all runs.")[2] == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "on_limit", "says"),
    [
        (
            500,
            "stop",
            r" The cap ends the run after about (\d+) rounds; ([\d.]+) USD \(--max-usd\) would cover all.*",
        ),
        (
            500,
            "local",
            r" The cap stops paid requests after about (\d+) rounds; ([\d.]+) USD .* would cover all.*",
        ),
        (0, "stop", r" The cap ends the run after about (\d+) rounds\."),
        (20, "stop", ""),
    ],
)
def test_a_cap_that_ends_the_run_early_is_reported(rounds: int, on_limit: str, says: str) -> None:
    offload = SMALL["offload"] | {"limits": {"usd": 0.05}, "rounds": "*", "on_limit": on_limit}
    game = SMALL["game"] | {"rounds": rounds}
    config = Config.model_validate({"tasks": ["spell_backward"], **SMALL, "game": game, "offload": offload})
    found = re.fullmatch(says, banner(plan(config, NEW))[2].partition("over all runs.")[2])
    assert found is not None
    usd = estimate(config).usd
    if says:
        assert int(found[1]) == int(0.05 / usd)
    if rounds == 500:
        assert usd * rounds <= float(found[2]) < 1.2 * usd * rounds


@pytest.mark.slow
def test_hints_cost_at_most_one_short_request_per_question() -> None:
    settings = {"tasks": ["spell_backward"], "game": {"groups": 4, "rounds": 10}}

    def planned(**offload: object) -> Plan:
        asked = {"provider": "openai", "model": "gpt-4o-mini", **offload}
        return plan(Config.model_validate({**settings, "offload": asked}), NEW)

    hints, answers = planned(teach="hints"), planned(when="failed")
    (hinting,) = hints.uses
    assert hinting.estimate.requests == 4
    assert hinting.estimate.completion_tokens <= 4 * 96
    assert hints.usd_at_most < answers.usd_at_most
    first, second, third, *advice = banner(hints)
    assert first.startswith(
        "openai:gpt-4o-mini writes a hint for each question to which this machine's answers are all wrong"
    )
    assert second.startswith("Questions go to api.openai.com")
    assert second.endswith("While openai is unavailable, this node trains without hints.")
    assert third.startswith("Per round: up to 4 requests")
    assert advice == []
    assert banner(planned(teach="hints", fallback=["groq", "local"]))[1].endswith(
        "groq writes them, or this node trains without hints."
    )
    assert banner(planned(teach="hints", fallback=[]))[1].endswith("the node waits.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("0-7", "in rounds 1–8."),
        ("0-9,15,20-", "in rounds 1–10, 16 and 21 and later."),
        ("every 3", "in round 1 and every 3 rounds after it."),
        ("*", "each group."),
    ],
)
def test_the_plan_counts_rounds_from_1(expression: str, says: str) -> None:
    offload = SMALL["offload"] | {"rounds": expression}
    config = Config.model_validate({"tasks": ["spell_backward"], **SMALL, "offload": offload})
    assert says in banner(plan(config, NEW))[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("offload", "game", "advised"),
    [
        ({}, {"groups": 4, "group_size": 8}, True),
        ({}, {"groups": 4, "group_size": 2}, False),
        ({"share": 0.5}, {}, False),
        ({"when": "failed"}, {}, False),
        ({"kind": "relay", "fallback": []}, {}, False),
    ],
)
def test_a_teacher_of_whole_groups_is_advised_to_answer_more_questions(
    offload: dict[str, object], game: dict[str, object], advised: bool
) -> None:
    asked = {"provider": "openai", "model": "gpt-4o-mini", **offload}
    config = Config.model_validate({"tasks": ["spell_backward"], "game": game, "offload": asked})
    found = [line for line in banner(plan(config, NEW)) if "at most 2 are learned from" in line]
    assert bool(found) == advised
    assert not advised or found[0].endswith("--set game.group_size=2 --set game.groups=16.")


@pytest.mark.slow
def test_scores_cost_the_tokens_of_prompts_and_completions() -> None:
    def distilled(longest: int) -> Config:
        return Config.model_validate(
            {
                "tasks": ["spell_backward"],
                "game": {"groups": 4, "group_size": 8, "rounds": 10},
                "generation": {"max_completion_tokens": longest},
                "offload": {
                    "provider": "box",
                    "teach": "distillation",
                    "prices": {"box": {"input": 1.0, "output": 2.0}},
                },
                "providers": {"box": {"base_url": "https://box/v1", "model": "m"}},
            }
        )

    short, long = estimate(distilled(64)), estimate(distilled(1064))
    assert (short.requests, short.completion_tokens) == (32, 32)
    assert long.prompt_tokens - short.prompt_tokens == 32 * 500  # completions of half the limit
    assert long.usd_at_most - short.usd_at_most == pytest.approx(32 * 1000 * 1e-6)
    assert short.usd == pytest.approx((short.prompt_tokens + 2 * short.completion_tokens) * 1e-6)
    told = " ".join(banner(plan(distilled(64), NEW)))
    assert told.startswith("box:m scores this machine's completions, token by token. Used as distillation: GRPO")
    assert "While box is unavailable, this machine learns without it." in told
    assert "at most 2 are learned from" not in told


@pytest.mark.slow
def test_a_plan_to_generate_and_to_grade_states_both_and_their_sum() -> None:
    offload = SMALL["offload"] | {"share": 0.5, "prices": {"mybox": PRICE, "grader": PRICE}, "limits": {"usd": 2.0}}
    providers = SMALL["providers"] | {"grader": {"base_url": "http://127.0.0.1:8/v1", "model": "g"}}
    tables = {**SMALL, "offload": offload, "providers": providers, "judge": {"provider": "grader"}}
    found = plan(Config.model_validate({"tasks": ["spell_backward"], **tables}), NEW)
    generating, grading = found.uses
    assert (generating.estimate.requests, grading.estimate.requests) == (4, 8)  # rounds without the API grade all
    assert found.usd == pytest.approx(generating.estimate.usd + grading.estimate.usd)
    assert [each.name for each in found.paid] == ["mybox", "grader"]
    labels = [label for label, _ in offload_plan.labelled(found)]
    assert labels == ["offload", "prompts", "judge", "prompts", "cost"]
    offloading, prompts, judging, to_judge, money = banner(found)
    assert offloading.startswith("Offloading to mybox:m: it generates 50 % of each group, in rounds 1–8.")
    assert "Prompts go to 127.0.0.1:9" in prompts
    assert prompts.endswith("While mybox is unavailable, this machine generates.")
    assert judging == "grader:g grades each of this node's completions, for a reward of up to 0.2."
    assert to_judge == "Questions and completions go to 127.0.0.1:8. While grader is unavailable, the node waits."
    assert re.match(
        r"Per round: 4 requests, .* USD \(at most .*\), .*, to generate; 8 requests, .* USD \(at most .*\), .*, to "
        r"grade\. Together about [\d.]+ USD \(at most [\d.]+ USD\)\. All 12 rounds left: about [\d.]+ USD",
        money,
    )
    shown = float(money.partition("Together about ")[2].partition(" ")[0])
    assert shown == pytest.approx(found.usd, rel=0.1)
    left = float(money.partition("rounds left: about ")[2].partition(" ")[0])
    assert left == pytest.approx(8 * generating.estimate.usd + 12 * grading.estimate.usd, rel=0.1)
    assert [found.as_json(use)["provider"] for use in found.uses] == ["mybox", "grader"]


PRICE = {"input": 1.0, "output": 4.0}
