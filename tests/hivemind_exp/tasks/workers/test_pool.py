"""Workers: what the sandbox forbids, how they end, and what happens to the other jobs."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.errors import NodeError, TaskError, WorkerFailed
from hivemind_exp.processes.progress import State
from hivemind_exp.tasks.base import EnvironmentReply, TaskSpec, Verdict
from hivemind_exp.tasks.workers import process
from hivemind_exp.tasks.workers.checked_replies import TOO_SLOW, UNJUDGED, Unscored, checked_reply
from hivemind_exp.tasks.workers.pool import TRIES, Pool
from hivemind_exp.tasks.workers.process import FEW_LOOKS, MANY_LOOKS, WorkerProcess
from swarmctl.errors import Exit, exit_code
from tests.support.hostile import evil_answers as evil
from tests.support.task_workers import task_workers as workers
from tests.support.waiting import until

EVIL = TaskSpec("evil", evil.MODULE, "evil")


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    os.environ["PLANTED_SECRET"] = "sk-planted"
    made = Pool([EVIL], verifiers=1)
    yield made
    made.close()
    del os.environ["PLANTED_SECRET"]


def deeds(pool: Pool, *answers: str) -> list[float | Verdict | Unscored]:
    return pool.verify([(0, answer, {}) for answer in answers])


def test_forbidden_actions_fail_in_a_verifier(pool: Pool, tmp_path: Path) -> None:
    file, kept = tmp_path / "touched", tmp_path / "kept"
    kept.write_text("private")
    with socket.create_server(("127.0.0.1", 0)) as server:
        refused = [
            f"socket at {server.getsockname()[1]}",
            f"read at {kept}",
            f"remove at {kept}",
            f"list at {tmp_path}",
            "read at /etc/passwd",
            "secret at PLANTED_SECRET",
            *(f"{deed} at {file}" for deed in ("write", "append", "mkdir", "system", "popen", "ctypes")),
            *("fork", "exec", "spawn", "kill", "parent's secrets", "memory", "unpickle", "torch", "recurse"),
        ]
        found = dict(zip(refused, deeds(pool, *refused), strict=True))
    assert [deed for deed, credit in found.items() if credit not in (0.0, UNJUDGED)] == []
    assert not file.exists()
    assert kept.read_text() == "private"
    assert deeds(pool, "nothing") == [1.0]


def test_a_worker_s_environment_holds_no_secret(pool: Pool) -> None:
    deeds(pool, "nothing")
    for worker in workers():
        assert "PLANTED_SECRET" not in worker.environ()
        assert not set(worker.environ()) & {"HOME", "USER", "PATH"}


def test_a_worker_that_downloads_uses_the_node_s_proxy_and_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("ALL_PROXY", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")
    for name in names:
        monkeypatch.setenv(name, "x")
    specs = [TaskSpec("gsm8k", "hivemind_exp.tasks.families.gsm8k", "gsm8k")]
    kept = process._environment("make", specs)
    assert [name for name in names if name not in kept] == []
    assert not set(names) & set(process._environment("verify", specs))


@pytest.mark.slow
def test_lost_workers_are_replaced_and_other_results_kept(pool: Pool) -> None:
    answers = ["nothing", "sleep", "nothing", "exit", "crash", "nothing", "busy", "nothing", "nothing"]
    assert deeds(pool, *answers) == [1.0, UNJUDGED, 1.0, UNJUDGED, UNJUDGED, 1.0, TOO_SLOW, 1.0, 1.0]


@pytest.mark.slow
def test_a_job_that_switches_its_timer_off_is_ended_from_outside(pool: Pool) -> None:
    assert deeds(pool, "nothing", "busy without a timer", "nothing") == [1.0, TOO_SLOW, 1.0]


def test_a_verdict_cannot_forge_lines_or_rewards_that_are_not_numbers(pool: Pool) -> None:
    lines, huge, many = deeds(pool, "lines", "huge", "many")
    assert isinstance(lines, Verdict)
    assert lines.terms == (("fine\\nerror: forged\\n  try: \\x1b[2J", 1.0),)
    assert lines.why.startswith(lines.terms[0][0])
    assert lines.why.isprintable()
    assert len(lines.why) < 4000
    assert huge == Verdict(1.0, (("d", 1.0),))
    assert many == UNJUDGED


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_workers_killed_or_frozen_at_random_moments_lose_no_reward(number: signal.Signals) -> None:
    others = {worker.pid for worker in workers()}
    told: list[tuple[int, int]] = []
    pool = Pool([EVIL], verifiers=2, report=lambda *counts: told.append(counts))
    hit: set[int] = set()

    def attack() -> None:
        chosen = random.Random(0)
        while len(hit) < 6:
            time.sleep(chosen.random() / 5)
            there = [worker for worker in workers() if worker.pid not in others | hit]
            with contextlib.suppress(IndexError, psutil.NoSuchProcess):
                worker = chosen.choice(there)
                worker.send_signal(number)
                hit.add(worker.pid)

    attacker = threading.Thread(target=attack)
    attacker.start()
    while attacker.is_alive():
        assert pool.verify([(0, "nothing" if n % 2 else "-1", {}) for n in range(300)]) == [0.0, 1.0] * 150
        assert len(pool.make([(0, n) for n in range(20)])) == 20
    attacker.join()

    def are_gone() -> bool:
        assert pool.verify([(0, "nothing", {})] * 100) == [1.0] * 100
        assert len(pool.make([(0, n) for n in range(20)])) == 20
        return not hit & {worker.pid for worker in workers()}

    until(are_gone, 60)  # one that was frozen while it started is noticed after a few looks
    assert sum(replaced for replaced, _ in told) == len(hit)
    assert sum(unverified for _, unverified in told) == 0
    pool.close()


@pytest.mark.slow
def test_no_worker_is_lost_if_nobody_disturbs_them() -> None:
    told: list[tuple[int, int]] = []
    pool = Pool([EVIL], verifiers=4, report=lambda *counts: told.append(counts))
    for _ in range(3):  # each reply of one worker is a chance to misjudge the three others
        assert pool.verify([(0, "nothing", {})] * 8000) == [1.0] * 8000
    assert told == []
    pool.close()


class Watched:
    """Looks at a process that is in each of the given states in turn."""

    def __init__(self, states: Sequence[State]) -> None:
        self._states = list(states)

    def look(self) -> State:
        return self._states.pop(0)


WAITS: list[State] = ["waiting"] * FEW_LOOKS


@pytest.mark.parametrize(
    ("states", "stuck"),
    [
        (["asleep"] * FEW_LOOKS, True),
        (["stopped"] * FEW_LOOKS, True),
        ([*WAITS, "asleep"], False),
        (["asleep", *WAITS, "asleep", "asleep"], False),
        (["asleep", "asleep", "running", "asleep"], False),
        (["waiting"] * MANY_LOOKS, True),
    ],
)
def test_a_worker_is_stuck_after_a_few_idle_looks_in_a_row(
    states: list[State], stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ProgressWatch", lambda _: Watched(states))
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.0)
    worker = WorkerProcess("verify", [EVIL], 2.0, 60.0)
    worker.ready = []
    assert [worker.is_stuck() for _ in states] == [*[False] * (len(states) - 1), stuck]
    worker.kill()


@pytest.mark.parametrize(("turns", "stuck"), [(1, True), (3, False)])
def test_a_conversation_that_is_played_again_has_the_time_of_all_its_turns(
    turns: int, stuck: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter([1.0, 6.0])
    monkeypatch.setattr(process, "ProgressWatch", lambda _: Watched(["running", "running"]))
    monkeypatch.setattr(process, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(WorkerProcess, "seconds", property(lambda _: next(used)))
    worker = WorkerProcess("verify", [EVIL], 2.0, 60.0)
    worker.ready = []
    assert not worker.is_stuck()  # it waits for a job
    worker.send([], 0, turns)
    assert worker.is_stuck() is stuck  # 5 s of CPU time, with limits of 2 and 6 s
    worker.kill()


def test_a_worker_is_looked_at_once_in_a_while_however_often_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ProgressWatch", lambda _: Watched(["asleep"]))  # a second look would fail
    monkeypatch.setattr(process, "LOOK_SECONDS", 1000.0)
    worker = WorkerProcess("verify", [EVIL], 2.0, 60.0)
    worker.ready = []
    assert not any(worker.is_stuck() for _ in range(MANY_LOOKS))
    worker.kill()


@pytest.mark.slow
def test_workers_killed_while_they_start_do_not_end_the_node() -> None:
    pool = Pool([EVIL], verifiers=1)
    pool.start()
    for worker in workers():
        worker.kill()
    assert pool.verify([(0, "nothing", {})]) == [1.0]
    assert len(pool.facts()) == 1
    pool.close()


@pytest.mark.slow
def test_a_worker_that_never_starts_stops_the_node_with_the_reason() -> None:
    pool = Pool([TaskSpec("evil", evil.MODULE, "evil", params={"exits": True})], verifiers=1)
    with pytest.raises(WorkerFailed, match="exited with code 7"):
        pool.verify([(0, "nothing", {})])
    pool.close()


@pytest.mark.slow
def test_a_job_that_loses_several_workers_is_left_unjudged_and_reported() -> None:
    told: list[tuple[int, int]] = []
    pool = Pool([EVIL], verifiers=1, report=lambda *counts: told.append(counts))
    assert deeds(pool, "nothing", "crash", "nothing", "busy") == [1.0, UNJUDGED, 1.0, TOO_SLOW]
    assert told == [(TRIES, 1)]
    pool.close()


def test_credit_is_a_number_from_0_to_1(pool: Pool) -> None:
    assert deeds(pool, "nan", "inf", "-1", "7") == [0.0, 0.0, 0.0, 1.0]


def reply(*messages: Any, verdict: Any = None, lost: bool = False) -> dict[str, Any]:
    return {"messages": list(messages), "verdict": verdict, "lost": lost}


def test_an_environments_reply_is_checked() -> None:
    said = {"role": "user", "content": "a"}
    assert checked_reply(reply(said)) == EnvironmentReply((said,))
    over = checked_reply(reply(verdict={"credit": 2.0, "terms": [["right", 1.0], ["bad", math.nan]], "why": ""}))
    assert over == EnvironmentReply(verdict=Verdict(1.0, (("right", 1.0),)))
    for odd in (None, {}, reply({"role": "user"}), reply(verdict=0.5), reply("text"), reply(lost="yes")):
        assert checked_reply(odd) == UNJUDGED
    with pytest.raises(TaskError, match="needs a machine"):
        checked_reply({"error": "needs a machine"})
    with pytest.raises(TaskError, match="an environment writes turns of the model"):
        checked_reply(reply({"role": "assistant", "content": "what the model should learn"}))


def test_more_jobs_than_fit_in_the_pipes(pool: Pool) -> None:
    jobs = [(0, "nothing at " + "x" * 10_000, {"answer": "y" * 10_000})] * 500
    assert pool.verify(jobs) == [1.0] * 500


def test_after_an_interrupt_no_reply_reaches_the_wrong_job(pool: Pool) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            deeds(pool, "sleep", "nothing")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert deeds(pool, "-1", "nothing") == [0.0, 1.0]


def test_workers_ignore_terminal_signals(pool: Pool) -> None:
    deeds(pool, "nothing")
    before = {worker.pid for worker in workers()}
    for pid in before:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(pid, number)
    assert deeds(pool, "nothing") == [1.0]
    assert {worker.pid for worker in workers()} == before


def test_closing_leaves_no_process() -> None:
    before = {worker.pid for worker in workers()}
    pool = Pool([EVIL], verifiers=2)
    pool.start()
    pool.verify([(0, "nothing", {})])
    assert len({worker.pid for worker in workers()} - before) == 3
    pool.close()
    assert {worker.pid for worker in workers()} <= before
    pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("busy", ["nothing", "busy"])
def test_workers_end_when_their_node_is_killed(busy: str) -> None:
    program = (
        "from tests.hivemind_exp.tasks.workers.test_pool import *\n"
        "pool = Pool([EVIL], verifiers=2); pool.facts(); deeds(pool, 'nothing', 'nothing')\n"
        f"print(*[worker.pid for worker in workers()], flush=True); deeds(pool, {busy!r}, {busy!r}); time.sleep(60)"
    )
    node = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None
    pids = [int(pid) for pid in node.stdout.readline().split()]
    assert len(pids) == 3
    time.sleep(0.3)
    node.kill()
    node.wait()
    node.stdout.close()
    until(lambda: not any(map(alive, pids)), 10)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (TaskSpec("evil", evil.MODULE, "evil", params={"raises": True}), 'ImportError: "a library is broken"'),
        (TaskSpec("evil", evil.MODULE, "evil", params={"exits": True}), "code 7.*so it ends"),
        (TaskSpec("evil", "no.such.module", "evil"), "ModuleNotFoundError"),
    ],
)
def test_a_worker_that_cannot_start_reports_the_reason(spec: TaskSpec, why: str) -> None:
    pool = Pool([spec], verifiers=1)
    pool.start()
    with pytest.raises(NodeError, match=why) as caught:
        pool.verify([(0, "nothing", {})])
    assert exit_code(caught.value) is Exit.FAILED, "the configuration is not to blame"
    with pytest.raises(NodeError, match=why):
        pool.facts()
    pool.close()


def test_a_failing_generator_is_reported_with_its_task() -> None:
    pool = Pool([TaskSpec("evil-2", evil.MODULE, "evil", params={"junk": True})])
    with pytest.raises(TaskError, match=r"'evil-2' cannot generate a question: ValueError: \"no such puzzle"):
        pool.make([(0, 1)])
    pool.close()


def test_starting_returns_at_once() -> None:
    worker = WorkerProcess("verify", [EVIL], 2.0, 60.0)
    assert worker.ready is None
    worker.kill()


def test_the_evil_task_succeeds_outside_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the failures in the sandbox would prove nothing."""
    monkeypatch.setenv("PLANTED_SECRET", "sk-planted")
    # In a background job whose shell has ended, the test run's parent is init, which it may not read.
    monkeypatch.setattr("os.getppid", os.getpid)
    task = evil.build(EVIL)
    with socket.create_server(("127.0.0.1", 0)) as server:
        for deed in (
            f"socket at {server.getsockname()[1]}",
            f"write at {tmp_path / 'a'}",
            f"read at {tmp_path / 'a'}",
            f"list at {tmp_path}",
            f"system at {tmp_path / 'b'}",
            f"popen at {tmp_path / 'c'}",
            f"ctypes at {tmp_path / 'd'}",
            f"mkdir at {tmp_path / 'e'}",
            f"remove at {tmp_path / 'a'}",
            "secret at PLANTED_SECRET",
            "parent's secrets",
            "spawn",
            "unpickle",
        ):
            assert task.score(deed, {}) == 1.0, deed
    assert {path.name for path in tmp_path.iterdir()} == {"b", "c", "d", "e"}
