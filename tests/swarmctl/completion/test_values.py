"""Every option and argument with a limited number of values completes."""

from __future__ import annotations

from swarmctl import cli
from tools.completions.tree import Kind, tree
from tools.completions.words import WORDS

FREE = {
    *("N", "K", "T", "SECONDS", "PORT", "TIME"),  # numbers and times
    *("NAME", "NEW", "TEXT", "PROMPT", "URL", "GPU", "NAME=VALUE", "NAME=FILE"),  # what the user makes up
    *("INVITATION", "DIGEST", "WHO", "STEP"),  # what only a node's files or other machines know
}


def test_only_values_that_cannot_be_listed_in_advance_are_not_completed() -> None:
    found = set()
    for command in tree(cli.app, WORDS).walk():
        values = [option.value for option in command.options] + [each.value for each in command.arguments]
        found |= {value.name for value in values if value is not None and value.kind is Kind.NONE}
    assert found == FREE
