"""The engine against a real server, `transformers serve`: it treats any `n` as 1 and rejects unknown parameters."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.offload.prices import Price
from hivemind_exp.providers import Group
from tests.support.engine_rig import GROUPS, endpoint, engine, order
from tests.support.fake_api.transformers_server import TransformersServer

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_filled_by_a_real_server(tmp_path: Path, real_server: TransformersServer, group: Group) -> None:
    served = endpoint(real_server.base_url, model=real_server.model, group=group)
    with engine(tmp_path, served, price=Price(0.0, 0.0), timeout=600.0) as rig:
        rig.offload.wait_for_probe()
        rig.run([order(number, places=3) for number in range(2)])
        rig.offload.report_spend(0)
    assert [len(places) for places in rig.texts().values()] == [3, 3]
    spent = [event for event in rig.events.of("spend") if event["round"] == 0]  # two if an answer was late
    assert sum(event["requests"] for event in spent) >= 6  # more if an untrained model writes only blanks
    assert sum(event["completion_tokens"] for event in spent) > 0
