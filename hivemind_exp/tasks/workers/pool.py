"""The node's worker processes: one generates questions, and separate ones verify answers.

Jobs are pipelined, so a hundred short answers cost one exchange. Replies arrive one by one. A job that uses too much
CPU time ends its worker (the pool ends one that ignores this) and counts as wrong. If a worker is killed, crashes or
gets stuck, its jobs go to another worker. A job on which ``TRIES`` workers in a row are lost is given up and left
unjudged.

Measured on two cores: a worker is ready after 0.1 s and takes 20 to 30 MiB. A verifier with math-verify is ready after
2.2 s and takes 65 MiB. Verifying 128 short answers takes 1 to 2 ms. Generating 10 000 ``spell_backward`` questions
takes 0.5 s.
"""

import math
import selectors
import zlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

from hivemind_exp.control_group import usable_cores
from hivemind_exp.errors import NodeError, TaskError, WorkerFailed
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import EnvironmentReply, Talk, TaskSpec, Verdict, interpreter
from hivemind_exp.tasks.workers.checked_replies import (
    TOO_SLOW,
    UNJUDGED,
    Unscored,
    checked_error,
    checked_facts,
    checked_item,
    checked_reply,
    checked_verdict,
)
from hivemind_exp.tasks.workers.process import LOOK_SECONDS, WorkerProcess

VERIFY_SECONDS = 2.0
"""CPU time allowed for one answer."""
MAKE_SECONDS = 10.0
"""CPU time allowed for one question. Some generators search for a puzzle, but never for a whole second."""
LOAD_SECONDS = 60.0
"""CPU time allowed to load the tasks. No limit applies to the operator's own files. All generators need 5 s."""
WINDOW = 32
"""Maximum number of jobs that a worker holds at a time."""
MOST_VERIFIERS = 4
TRIES = 3
"""Number of workers lost on one job after which it is given up."""
MOST_EXITS, MOST_KILLS = 3, 20
"""The pool gives up after this many workers of one role in a row that ended on their own, or were killed, before they
were ready. An end of their own is likely to happen again."""

Report = Callable[[int, int], None]
"""Called with the number of replaced workers and the number of jobs given up."""


