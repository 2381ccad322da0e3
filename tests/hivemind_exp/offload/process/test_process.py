"""The engine in a separate process works as in the trainer's process; neither outlives or blocks the other."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import ConfigurationError, KeyProblem, LimitReached
from hivemind_exp.events import Event
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.build import make_offload
from hivemind_exp.offload.engine import ApiEngine
from hivemind_exp.offload.process.client import OffloadClient, open_offload
from hivemind_exp.offload.process.server import pack_error, pack_orders, unpack_error, unpack_orders
from hivemind_exp.processes import messages as wire
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag, StopRequested
from tests.support.engine_host import KEY, configure, engines, hosted, prompts
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, order
from tests.support.fake_api.server import api_server
from tests.support.nodes import Events
from tests.support.processes import is_alive
from tests.support.waiting import until

HEAVY = {"torch", "transformers", "trl", "accelerate", "peft", "datasets", "numpy", "reasoning_gym", "hivemind"}


@pytest.fixture(autouse=True)
def _forked_engines() -> None:
    """Start the processes as for users instead."""


def modules_of(code: str) -> set[str]:
    """Return the modules that a new interpreter has loaded after running ``code``."""
    tell = "import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}


@pytest.mark.slow
def test_process_loads_no_training_libraries() -> None:
    loaded = modules_of(
        "import hivemind_exp.offload.process.server, openai; openai.AsyncOpenAI, openai.DefaultAioHttpClient"
    )
    assert "openai" in loaded
    assert not loaded & HEAVY


@pytest.mark.slow
def test_node_without_offloading_starts_no_process_and_loads_no_sdk() -> None:
    code = """
