"""One process that generates with one provider and grades with another: their money, keys, limits and faults."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import LimitReached, ProviderError
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload import router
from hivemind_exp.offload.build import make_offload
from hivemind_exp.offload.engine import ApiEngine
from hivemind_exp.offload.process import client as hosted_offload
from hivemind_exp.offload.process.client import OffloadClient
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag
from tests.support.engine_host import hosted, prompts
from tests.support.engine_rig import PRICE_IN, PRICE_OUT, accounts, order, real_chats, texts
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.ledger import Outcome
from tests.support.fake_api.server import api_server
from tests.support.recorded_events import Events
from tests.support.two_uses import GRADE_IN, GRADE_OUT, configure_both, grade
from tests.support.waiting import until

pytestmark = pytest.mark.slow


@contextmanager
def both(root: Path, config: Config) -> Iterator[tuple[ApiEngine, Events, NodeFiles]]:
    """Run the API side in the test's process."""
    root.mkdir(parents=True, exist_ok=True)
    files, events = NodeFiles(root), Events()
    Journal(files.journal, charter_id(config)).close()
    with closing(make_offload(config, files, Secrets(), events, StopFlag())) as offload:
        offload.wait_for_probe()
        yield offload, events, files


def warnings(events: Events) -> list[tuple[str, str, bool]]:
    return [(event["code"], event["provider"], event["judge"]) for event in events.of("warning")]


def test_each_server_gets_its_own_requests_and_the_ledger_has_both_bills(tmp_path: Path) -> None:
    with api_server(keys={"key of box"}) as generator, api_server(keys={"key of grader"}) as judge:
        config = configure_both(generator.base_url, judge.base_url, needs_key=True)
        keys = {"box": "key of box", "grader": "key of grader"}
        with hosted(tmp_path, config, secrets=keys) as rig:
            rig.run([order(0), grade(0), order(1), grade(1), grade(2, round_=1)])
            for round_ in (0, 1):
                rig.offload.report_spend(round_)
        assert prompts(generator) == ["question 0", "question 1"]
        assert len(real_chats(judge)) == 3
        assert {entry.key for entry in generator.ledger.chats} == {"key of box"}
        assert {entry.key for entry in judge.ledger.chats} == {"key of grader"}
        assert {entry.parameters["max_tokens"] for entry in judge.ledger.chats} == {16}
        bills = {"box": generator.usd(PRICE_IN, PRICE_OUT), "grader": judge.usd(GRADE_IN, GRADE_OUT)}
    with closing(sqlite3.connect(rig.files.ledger)) as db:
        spent = dict(db.execute("SELECT provider, TOTAL(usd) FROM requests WHERE state='settled' GROUP BY provider"))
    assert spent == pytest.approx(bills, abs=1e-12)
    assert [(event["provider"], event["loss"].partition(":")[0]) for event in rig.events.of("offload")] == [
        ("box", "teacher"),
        ("grader", "judge"),
    ]
    told: Counter[str] = Counter()
    for event in rig.events.of("spend"):
        told[event["provider"]] += event["usd"]
    assert dict(told) == pytest.approx(bills, abs=1e-7)
    assert rig.events.of("spend")[-1]["usd_total"] == pytest.approx(sum(bills.values()), abs=1e-7)


def test_kill_9_at_many_moments_pays_neither_server_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosted_offload, "LIVES", 100)
    chance, kills, rounds = random.Random(12), 5, 3
    wanted = rounds * (5 + 10)
    killed = []
    with api_server(latency=0.04) as generator, api_server(latency=0.03, seed=1) as judge:
        config = configure_both(generator.base_url, judge.base_url, limits={"usd": "unlimited", "concurrency": 3})
        with hosted(tmp_path, config) as rig:

            def assassin() -> None:
                for _ in range(kills):
                    pid, more = rig.pid, len(rig.texts()) + chance.randrange(1, 6)
                    until(lambda: len(rig.texts()) >= min(more, wanted), seconds=120)  # noqa: B023 - called at once
                    if len(rig.texts()) == wanted:
                        return  # on a slow machine, everything may finish before this kill
                    time.sleep(chance.uniform(0, 0.03))
                    os.kill(pid, signal.SIGKILL)
                    until(lambda: rig.offload.pid != pid, seconds=120)  # noqa: B023
                    killed.append(pid)

            killer = threading.Thread(target=assassin)
            killer.start()
            for round_ in range(rounds):
                rig.offload.submit([order(5 * round_ + n, round_=round_) for n in range(5)])
                rig.offload.submit([grade(10 * round_ + n, round_=round_) for n in range(10)])
            for round_ in range(rounds):
                rig.offload.wait(round_)
            killer.join()
        books, kept = (generator.ledger, judge.ledger), rig.texts()
    assert len(killed) >= 2
    assert len(kept) == wanted
    sent: Counter[str] = Counter()
    for book in books:
        sent.update(text for found in book.texts(Outcome.DELIVERED).values() for text in found)
    assert all(sent[text] == 1 for places in kept.values() for text in places.values())
    bill = books[0].usd(PRICE_IN, PRICE_OUT) + books[1].usd(GRADE_IN, GRADE_OUT)
    found = rig.accounts()
    assert found["kept"] > 0, "the kills hit no requests in flight"
    assert sum(found.values()) >= bill - 1e-12
    answered = [book.where(lambda entry: entry.outcome is Outcome.DELIVERED) for book in books]
    assert found["settled"] <= answered[0].usd(PRICE_IN, PRICE_OUT) + answered[1].usd(GRADE_IN, GRADE_OUT) + 1e-12


