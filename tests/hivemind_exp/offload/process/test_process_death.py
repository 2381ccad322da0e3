"""The engine process or its trainer is killed: nothing is requested twice, forgotten or left running."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError
from hivemind_exp.events import Event, StepEvent
from hivemind_exp.offload.process import client as hosted_offload
from hivemind_exp.offload.process.client import LIVES, EngineProcess
from tests.support.engine_host import configure, engines, hosted, prompts
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, order
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.server import api_server
from tests.support.nodes import Events, make_config, run
from tests.support.restarts import same_weights
from tests.support.server_forks import ServerFork
from tests.support.teachers import two_letters
from tests.support.waiting import until

pytestmark = pytest.mark.slow

Texts = dict[str, dict[int, str]]


def test_kill_9_of_the_process_at_many_moments_requests_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosted_offload, "LIVES", 100)
    chance, kills, rounds = random.Random(9), 4, 3
    held: list[Texts] = []
    with api_server(latency=0.05) as server:
        with hosted(tmp_path, configure(server.base_url, limits={"concurrency": 3})) as rig:

            def assassin() -> None:
                for _ in range(kills):
                    pid, wanted = rig.pid, len(rig.texts()) + chance.randrange(1, 6)
                    until(lambda: len(rig.texts()) >= min(wanted, 10 * rounds))  # noqa: B023 - called at once
                    if len(rig.texts()) == 10 * rounds:
                        return  # on a slow machine, everything may finish before this kill
                    time.sleep(chance.uniform(0, 0.04))
                    os.kill(pid, signal.SIGKILL)
                    until(lambda: rig.offload.pid != pid)  # noqa: B023
                    held.append(rig.texts())

            killer = threading.Thread(target=assassin)
            killer.start()
            for round_ in range(rounds):
                rig.offload.submit([order(10 * round_ + n, round_=round_) for n in range(10)])
            for round_ in range(rounds):
                rig.offload.wait(round_)
            killer.join()
        books, kept = server.ledger, rig.texts()
    assert len(held) >= kills // 2
    assert len(kept) == 10 * rounds
    assert {len(places) for places in kept.values()} == {4}
    for before in held:
        assert all(places.items() <= kept[question].items() for question, places in before.items())
    sent = Counter(text for found in books.texts(Outcome.DELIVERED).values() for text in found)
    assert all(sent[text] == 1 for places in kept.values() for text in places.values())
    accounts = rig.accounts()
    assert accounts["kept"] > 0, "the kills hit no requests in flight"
    assert sum(accounts.values()) >= books.usd(PRICE_IN, PRICE_OUT) - 1e-12
    assert [warning["code"] for warning in rig.events.of("warning")] == ["engine_restarted"] * len(held)


def test_process_that_died_between_calls_is_replaced(tmp_path: Path) -> None:
    """A death between two calls goes unnoticed until the next; then early requests without an answer are repeated."""
    with api_server(latency=0.2) as server, hosted(tmp_path, configure(server.base_url)) as rig:
        rig.offload.submit([order(0), order(1)])
        until(lambda: len(rig.texts()) == 2)
        rig.offload.submit([order(2)])
        until(lambda: len(prompts(server)) == 3)
        rig.kill()
        rig.offload.wait(0)
        rig.kill()
        rig.offload.submit([order(3, round_=1)])
        rig.kill()
        rig.offload.report_spend(0)
        rig.offload.wait(1)
        asked = Counter(prompts(server))
    assert asked == {"question 0": 1, "question 1": 1, "question 2": 2, "question 3": asked["question 3"]}
    assert {len(places) for places in rig.texts().values()} == {4}
    assert rig.events.of("warning")[0]["message"] == (
        "the API process was killed (SIGKILL), probably by the kernel because memory ran out (close other programs or "
        "use a smaller model); restarting it. Requests that were in flight count as spent"
    )


def test_process_killed_while_it_starts_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready, killed = EngineProcess.ready, []

    def assassinated(process: EngineProcess, check: Any) -> None:
        if not killed:
            killed.append(process.pid)
            os.kill(process.pid, signal.SIGKILL)
        ready(process, check)

    monkeypatch.setattr(EngineProcess, "ready", assassinated)
    with api_server() as server, hosted(tmp_path, configure(server.base_url)) as rig:
        rig.offload.submit([order(0)])
        rig.offload.wait(0)
    assert {len(places) for places in rig.texts().values()} == {4}
    assert [warning["code"] for warning in rig.events.of("warning")] == ["engine_restarted"]
    assert len(rig.events.of("offload")) == 1


def test_process_that_keeps_dying_ends_the_run(tmp_path: Path) -> None:
    with api_server() as server, hosted(tmp_path, configure(server.base_url)) as rig:
        server.always(Fault.STALL)
        rig.offload.submit([order(0)])

        def assassin() -> None:
            for _ in range(LIVES):
                pid = rig.pid
                os.kill(pid, signal.SIGKILL)
                until(lambda: rig.offload.pid != pid)  # noqa: B023 - called at once

        killer = threading.Thread(target=assassin)
        killer.start()
        with pytest.raises(NodeError, match=r"memory ran out .* \(3 times without finishing a round\)") as caught:
            rig.offload.wait(0)
        killer.join()
    assert caught.value.next == "swarmctl logs --node hosted --raw"
    assert engines() == []


def offload(_stdin: int, stdout: int, root: Path, url: str) -> None:
    """Be a node, and tell the id of its API process, which is started as for users."""
    with hosted(root, configure(url, limits={"concurrency": 2})) as rig:
        rig.offload.submit([order(number) for number in range(40)])
        os.write(stdout, b"%d\n" % rig.pid)
        rig.offload.wait(0)


def test_process_exits_with_its_trainer(tmp_path: Path) -> None:
    with api_server(latency=0.1) as server:
        trainer = ServerFork(offload, tmp_path, server.base_url)
        engine = psutil.Process(int(trainer.stdout.readline()))
        until(lambda: len(prompts(server)) >= 3)
        trainer.kill()
        trainer.wait()
        engine.wait(2)


def test_killed_engine_does_not_change_what_is_learned(tmp_path: Path) -> None:
    def configured(base_url: str) -> Config:
        own = configure(base_url)
        return make_config(
            offload={**own.offload.model_dump(exclude={"provider", "fallback"}), "provider": "box", "fallback": []},
            providers={"box": own.providers["box"].model_dump()},
        )

    class Killer(Events):
        """Kills the engine after the steps of the second and the fourth round."""

        def __call__(self, event: Event, /) -> None:
            super().__call__(event)
            if isinstance(event, StepEvent) and event.round in (1, 3):
                (engine,) = engines()
                engine.kill()

    events = Killer()
    with api_server(latency=0.1, answer=two_letters) as server:
        run(configured(server.base_url), tmp_path / "killed", emit=events)
    with api_server(answer=two_letters) as server:
        run(configured(server.base_url), tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    assert Counter(warning["code"] for warning in events.of("warning"))["engine_restarted"] == 2
    assert engines() == []
