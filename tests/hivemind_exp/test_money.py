"""Amounts of money as text."""

from __future__ import annotations

import pytest

from hivemind_exp.money import dollars


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0.0, "0 USD"),
        (2, "2.00 USD"),
        (2.5, "2.50 USD"),
        (1.239, "1.24 USD"),
        (0.999, "1.00 USD"),
        (1234.5, "1,234.50 USD"),
        (-0.05, "-0.05 USD"),
        (0.1, "0.10 USD"),
        (0.1234, "0.12 USD"),
        (0.05, "0.05 USD"),
        (0.0999, "0.10 USD"),
        (0.01, "0.01 USD"),
        (0.0123, "0.012 USD"),
        (0.00999, "0.01 USD"),
        (0.003, "0.003 USD"),
        (0.0000041, "0.0000041 USD"),
        (0.0000000049, "0.000000005 USD"),
        (1e-9, "0.000000001 USD"),
        (1e-12, "under 0.000000001 USD"),
    ],
)
def test_dollars_have_cents_or_two_significant_digits(usd: float, text: str) -> None:
    assert dollars(usd) == text
