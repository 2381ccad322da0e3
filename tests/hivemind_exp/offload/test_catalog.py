"""Services' model lists."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hivemind_exp.offload.catalog import ListedModel, chat_models, lacks, missing, read_list
from hivemind_exp.offload.settings import Endpoint
from hivemind_exp.providers import PROVIDERS, Chat


@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b'{"data": [{"id": "a"}, {"id": 5}, "b", {}]}', ["a"]),
        (b'[{"id": "a"}, {"id": "b"}]', ["a", "b"]),
        (b'{"models": [{"id": "a"}]}', ["a"]),
        (
            b'{"data": [{"id": "a b"}, {"id": "c\\u001b[2J"}, {"id": "d\\n  try: x"}, {"id": ""}, {"id": "e "}]}',
            ["a b"],
        ),
        (b'{"data": [{"id": "' + 301 * b"a" + b'"}]}', []),
        (b"<html>", None),
        (b'{"data": "a"}', None),
        (b"[" * 100_000, None),
    ],
)
def test_valid_lists_are_read_and_others_refused(content: bytes, ids: list[str] | None) -> None:
    rows = read_list(content)
    assert (None if rows is None else [row["id"] for row in rows]) == ids


def test_models_are_sorted_by_price_and_others_left_out() -> None:
    chat = PROVIDERS["openai"].chat
    assert chat is not None
    names = ["gpt-4o", "text-embedding-3-small", "gpt-6-luna", "unheard-of", "whisper-1", "gpt-4o-mini"]
    found = chat_models([{"id": name} for name in names], chat)
    assert [each.id for each in found] == ["gpt-6-luna", "gpt-4o-mini", "gpt-4o", "unheard-of"]
    assert (found[0].reasons, found[0].output, found[0].context) == (True, 0.5, 1050000)
    assert found[-1] == ListedModel("unheard-of")


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (
            {"pricing": {"prompt": "0.0000001", "completion": "0.0000005"}, "context_length": 8192},
            ListedModel("m", 0.1, 0.5, None, 8192),
        ),
        ({"pricing": {"input": 0.15, "output": 0.6}}, ListedModel("m", 0.15, 0.6)),
        ({"pricing": {"prompt": "-1", "completion": "-1"}}, ListedModel("m")),
        ({"pricing": "cheap", "context_window": "big"}, ListedModel("m")),
        ({"supported_parameters": ["reasoning"]}, ListedModel("m", reasons=True)),
        ({"capabilities": {"reasoning": False}, "max_model_len": 64}, ListedModel("m", reasons=False, context=64)),
    ],
)
def test_values_from_the_service_are_used(row: dict[str, Any], wanted: ListedModel) -> None:
    assert chat_models([{"id": "m"} | row], Chat()) == [wanted]


def test_prefixes_and_tags_of_model_names_are_ignored() -> None:
    rows = read_list(json.dumps([{"id": "models/gemini-x"}, {"id": "llama:latest"}]).encode())
    assert rows is not None
    assert not lacks(rows, "gemini-x")
    assert not lacks(rows, "models/gemini-x")
    assert not lacks(rows, "llama")
    assert lacks(rows, "gemini-y")
    assert not lacks([], "anything")


def test_a_missing_model_is_explained_on_one_line() -> None:
    chat = PROVIDERS["groq"].chat
    assert chat is not None
    rows = [{"id": name} for name in ("openai/gpt-oss-120b", "x\ny", "openai/gpt-oss-20b")]
    said = missing(Endpoint("groq", "", "llama-3.1-8b-instant", chat, needs_key=True), rows)
    assert said == (
        "groq has no model llama-3.1-8b-instant; it has 3 others, such as openai/gpt-oss-20b (0.075/0.3 USD per "
        'million tokens), openai/gpt-oss-120b (0.15/0.6 USD per million tokens), "x y"'
    )