def test_one_cap_covers_both(tmp_path: Path) -> None:
    def spend(offload: OffloadClient) -> None:
        for round_ in range(200):
            offload.submit([order(round_, round_=round_), grade(round_, round_=round_)])
            offload.wait(round_)

    with api_server() as generator, api_server() as judge:
        config = configure_both(generator.base_url, judge.base_url, max_tokens=64, limits={"usd": 0.02})
        with hosted(tmp_path, config) as rig, pytest.raises(LimitReached, match=r"of 0\.02 USD"):
            spend(rig.offload)
        bills = generator.usd(PRICE_IN, PRICE_OUT), judge.usd(GRADE_IN, GRADE_OUT)
        assert min(len(real_chats(server)) for server in (generator, judge)) >= 3
    assert sum(bills) <= sum(rig.accounts().values()) <= 0.02


def test_while_the_judge_is_unavailable_the_node_waits_for_it_and_still_generates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "_REST_S", 0.2)
    with api_server() as generator, api_server() as judge:
        config = configure_both(generator.base_url, judge.base_url, fallback=["local"])
        with both(tmp_path, config) as (offload, events, files), closing(Journal(files.journal, "")):
            judge.always(Fault.UNAVAILABLE)
            offload.submit([grade(0), order(0, round_=1)])
            waited = threading.Thread(target=offload.wait, args=(0,))
            waited.start()
            offload.wait(1)
            until(lambda: ("provider_down", "grader", True) in warnings(events))
            assert set(texts(files.journal)) == {"question 0"}
            assert waited.is_alive()
            judge.always(None)
            waited.join()
        assert set(texts(files.journal)) == {"question 0", "grade 0"}
    assert warnings(events) == [("provider_down", "grader", True), ("provider_back", "grader", True)]
    down, back = [event["message"] for event in events.of("warning")]
    assert down.startswith("the judge grader:test-model: ")
    assert down.endswith("; waiting until grader is available again")
    assert back == "the judge grader:test-model is available again"


def test_while_the_generator_is_unavailable_this_machine_takes_over_and_grades_go_on(tmp_path: Path) -> None:
    with api_server() as generator, api_server() as judge:
        config = configure_both(generator.base_url, judge.base_url, fallback=["local"])
        with both(tmp_path, config) as (offload, events, files):
            generator.always(Fault.UNAUTHORISED)
            offload.submit([order(0), grade(0)])
            offload.wait(0)
        assert set(texts(files.journal)) == {"grade 0"}
    assert warnings(events) == [("provider_down", "box", False)]
    assert "falling back to this machine" in events.of("warning")[0]["message"]


def test_one_provider_can_do_both_and_be_set_aside_for_one_of_them(tmp_path: Path) -> None:
    with api_server(latency=0.02) as server:
        asked = {"prices": {"box": {"input": 1.0, "output": 1.0}}, "limits": {"usd": 1.0, "concurrency": 3}}
        config = configure_both(server.base_url, "http://127.0.0.1:9/v1", **asked)
        config = config.model_copy(update={"judge": config.judge.model_copy(update={"provider": "box"})})
        with both(tmp_path, config) as (offload, events, files):
            offload.submit([order(n) for n in range(8)])
            offload.submit([grade(n) for n in range(16)])
            offload.wait(0)
            assert len(texts(files.journal)) == 24
            assert server.ledger.peak == 3  # one provider, one limit
            offload.set_aside("box", "it taught nothing", "swarmctl models box")
            offload.submit([grade(30, round_=1)])
            offload.wait(1)
            assert "grade 30" in texts(files.journal)
            offload.submit([order(30, round_=2)])
            with pytest.raises(ProviderError, match=r"^box:test-model: .*it taught nothing"):
                offload.wait(2)
            offload.set_aside("box", "it graded nothing", "swarmctl models box", "judge")
            offload.submit([grade(31, round_=3)])
            with pytest.raises(ProviderError, match=r"^the judge box:test-model: .*it graded nothing"):
                offload.wait(3)
        bill = server.usd(1.0, 1.0)
    assert accounts(files.ledger) == {"settled": pytest.approx(bill, abs=1e-12)}
    assert [(event["provider"], event["usd_cap"]) for event in events.of("offload")] == [("box", 1.0)] * 2


def test_the_judge_waits_for_what_batches_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hivemind_exp.offload import request_filler

    monkeypatch.setattr(request_filler, "_BATCH_POLL_S", 0.05)
    with api_server(batch_delay=None) as generator, api_server() as judge:
        # The batch reserves 64 × 4 tokens for each of its 4 choices at half price, and leaves less than a grade costs.
        config = configure_both(generator.base_url, judge.base_url, batch=True, max_tokens=1024, limits={"usd": 0.019})
        box = config.providers["box"].model_copy(update={"batch": True})
        config = config.model_copy(update={"providers": config.providers | {"box": box}})
        with both(tmp_path, config) as (offload, events, files):
            offload.submit([order(0)])
            until(lambda: "batched" in accounts(files.ledger))
            offload.submit([grade(0, round_=1)])
            until(lambda: ("waits_for_batches", None, False) in warnings(events))
            assert texts(files.journal) == {}
            until(lambda: generator.finish_batches() or "question 0" in texts(files.journal))
            offload.wait(0)
            offload.wait(1)
        assert set(texts(files.journal)) == {"question 0", "grade 0"}
