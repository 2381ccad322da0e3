"""Caps hold at every moment and across restarts."""

from __future__ import annotations

import resource
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind_exp.config import LimitsConfig
from hivemind_exp.errors import DiskFull, LimitReached, NodeError
from hivemind_exp.offload.ledger import BATCHED, Ledger, RequestKey, total_spent
from hivemind_exp.offload.prices import Price, PromptBound, Usage, worst_case
from tests.support.full_disk import mounted_disk

ASK = RequestKey("box", "m", 0, "answer", "q", 1)


def make(path: Path, **limits: object) -> Ledger:
    return Ledger(path, LimitsConfig.model_validate(limits))


def test_reserves_count_until_they_are_settled(tmp_path: Path) -> None:
    ledger = make(tmp_path / "l", usd=1.0)
    first, second = ledger.reserve(ASK, 0.5), ledger.reserve(ASK, 0.5)
    with pytest.raises(LimitReached):
        ledger.reserve(ASK, 0.01)
    ledger.settle(first, Usage(10, 20), 0.1)
    ledger.release(second, "refused")
    assert ledger.spent == pytest.approx(0.1)
    ledger.keep(ledger.reserve(ASK, 0.9), "timed out")
    with pytest.raises(LimitReached, match=r"1\.00 of 1\.00 USD \(offload\.limits\.usd\) is already spent"):
        ledger.check(0.001)


def test_what_is_spent_never_goes_down_and_reserves_are_separate(tmp_path: Path) -> None:
    ledger = make(tmp_path / "l", usd=5.0)
    open_ = [ledger.reserve(ASK, 0.5) for _ in range(3)]
    assert ledger.state() == {"usd_total": 0.0, "usd_reserved": 1.5, "usd_cap": 5.0}
    ledger.settle(open_[0], Usage(10, 20), 0.1)
    assert ledger.state() == {"usd_total": 0.1, "usd_reserved": 1.0, "usd_cap": 5.0}
    ledger.release(open_[1], "refused")
    assert ledger.state() == {"usd_total": 0.1, "usd_reserved": 0.5, "usd_cap": 5.0}
    ledger.keep(open_[2], "timed out")
    assert ledger.state() == {"usd_total": 0.6, "usd_reserved": 0.0, "usd_cap": 5.0}
    with pytest.raises(LimitReached), ledger.transaction():
        [ledger.reserve(ASK, usd, state=BATCHED) for usd in (0.5, 5.0)]
    assert ledger.state() == {"usd_total": 0.6, "usd_reserved": 0.0, "usd_cap": 5.0}
    with ledger.transaction():
        ledger.reserve(ASK, 0.5, state=BATCHED)
    ledger.close()
    assert make(tmp_path / "l", usd=5.0).state() == {"usd_total": 0.6, "usd_reserved": 0.5, "usd_cap": 5.0}


def test_the_suggested_cap_covers_a_whole_round(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "l", LimitsConfig(usd=0.001), round_requests=64)
    with pytest.raises(LimitReached) as refused:
        ledger.check(0.004)
    suggested = float(str(refused.value.next).rpartition(" ")[2])
    assert 64 * 0.004 <= suggested < 2 * 64 * 0.004


def test_requests_in_flight_at_death_count_as_spent(tmp_path: Path) -> None:
    make(tmp_path / "l", usd=1.0).reserve(ASK, 0.7)
    again = make(tmp_path / "l", usd=1.0)
    assert again.spent == pytest.approx(0.7)
    with pytest.raises(LimitReached):
        again.check(0.4)
    assert total_spent(again._db) == pytest.approx(0.7)


def test_daily_cap_is_separate(tmp_path: Path) -> None:
    ledger = make(tmp_path / "l", usd="unlimited", usd_per_day=0.5)
    with pytest.raises(LimitReached, match="usd_per_day"):
        ledger.check(0.6)
    number = ledger.reserve(ASK, 0.5)
    with sqlite3.connect(tmp_path / "l") as db:
        db.execute("UPDATE requests SET t = t - 86400, state='settled', usd=0.5")
    assert number.usd == 0.5
    make(tmp_path / "l", usd="unlimited", usd_per_day=0.5).check(0.5)


def test_full_disk_and_invalid_file_have_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, but long enough to be looked at as one" * 20)
    with pytest.raises(NodeError, match=r"the ledger .* is damaged \(file is not a database\)"):
        make(tmp_path / "text")
    with mounted_disk(tmp_path, "200k") as place:
        ledger = make(place / "l", usd="unlimited")
        with pytest.raises(DiskFull, match="no space left for the ledger"):
            _fill(ledger)


def test_a_file_size_limit_is_named(tmp_path: Path) -> None:
    ledger = make(tmp_path / "l", usd="unlimited")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(DiskFull, match=r"cannot write the ledger .*: the file size limit is reached") as raised:
            _fill(ledger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.next == "ulimit -f unlimited"


def _fill(ledger: Ledger) -> None:
    for _ in range(10_000):
        ledger.reserve(ASK, 0.0)


@pytest.mark.slow
@given(st.lists(st.text(max_size=50), max_size=4), st.integers(1, 8), st.integers(1, 1000))
def test_no_request_costs_more_than_its_reserve(contents: list[str], count: int, longest: int) -> None:
    """A token is at least one byte, and framing takes fewer than 64 tokens per message."""
    price = Price(1e-6, 4e-6)
    prompt = sum(len(content.encode()) + 60 for content in contents)
    assert (
        price.cost(Usage(prompt, count * longest))
        <= worst_case(price, PromptBound.of(contents), count, longest) + 1e-15
    )


def test_free_requests_pass_when_the_cap_is_spent(tmp_path: Path) -> None:
    make(tmp_path / "l", usd=1.0).reserve(ASK, 0.7)
    lower = make(tmp_path / "l", usd=0.5, usd_per_day=0.5)
    lower.reserve(ASK, 0.0)
    with pytest.raises(LimitReached):
        lower.check(1e-9)
