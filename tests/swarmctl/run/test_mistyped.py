"""A node's name that is almost another's."""

from __future__ import annotations

import pytest

from hivemind_exp.errors import ConfigurationError
from swarmctl.run.mistyped import check_name
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
