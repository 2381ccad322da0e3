"""A whole node that uses the Batch API."""

from __future__ import annotations

from pathlib import Path

import pytest

from hivemind_exp.node_files import NodeFiles
from tests.support.batching import assert_paid, batches, quick
from tests.support.fake_api.server import api_server
from tests.support.nodes import Events, make_config, run

pytestmark = pytest.mark.slow

__all__ = ["quick"]


def test_node_trains_on_completions_from_batches(tmp_path: Path) -> None:
    events = Events()
    with api_server(batch_delay=0.1, answer=lambda _, index: f"a{index}") as server:
        config = make_config(
            game={"rounds": 3},
            offload={
                "provider": "box",
                "batch": True,
                "share": 0.5,
                "prices": {"box": {"input": 2.0, "output": 8.0}},
            },
            providers={
                "box": {"base_url": server.base_url, "model": "test-model", "batch": True, "group": "n"},
            },
        )
        progress = run(config, tmp_path, emit=events)
        assert progress.round == 3
        assert len(server.ledger.chats) == 1
        assert batches(server) == 3
        assert_paid(server, NodeFiles(tmp_path).ledger)
    sources = {(event["round"], event["source"]): event["count"] for event in events.of("rollouts")}
    assert sources == {(round_, source): 6 for round_ in range(3) for source in ("policy", "teacher")}
    assert [event["requests"] for event in events.of("spend")] == [1, 3, 3, 3]


def test_relay_passes_on_completions_from_batches(tmp_path: Path) -> None:
    events = Events()
    with api_server(batch_delay=0.1, answer=lambda _, index: f"a{index}") as server:
        config = make_config(
            game={"rounds": 2},
            offload={
                "provider": "box",
                "batch": True,
                "kind": "relay",
                "prices": {"box": {"input": 2.0, "output": 8.0}},
            },
            providers={"box": {"base_url": server.base_url, "model": "test-model", "batch": True}},
        )
        assert run(config, tmp_path, emit=events).round == 2
        assert batches(server) == 2
        assert_paid(server, NodeFiles(tmp_path).ledger)
    assert [(event["source"], event["count"]) for event in events.of("rollouts")] == [("relay", 3 * 4)] * 2
