"""``/metrics``: what the events say, by Prometheus's conventions, at the configured address only."""

from __future__ import annotations

import re
import socket
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing

import pytest

from hivemind_exp import events
from hivemind_exp.errors import ConfigurationError
from tests.support.nodes import make_config
from tests.support.recorded_events import Events

pytest.importorskip("prometheus_client")

from prometheus_client.parser import text_string_to_metric_families

from hivemind_exp.runner.__main__ import with_metrics
from hivemind_exp.runner.metrics import Metrics

STEP = {"round": 4, "stage": "answer", "loss": 0.5, "grad_norm": 2.0, "learning_rate": 1e-4, "tokens": 9, "rows": 3}


@pytest.fixture
def port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def metrics(port: int) -> Iterator[Metrics]:
    """Serve the metrics of a run with one event of each kind."""
    with closing(Metrics(Events())) as served:
        served.serve(make_config(report={"metrics_port": port}))
        about = {"model": "tiny", "device": "cpu", "dtype": "float32", "parameters": 10, "trainable": 10}
        served(events.StartEvent(node="n", tasks=["a", "b"], seed=0, rounds=9, groups=2, group_size=4, **about))
        served(events.EvalEvent(round=0, accuracy=0.25, questions=200))
        for _ in range(2):
            where = {"round": 4, "stage": "answer", "source": "policy"}
            measured = {"reward": 0.5, "terms": {"format": 0.3}, "completion_length": 9.5, "tokens": 76}
            served(events.RolloutsEvent(**where, **measured, count=8, correct=4, truncated=1))
        served(events.StepEvent(**STEP, step=4, source="policy", entropy=1.5, source_grad_norm=1.0, replayed=False))
        seconds = {"generate": 2.0, "verify": 0.5, "train": 1.5, "share": 0.0, "other": 0.25}
        served(events.RoundEvent(round=4, rounds=9, seconds=seconds, tokens_per_second=100.0, groups=2, different=1))
        usage = {"requests": 3, "tokens": 30, "prompt_tokens": 20, "completion_tokens": 10, "lost": 1}
        spent = {"usd": 0.5, "usd_total": 1.5, "usd_reserved": 0.25, "usd_cap": 5.0}
        served(events.SpendEvent(round=4, provider="openai", model="gpt-4o-mini", **usage, **spent))
        served(events.PeersEvent(peers=2, neighbours=2))
        served(events.ShareEvent(round=4, groups=2, bytes=1500, unused={}))
        served(events.WarningEvent(code="slow", message="this is slow"))
        served(events.ErrorEvent(code="task", message="no question"))
        served(events.CheckpointEvent(round=5, path="x", seconds=0.1))
        served(events.NoteEvent(code="n", message="not a metric"))
        yield served


def fetched(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        return str(answer.read().decode())


def test_the_metrics_are_the_numbers_of_the_events(metrics: Metrics, port: int) -> None:
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(fetched(port))
        for sample in family.samples
    }
    wanted = {
        ("swarmctl_node_info", "a,b", "cpu", "float32", "n", "tiny"): 1,
        ("swarmctl_accuracy_ratio",): 0.25,
        ("swarmctl_accuracy_low_ratio",): pytest.approx(0.195081, abs=1e-6),
        ("swarmctl_accuracy_high_ratio",): pytest.approx(0.314342, abs=1e-6),
        ("swarmctl_round",): 5,
        ("swarmctl_rounds_total",): 1,
        ("swarmctl_rounds_planned",): 9,
        ("swarmctl_round_seconds_total", "train"): 1.5,
        ("swarmctl_completions_total", "answer", "policy"): 16,
        ("swarmctl_correct_completions_total", "answer", "policy"): 8,
        ("swarmctl_reward", "answer", "policy"): 0.5,
        ("swarmctl_reward_term", "answer", "format", "policy"): 0.3,
        ("swarmctl_entropy_nats", "policy"): 1.5,
        ("swarmctl_loss",): 0.5,
        ("swarmctl_spent_usd",): 1.5,
        ("swarmctl_usd_total", "gpt-4o-mini", "openai"): 0.5,
        ("swarmctl_api_tokens_total", "gpt-4o-mini", "openai", "prompt"): 20,
        ("swarmctl_requests_total", "gpt-4o-mini", "openai"): 3,
        ("swarmctl_peers",): 2,
        ("swarmctl_shared_bytes_total",): 1500,
        ("swarmctl_warnings_total", "slow"): 1,
        ("swarmctl_errors_total", "task"): 1,
        ("swarmctl_checkpoint_round",): 5,
    }
    assert {name: samples.get(name) for name in wanted} == wanted
    assert samples["process_resident_memory_bytes",] > 1e6


def test_a_run_with_a_port_serves_its_metrics(port: int) -> None:
    log = Events()
    order = {"config": make_config(report={"metrics_port": port}).model_dump(mode="json")}
    emit = with_metrics(order, log)
    assert isinstance(emit, Metrics)
    with closing(emit):
        emit(events.PeersEvent(peers=3, neighbours=3))
        assert "swarmctl_peers 3.0" in fetched(port)
    assert with_metrics({"config": make_config().model_dump(mode="json")}, log) is log


def test_names_follow_the_conventions(metrics: Metrics, port: int) -> None:
    for family in text_string_to_metric_families(fetched(port)):
        assert family.documentation, family.name
        if family.name.startswith("swarmctl_") and not family.name.endswith("_created"):
            assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
            # The parser removes the suffix of counters.
            endings = {sample.name.removeprefix(family.name) for sample in family.samples}
            assert endings <= {"", "_total", "_created", "_info"}
            assert ("_total" in endings) == (family.type == "counter"), family.name


def test_an_unknown_value_leaves_a_gauge_as_it_was() -> None:
    metrics = Metrics(Events())
    metrics(events.StepEvent(**STEP, step=4, source="policy", entropy=1.5, replayed=False))
    metrics(events.StepEvent(**STEP | {"loss": None}, step=5, source="policy", entropy=None, replayed=False))
    read = metrics.registry.get_sample_value
    assert (read("swarmctl_loss"), read("swarmctl_step")) == (0.5, 5)
    assert read("swarmctl_entropy_nats", {"source": "policy"}) == 1.5


def test_events_still_reach_the_log() -> None:
    log = Events()
    Metrics(log)(events.PeersEvent(peers=2, neighbours=2))
    assert log.of("peers") == [{"peers": 2, "neighbours": 2}]


def test_a_port_that_is_taken_is_named_with_a_command_that_helps() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        config = make_config(node={"name": "maths"}, report={"metrics_port": port})
        with pytest.raises(ConfigurationError, match=f"port {port} .* already in use") as caught:
            Metrics(Events()).serve(config)
    assert caught.value.next == f"swarmctl run --node maths --set report.metrics_port={port + 1}"


def test_an_address_of_another_machine_is_refused(port: int) -> None:
    config = make_config(node={"name": "maths"}, report={"metrics_port": port, "metrics_address": "192.0.2.1"})
    with pytest.raises(ConfigurationError, match=r"report\.metrics_address") as caught:
        Metrics(Events()).serve(config)
    assert caught.value.next == "swarmctl run --node maths --set report.metrics_address=127.0.0.1"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have only one loopback address")
def test_only_the_configured_address_is_listened_on(metrics: Metrics, port: int) -> None:
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", port), timeout=2)
    with closing(Metrics(Events())) as elsewhere:
        elsewhere.serve(make_config(report={"metrics_port": port, "metrics_address": "127.0.0.2"}))
        socket.create_connection(("127.0.0.2", port), timeout=2).close()
