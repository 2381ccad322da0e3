"""A node's name that is almost another's."""

from __future__ import annotations

import pytest

from hivemind_exp.errors import ConfigurationError
from swarmctl.run.mistyped import check_name, check_profile
from swarmctl.settings.options import RunOptions
from swarmctl.terminal.prompter import Prompter
from tests.support.journals import bare_node


@pytest.mark.parametrize(("typed", "meant"), [("smal", "small"), ("smalll", "small"), ("tae-2", "tea-2")])
def test_a_mistyped_name_creates_no_node(typed: str, meant: str) -> None:
    bare_node("small")
    bare_node("tea-2")
    with pytest.raises(ConfigurationError, match=f"unknown node '{typed}'; did you mean {meant}") as caught:
        check_name(RunOptions(node=typed), Prompter(silent=True))
    assert caught.value.next == f"swarmctl run --node {meant}"
    check_name(RunOptions(node=typed), Prompter(yes=True))


@pytest.mark.parametrize(
    "options",
    [
        RunOptions(),
        RunOptions(node="small"),
        RunOptions(node="small-2"),
        RunOptions(node="tea-3"),
        RunOptions(node="maths"),
        RunOptions(node="smal", profile="cpu"),
        RunOptions(node="smal", flags=(("--join", "swarm.join", "swarm1:…"),)),
    ],
)
def test_a_new_node_is_created_without_a_question(options: RunOptions) -> None:
    bare_node("small")
    bare_node("tea-2")
    check_name(options, Prompter(silent=True))


def test_a_mistyped_profile_leads_to_the_same_command_with_the_one_that_exists() -> None:
    flags = (("--rounds", "game.rounds", "3"),)
    typed = RunOptions(profile="dmo", node="mine", flags=flags, assignments=("train.micro_batch=2",), fresh=True)
    with pytest.raises(ConfigurationError, match="unknown profile 'dmo'; did you mean demo") as caught:
        check_profile(typed)
    words = "swarmctl run --profile demo --node mine --set train.micro_batch=2 --rounds 3 --fresh"
    assert caught.value.next == words
    with pytest.raises(ConfigurationError) as caught:
        check_profile(RunOptions(profile="nothing-like-it"))
    assert caught.value.next == "swarmctl profiles list"
    check_profile(RunOptions())
    check_profile(RunOptions(profile="demo"))
