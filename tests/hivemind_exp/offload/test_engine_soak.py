"""Send requests to a server that fails one in five: nothing is lost or duplicated, and the accounts match.

``benchmarks/offload_soak.py`` does the same with more requests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.providers import Group
from tests.support.engine_rig import GROUPS
from tests.support.soak import PLACES, check_accounts, check_cap, check_nothing_doubled, check_nothing_lost, soak

pytestmark = pytest.mark.slow

REQUESTS = 600
CAP_USD = 0.25


@pytest.mark.parametrize("group", GROUPS)
def test_soak_loses_and_duplicates_nothing_and_costs_match_the_server(tmp_path: Path, group: Group) -> None:
    done = soak(tmp_path, group, REQUESTS)
    assert len(done.books.chats) > REQUESTS // (PLACES if group == "n" else 1)
    assert 0.1 < sum(done.books.faults().values()) / len(done.books.chats) < 0.35
    assert done.books.outcomes()["abandoned"] == 0
    check_nothing_lost(done)
    check_nothing_doubled(done)
    check_accounts(done)


def test_a_soak_stays_under_the_cap(tmp_path: Path) -> None:
    done = soak(tmp_path, "n", 4 * REQUESTS, usd=CAP_USD)
    total, _ = check_cap(done, CAP_USD)
    assert total > 0.9 * CAP_USD
