"""Numbers from JSON that others may have written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hivemind_exp.finite_numbers import is_finite
from hivemind_exp.peers.records import read_peers

HUGE = f"1{'0' * 400}"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", HUGE, f"-{HUGE}", '"7"', "null", "true"])
def test_what_no_float_can_hold_is_no_number(text: str) -> None:
    assert not is_finite(json.loads(text))


@pytest.mark.parametrize("text", ["0", "-1", "2.5", "1e308"])
def test_other_numbers_are(text: str) -> None:
    assert is_finite(json.loads(text))


def test_a_record_of_peers_with_a_number_of_hundreds_of_digits_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "peers").write_text(f'{{"schema": 1, "peers": {{"p": {{"standing": {{}}, "offered": {HUGE}}}}}}}')
    assert read_peers(tmp_path / "peers") == {}
