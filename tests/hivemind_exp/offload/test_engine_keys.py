"""The engine with a key that is rejected during a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.offload import router as routing
from tests.support.engine_rig import endpoint, engine, order
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server

pytestmark = pytest.mark.slow


def test_key_revoked_during_a_run_falls_back_to_the_next_provider(tmp_path: Path) -> None:
    with api_server(keys={"key-1234"}) as first, api_server() as second:
        chain = (endpoint(first.base_url), endpoint(second.base_url, name="spare"))
        with engine(tmp_path, *chain, key="key-1234") as rig:
            rig.run([order(0)])
            first.revoke("key-1234")
            rig.run([order(1), order(2)])
    assert {len(places) for places in rig.texts().values()} == {4}
    told = [(warning["message"], warning["next"]) for warning in rig.events.of("warning")]
    assert told == [
        (
            "box:test-model: authentication failed "
            '(HTTP 401: the API key was rejected: "Incorrect API key provided."); '
            "falling back to spare:test-model until box is available again",
            f"swarmctl keys set box --host {first.base_url}",
        )
    ]


def test_a_key_revoked_during_an_outage_is_reported_although_the_outage_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "_REST_S", 0.05)
    key = "key-1234"
    with api_server(keys={key}) as server, engine(tmp_path, endpoint(server.base_url), None, key=key) as rig:
        rig.offload.wait_for_probe()
        server.always(Fault.NO_CREDIT)
        rig.run([order(0)])
        server.always(None)
        server.revoke(key)
        number = 0
        while len(rig.events.of("warning")) < 2:
            rig.run([order(number := number + 1)])
        for _ in range(3):  # the same rejection is not reported again
            rig.run([order(number := number + 1)])
    credit, rejected = rig.events.of("warning")
    assert ("out of credit" in credit["message"], credit["next"]) == (True, None)
    assert "the API key was rejected" in rejected["message"]
    assert rejected["next"] == f"swarmctl keys set box --host {server.base_url}"
