"""Tools as text: their descriptions, the model's calls, and the results."""

from __future__ import annotations

import pytest

from hivemind_exp.tasks.families.tool_text import as_turns, read_calls, with_tools

TOOL = {"name": "add", "description": "Add.", "parameters": {"type": "object"}, "strict": None}
ADD = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'


def test_tools_are_described_in_the_system_turn() -> None:
    asked = {"role": "user", "content": "Q"}
    added = with_tools([asked], [TOOL])
    assert [message["role"] for message in added] == ["system", "user"]
    assert '{"name": "add", "description": "Add.", "parameters": {"type": "object"}}' in added[0]["content"]
    (system, _) = with_tools([{"role": "system", "content": "Be brief."}, asked], [TOOL])
    assert system["content"].startswith("Be brief.\n\nYou can use tools.")
    assert with_tools([asked], []) == [asked]


@pytest.mark.parametrize(
    ("text", "before", "calls"),
    [
        (f"Let me see. {ADD}", "Let me see.", [("add", '{"a": 1}')]),
        (f"{ADD}\n{ADD}", "", [("add", '{"a": 1}')] * 2),
        ('<tool_call>{"name": "now"}</tool_call>', "", [("now", "{}")]),
        ('<tool_call>{"name": "add", "arg</tool_call>', None, []),
        ('<tool_call>{"name": 3, "arguments": {}}</tool_call>', None, []),
        ('<tool_call>{"name": "add", "arguments": 3}</tool_call>', None, []),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", None, []),
        ('<tool_call>{"name": "add"}', None, []),
        ("7", None, []),
    ],
)
def test_calls_are_read(text: str, before: str | None, calls: list[tuple[str, str]]) -> None:
    assert read_calls(text) == (text if before is None else before, calls)


def test_reading_calls_takes_linear_time() -> None:
    text = "<tool_call>" * 20_000
    assert read_calls(text) == (text, [])


def test_results_in_a_row_are_one_turn() -> None:
    given = [("tool", "1"), ("tool", "2"), ("user", "Well?"), ("tool", "3")]
    assert list(as_turns(given)) == [
        {"role": "user", "content": "<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response>"},
        {"role": "user", "content": "Well?"},
        {"role": "user", "content": "<tool_response>\n3\n</tool_response>"},
    ]