class WorkerGroup:
    """Workers of one role. Workers that end are replaced."""

    def __init__(
        self, role: Role, specs: Sequence[TaskSpec], size: int, limit: float, python: str | None = None
    ) -> None:
        self._role = role
        self._python = python
        self._specs = list(specs)
        self._limit = limit
        self._size = size
        self._workers: list[WorkerProcess] = []
        self._homes: Sequence[int] = ()
        self._exits = self._kills = 0
        """Workers that have ended in a row before they were ready."""
        self.replaced = 0
        """Workers that were lost so far."""

    def start(self) -> None:
        """Start the missing workers without waiting for them."""
        taken = {worker.place for worker in self._workers}
        for place in sorted(set(range(self._size)) - taken):
            self._workers.append(
                WorkerProcess(self._role, self._specs, self._limit, LOAD_SECONDS, self._python, place=place)
            )

    def first(self) -> WorkerProcess:
        """Wait until one worker is ready, and return it.

        Raises:
            NodeError: the worker could not start.
        """
        while True:
            self.start()
            for worker in self._workers:
                if worker.ready is not None:
                    return worker
            self._step([], deque(), [], Counter())

    def run(self, jobs: Sequence[object], homes: Sequence[int] = ()) -> list[Any]:
        """Run all jobs. Return the replies in order, with an ``Unscored`` for each job without a reply.

        ``homes``: a number for each job. Jobs with equal numbers go to the same worker, as long as it lives. Empty: any
        worker takes any job.

        Raises:
            NodeError: a worker could not start.
        """
        lost: Counter[int] = Counter()
        replies: list[Any] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        self._homes = homes
        try:
            while waiting or any(worker.pending for worker in self._workers):
                self.start()
                self._step(jobs, waiting, replies, lost)
        finally:
            for worker in [worker for worker in self._workers if worker.pending]:
                self._drop(worker)  # interrupted: late replies would be assigned to the wrong jobs
        return replies

    def seconds(self) -> float:
        """Return the CPU time that the present workers have used."""
        return sum(worker.seconds for worker in self._workers)

    def close(self) -> None:
        """Stop every worker."""
        for worker in list(self._workers):
            self._drop(worker)

    def _step(self, jobs: Sequence[object], waiting: deque[int], replies: list[Any], lost: Counter[int]) -> None:
        """Hand out jobs, wait for activity, collect replies and replace workers that are lost.

        ``lost`` counts the workers that were lost on each job.
        """
        self._hand_out(jobs, waiting)
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.output, selectors.EVENT_READ, worker)
                if worker.wants_to_write:
                    selector.register(worker.input, selectors.EVENT_WRITE, worker)
            happened = selector.select(LOOK_SECONDS)
        for key, _ in happened:
            if key.data not in self._workers:
                continue  # it has just been dropped
            if key.fd == key.data.input:
                key.data.write()
            elif not self._take(key.data, replies):
                self._lose(key.data, waiting, replies, lost)
        active = [key.data for key, _ in happened]
        for worker in [each for each in self._workers if each.owes and each not in active]:
            if worker.is_stuck():
                self._lose(worker, waiting, replies, lost)

    def _hand_out(self, jobs: Sequence[object], waiting: deque[int]) -> None:
        ready = [worker for worker in self._workers if worker.ready is not None]
        if not ready:
            return
        share = min(WINDOW, math.ceil((len(waiting) + sum(len(worker.pending) for worker in ready)) / len(ready)))
        for worker in ready:
            own = [job for job in waiting if self._homes[job] % self._size == worker.place] if self._homes else waiting
            for job in list(islice(own, max(0, share - len(worker.pending)))):
                waiting.remove(job)
                worker.send(jobs[job], job, _turns(jobs[job]))

    def _take(self, worker: WorkerProcess, replies: list[Any]) -> bool:
        """Collect a worker's replies. Return False if no more will come."""
        messages = worker.read()
        for message in messages or ():
            if worker.ready is not None:
                if worker.pending:
                    replies[worker.pending.popleft()] = message
            else:
                self._begin(worker, message)
        return messages is not None

    def _begin(self, worker: WorkerProcess, message: Any) -> None:
        """Take a worker's first message. Raises ``NodeError`` if it cannot start."""
        try:
            match message:
                case {"error": error, "code": code, "next": command}:
                    raise checked_error(code, error, command)
                case {"ready": ready, "open": still_open}:
                    worker.ready, worker.still_open = checked_facts(ready, still_open, len(self._specs))
                case _:
                    checked_facts(None, None, 0)
        except NodeError:
            self.close()
            raise
        self._exits = self._kills = 0

    def _lose(self, worker: WorkerProcess, waiting: deque[int], replies: list[Any], lost: Counter[int]) -> None:
        """Drop a worker that has ended or is stuck, and put its jobs back at the head of the queue.

        Raises ``WorkerFailed`` if too many workers ended before they were ready.
        """
        code = worker.end()
        if worker.ready is None and worker.used_its_time:
            self.close()
            raise TaskError(f"the tasks need more than {LOAD_SECONDS:.0f} s of CPU time to load; check their params")
        if worker.ready is None:
            alone = code >= 0 or worker.made_no_progress
            self._exits += alone
            self._kills += not alone
        if self._exits >= MOST_EXITS or self._kills >= MOST_KILLS:
            error = worker.failure()
            self.close()
            raise error
        if worker.pending:
            job = worker.pending[0]
            lost[job] += 1
            if worker.used_its_time:
                replies[worker.pending.popleft()] = Unscored(TOO_SLOW)
            elif lost[job] >= (MOST_KILLS if worker.was_stopped else TRIES):
                replies[worker.pending.popleft()] = Unscored(UNJUDGED)
        self.replaced += not worker.used_its_time
        waiting.extendleft(reversed(worker.pending))
        self._drop(worker)

    def _drop(self, worker: WorkerProcess) -> None:
        self._workers.remove(worker)
        worker.kill()


def _turns(job: object) -> int:
    """Return how many turns the conversation of a job has; 1 if the job is about one answer."""
    match job:
        case [_, {"turns": turns}, *_]:
            return len(turns)
    return 1


