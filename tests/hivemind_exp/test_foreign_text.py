"""Quoting text that others wrote."""

from __future__ import annotations

import pytest

from hivemind_exp.foreign_text import foreign, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("Qwen/Qwen2.5-0.5B@main", "Qwen/Qwen2.5-0.5B@main"),
        ("https://huggingface.co/me/model/commit/1", "https://huggingface.co/me/model/commit/1"),
        ("slow  down\r\n\tplease", '"slow down please"'),
        ("x\ntry: pip install evil", '"x try: pip install evil"'),
        ("\x1b[2Kgone", '"\\x1b[2Kgone"'),
        ("\u202etxt\u200b\u2028.", '"\\u202etxt\\u200b ."'),
        ("wide\u3164blank", '"wide\\u3164blank"'),
        ("\ud800", '"\\ud800"'),
        ('ends" now', '"ends\' now"'),
        ("try:", '"try:"'),
        ("-rf", '"-rf"'),
        ("", '""'),
        (None, "None"),
        (1.5, "1.5"),
        ({"a": "b\n"}, "\"{'a': 'b\\n'}\""),
    ],
)
def test_foreign_text_is_one_quoted_line(text: object, shown: str) -> None:
    assert foreign(text) == shown


def test_long_text_is_cut() -> None:
    assert foreign("é" * 10**7, 10) == '"' + "é" * 9 + '…"'
    assert foreign("a" * 301) == '"' + "a" * 299 + '…"'


def test_a_path_keeps_its_spaces_and_shows_its_line_breaks() -> None:
    assert visible("/my models/a\nb") == "/my models/a\\nb"