import subprocess
from pathlib import Path
from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.process.client import open_offload
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag
subprocess.Popen = None
assert open_offload(Config(), NodeFiles(Path("/nowhere")), Secrets(), print, StopFlag()) is None
"""
    assert "openai" not in modules_of(code)


@pytest.mark.slow
def test_events_and_results_match_an_engine_in_this_process(tmp_path: Path) -> None:
    def play(offload: OffloadClient | ApiEngine) -> None:
        offload.wait_for_probe()
        for round_ in range(2):
            offload.submit([order(2 * round_ + n, round_=round_) for n in range(2)])
            offload.wait(round_)
            offload.report_spend(round_)

    with api_server(seed=5) as server, hosted(tmp_path / "there", configure(server.base_url), probed=False) as rig:
        play(rig.offload)
    here = NodeFiles(tmp_path / "here")
    here.root.mkdir()
    with api_server(seed=5) as other:
        config, events = configure(other.base_url), Events()
        Journal(here.journal, charter_id(config)).close()
        with closing(make_offload(config, here, Secrets(), events, StopFlag())) as offload:
            play(offload)
    told = [(event, fields | {"host": None}) for event, fields in rig.events.all]
    assert told == [(event, fields | {"host": None}) for event, fields in events.all]
    assert [event for event, _ in told] == ["offload", "phase", "spend", "spend", "spend"]
    assert {len(places) for places in rig.texts().values()} == {4}
    assert rig.accounts() == {"settled": pytest.approx(server.usd(PRICE_IN, PRICE_OUT), abs=1e-12)}


@pytest.mark.slow
def test_key_reaches_the_service_but_not_arguments_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "SOME_API_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://elsewhere.example/v1")
    with api_server(keys={KEY}) as server:
        with hosted(tmp_path, configure(server.base_url, box={"needs_key": True}), key=KEY) as rig:
            process = psutil.Process(rig.pid)
            seen, environment = " ".join(process.cmdline()), process.environ()
            rig.run([order(0)])
        assert {entry.key for entry in server.ledger.chats} == {KEY}
    assert KEY not in seen
    assert KEY not in environment.values()
    assert not [name for name in environment if name.startswith("OPENAI_")]
    assert len(rig.texts()["question 0"]) == 4


@pytest.mark.slow
def test_errors_are_the_same_as_without_the_process(tmp_path: Path) -> None:
    def start(config: Config) -> None:
        open_offload(config, NodeFiles(tmp_path), Secrets(), Events(), StopFlag())

    with pytest.raises(KeyProblem, match="no key for box") as missing:
        start(configure("http://127.0.0.1:9/v1", box={"needs_key": True}))
    assert missing.value.next == "swarmctl keys set box --host http://127.0.0.1:9/v1"
    with pytest.raises(ConfigurationError, match="not marked as free"):
        start(configure("http://127.0.0.1:9/v1", kind="policy"))
    with api_server(keys={KEY}) as server:
        config = configure(server.base_url, box={"needs_key": True})
        with hosted(tmp_path / "refused", config, key="wrong", probed=False) as rig:
            with pytest.raises(KeyProblem, match="box:test-model: authentication failed") as refused:
                rig.offload.wait_for_probe()
    assert refused.value.next == f"swarmctl keys set box --host {server.base_url}"
    with api_server() as server, hosted(tmp_path / "cap", configure(server.base_url, limits={"usd": 0.01})) as rig:
        with pytest.raises(LimitReached, match=r" of 0\.01 USD \(offload\.limits\.usd\) is already spent"):
            rig.run([order(number) for number in range(60)])
        assert server.usd(PRICE_IN, PRICE_OUT) <= 0.01
    assert engines() == []


def test_orders_and_errors_survive_the_pipe() -> None:
    (packed,) = wire.Decoder().feed(wire.encode(pack_orders([order(3, places=2, round_=7)])))
    (back,), whole = unpack_orders(packed), order(3, places=2, round_=7)
    assert (back.round, back.stage, back.question) == (7, whole.stage, whole.question)
    assert (back.messages, back.indices, back.version) == (whole.messages, whole.indices, whole.version)
    full = unpack_error(pack_error(OSError(errno.ENOSPC, "No space left on device")))
    assert isinstance(full, OSError)
    assert full.errno == errno.ENOSPC
    assert isinstance(unpack_error(pack_error(MemoryError())), MemoryError)
    assert str(unpack_error(pack_error(ValueError("odd")))) == "in the API process: ValueError: odd"


@pytest.mark.slow
def test_stop_ends_waiting_and_answers_in_flight_are_kept(tmp_path: Path) -> None:
    with api_server(latency=1.0) as server, hosted(tmp_path, configure(server.base_url)) as rig:
        rig.offload.submit([order(number) for number in range(4)])
        until(lambda: len(prompts(server)) == 4)
        threading.Timer(0.05, rig.stop.set).start()
        with pytest.raises(StopRequested):
            rig.offload.wait(0)
        assert rig.texts() == {}
    assert len(rig.texts()) == 4
    assert rig.accounts() == {"settled": pytest.approx(server.usd(PRICE_IN, PRICE_OUT), abs=1e-12)}
    assert sum(event["usd"] for event in rig.events.of("spend")) == pytest.approx(rig.accounts()["settled"], abs=1e-8)


@pytest.mark.slow
def test_process_has_lower_priority_than_the_trainer_and_outlives_terminal_signals(tmp_path: Path) -> None:
    with api_server() as server, hosted(tmp_path, configure(server.base_url)) as rig:
        assert psutil.Process(rig.pid).nice() == min(19, psutil.Process().nice() + 5)
        assert os.getsid(rig.pid) == os.getsid(0), "ending the trainer's session must end the engine"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(rig.pid, number)
        rig.run([order(0)])
    assert rig.events.of("warning") == []


@pytest.mark.slow
def test_process_that_does_not_exit_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.offload.process.client._LEAVE_S", 0.2)
    with api_server() as server, hosted(tmp_path, configure(server.base_url)) as rig:
        pid = rig.pid
        os.kill(pid, signal.SIGSTOP)
    assert not is_alive(pid)


@pytest.mark.slow
def test_full_disk_when_writing_an_event_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with api_server() as server, hosted(tmp_path, configure(server.base_url)) as rig:

        def full(self: Events, event: Event, /) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Events, "__call__", full)
        rig.offload.submit([order(0)])
        rig.offload.wait(0)
        with pytest.raises(OSError, match="No space left"):
            rig.offload.report_spend(0)