class Pool:
    """A mixture's workers: one that generates questions, and the verifiers.

    Tasks with a virtual environment of their own (``base.interpreter``) have workers of their own.
    """

    def __init__(self, specs: Sequence[TaskSpec], verifiers: int | None = None, report: Report | None = None) -> None:
        """Start nothing yet. Raises ``TaskError`` if a task's virtual environment is not installed.

        ``verifiers``: their number; 0 if nothing is verified. By default it depends on the number of CPU cores.
        """
        if verifiers is None:
            verifiers = min(MOST_VERIFIERS, max(1, usable_cores() // 2))
        self._specs = list(specs)
        self._report = report
        self._reported = 0
        pythons = [interpreter(spec) for spec in specs]
        groups = {
            each: [spec for spec, python in zip(specs, pythons, strict=True) if python == each] for each in pythons
        }
        self._makers = [WorkerGroup("make", own, 1, MAKE_SECONDS, python) for python, own in groups.items()]
        self._verifiers = [
            WorkerGroup("verify", own, verifiers, VERIFY_SECONDS, python) for python, own in groups.items() if verifiers
        ]
        order = list(groups)
        self._homes = [(order.index(each), pythons[:task].count(each)) for task, each in enumerate(pythons)]
        """For each task, its place in the list of worker groups and in their specs."""

    def start(self) -> None:
        """Start the workers and return at once. They load while the caller imports its libraries."""
        for worker_group in (*self._makers, *self._verifiers):
            worker_group.start()

    def facts(self) -> list[dict[str, Any]]:
        """Wait for a worker of each worker group, then return each task's size, held-out size, hash and library."""
        found = [maker.first().ready or [] for maker in self._makers]
        return [found[worker_group][place] for worker_group, place in self._homes]

    def try_out(self) -> None:
        """Wait until both roles have loaded every task. Raises ``NodeError``."""
        self.start()
        for crew in (*self._makers, *self._verifiers):
            crew.first()

    def still_open(self) -> list[str]:
        """Wait for a worker of each crew, then return what the kernel does not enforce for them, with the reasons."""
        found = [reason for crew in (*self._makers, *self._verifiers) for reason in crew.first().still_open]
        return list(dict.fromkeys(found))

    def making_seconds(self) -> float:
        """Return the CPU time of the processes that generate questions. A replaced one counts from 0 again."""
        return sum(maker.seconds() for maker in self._makers)

    def make(self, places: Sequence[tuple[int, ...]]) -> list[tuple[str, dict[str, Any], str]]:
        """Return the text, entry and key for each (task, seed) or (task, seed, level).

        Raises:
            TaskError: a generator failed or used too much CPU time.
            WorkerFailed: the worker was lost again and again.
        """
        replies = self._run(self._makers, places)
        self._tell(replies)
        made = []
        for (task, *_), reply in zip(places, replies, strict=True):
            item = checked_item(reply)
            if isinstance(item, tuple):
                made.append(item)
                continue
            why = f"task {self._specs[task].label!r} cannot generate a question: "
            if reply == UNJUDGED:
                raise WorkerFailed(f"{why}{TRIES} workers in a row were killed, crashed or got stuck")
            raise TaskError(why + item)
        return made

    def verify(self, jobs: Sequence[tuple[int, str, Any]]) -> list[float | Verdict | Unscored]:
        """Return the credit for each (task, answer, entry). ``TOO_SLOW`` counts as wrong, ``UNJUDGED`` as unknown."""
        replies = self._run(self._verifiers, jobs)
        self._tell(replies)
        return [checked_verdict(reply) for reply in replies]

    def reply(self, jobs: Sequence[tuple[int, Talk, Any]]) -> list[EnvironmentReply | Unscored]:
        """Return the environment's reply for each (task, conversation, entry).

        A conversation stays with the worker that holds its state. Raises ``TaskError`` for an environment that cannot
        be used.
        """
        homes = [zlib.crc32(talk.name.encode()) for _, talk, _ in jobs]
        replies = self._run(self._verifiers, [(task, asdict(talk), entry) for task, talk, entry in jobs], homes)
        self._tell(replies)
        return [checked_reply(reply) for reply in replies]

    def close(self) -> None:
        """Stop all workers immediately."""
        for worker_group in (*self._makers, *self._verifiers):
            worker_group.close()

    def _run(
        self, worker_groups: Sequence[WorkerGroup], jobs: Sequence[tuple[Any, ...]], homes: Sequence[int] = ()
    ) -> list[Any]:
        """Run jobs, whose first part is the task, on the worker groups of their tasks. Return the replies in order."""
        replies: list[Any] = [None] * len(jobs)
        for number, worker_group in enumerate(worker_groups):
            own = [place for place, (task, *_) in enumerate(jobs) if self._homes[task][0] == number]
            given = [[self._homes[jobs[place][0]][1], *jobs[place][1:]] for place in own]
            found = worker_group.run(given, [homes[place] for place in own] if homes else ())
            for place, reply in zip(own, found, strict=True):
                replies[place] = reply
        return replies

    def _tell(self, replies: Sequence[object]) -> None:
        replaced = sum(worker_group.replaced for worker_group in (*self._makers, *self._verifiers))
        given_up = replies.count(UNJUDGED)
        if self._report is not None and (replaced > self._reported or given_up):
            self._report(replaced - self._reported, given_up)
        self._reported = replaced
