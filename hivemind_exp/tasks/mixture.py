"""A node's mixture of tasks: generates questions, the same on every node, and scores completions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import msgpack

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import (
    FULL_CREDIT,
    NO_ANSWER,
    EnvironmentReply,
    Heard,
    Pacing,
    Question,
    RewardTerm,
    Score,
    Split,
    Talk,
    Verdict,
)
from hivemind_exp.tasks.question_positions import HELD_OUT_SHARE, QuestionPositions
from hivemind_exp.tasks.registry import expand
from hivemind_exp.tasks.seed_sequence import Sequence64, canonical
from hivemind_exp.tasks.verifiers.reader import Reading, read, reference_of
from hivemind_exp.tasks.workers.checked_replies import UNJUDGED, Unscored
from hivemind_exp.tasks.workers.pool import Pool, Report

LONGEST_ANSWER = 16_384
"""Maximum length, in characters, of an answer that is verified. Five times any task's longest reference answer."""
FORGET_AFTER = 64
"""After this many repeated questions in a row, the round has used up its tasks and allows repeats."""
GIVE_UP_AFTER = 4096
"""After this many positions in a row without a usable question, the tasks count as too small (``TaskError``)."""
DIGEST_SECONDS = 300.0
"""CPU time for the digests of all tasks of a swarm, whose params strangers choose. 64 generators need 26 s."""
USUAL_GROUPS = 8
"""Positions in a fixed set that a round uses up in a swarm without a curriculum: the default of ``game.groups``."""
SWARM_STRIDE = 64
"""Positions in a fixed set that a round uses up in a swarm with a curriculum, whose nodes may ask numbers of questions
that differ."""
_LEVEL_ITEMS = 8
"""Items of each level that a digest covers."""
_SMALLEST_CHUNK, _LARGEST_CHUNK = 8, 4096
"""Questions generated at a time. Some take 0.2 s, so generate only a few more than needed."""


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """What a charter pins about one task."""

    label: str
    size: int | None
    """Number of training questions in a fixed set."""
    sha256: str | None
    """SHA-256 of a fixed set's data."""
    version: str
    """Name and version of the library that generates the questions, or an empty string."""
    levels: Sequence[Mapping[str, Any]] = ()
    """The parameters of each level of difficulty. Empty without a curriculum, and if there are no easier ones."""


class Mixture:
    """Implements ``base.Tasks``. Call it only from the thread that created it; that thread must outlive it."""

    def __init__(
        self,
        specs: Sequence[TaskConfig],
        *,
        charter: bytes,
        secret: bytes,
        heldout: int,
        partial_credit: bool = False,
        curriculum: bool = False,
        levels: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
        groups: int | None = None,
        verifiers: int | None = None,
        report: Report | None = None,
    ) -> None:
        """Start the workers without waiting for them.

        Args:
            specs: tasks with their weights; presets are expanded.
            charter: id of the swarm; determines the training questions.
            secret: known only to this node; determines the held-out questions.
            heldout: number of questions to hold out.
            partial_credit: give the verifiers' credit for near misses.
            curriculum: prepare the tasks' levels of difficulty. ``pacing`` chooses among them.
            levels: the tasks' levels by label, as the charter of a swarm with a curriculum lists them. None: no such
                swarm.
            groups: questions per round of a node that is not in a swarm. Its rounds see each question of a fixed set
                once per epoch. None: in a swarm, whose nodes agree on a round's questions although they ask different
                numbers of them.
            verifiers: number of verifier processes; 0 if nothing is scored. By default it depends on the number of CPU
                cores.
            report: called after workers had to be replaced, with the number of workers and of unverified completions.

        Raises:
            TaskError: a task does not exist.
        """
        expanded = expand(specs)
        self._labels = [spec.label for spec, _ in expanded]
        self._shown = Sequence64(charter, "examples")
        self._positions = QuestionPositions(
            self._labels,
            [weight for _, weight in expanded],
            (groups or USUAL_GROUPS) if levels is None else SWARM_STRIDE,
            Sequence64(charter, "train"),
            Sequence64(charter, "heldout", secret),
            by_index=curriculum or levels is not None,
            shared=groups is None,
        )
        self._wanted = heldout
        self._partial = partial_credit
        self._digest_seconds = 0.0
        self._heldout: list[Question] | None = None
        self._held_keys: frozenset[str] = frozenset()
        self._set_aside: frozenset[str] = frozenset()
        given = {label: None if levels is None else levels.get(label, ()) for label in self._labels}
        tasks = [replace(spec, curriculum=curriculum, levels=given[spec.label]) for spec, _ in expanded]
        self._pool = Pool(tasks, verifiers, report)
        self._pool.start()

    @property
    def pacing(self) -> Pacing | None:
        """Decides which training questions a round asks. None: all of them, with the tasks' own parameters."""
        return self._positions.pacing

    @pacing.setter
    def pacing(self, pacing: Pacing | None) -> None:
        self._positions.pacing = pacing

    def facts(self) -> list[TaskFacts]:
        """Return what a charter pins about each task. Waits for the workers."""
        return [
            TaskFacts(label, fact["size"], fact["sha256"], fact["version"], _several(fact["levels"]))
            for label, fact in zip(self._labels, self._pool.facts(), strict=True)
        ]

    def still_open(self) -> list[str]:
        """Return what the workers' sandbox lacks on this machine. Waits for the workers."""
        return self._pool.still_open()

    def conversing(self) -> list[str]:
        """Return the tasks whose questions are conversations. Waits for the workers."""
        return [label for label, fact in zip(self._labels, self._pool.facts(), strict=True) if fact["turns"]]

    def levels(self) -> dict[str, int]:
        """Return each task's number of levels of difficulty; 0 without a curriculum. Waits for the workers."""
        return {label: len(fact["levels"]) for label, fact in zip(self._labels, self._pool.facts(), strict=True)}

    def printed(self) -> str:
        """Return the beginning of what the operator's own code printed while it was loaded. Waits for the workers."""
        return "".join(fact["printed"] for fact in self._pool.facts())

    def digest(self, label: str, n: int = 64) -> str:
        """Return a SHA-256 (hex) over ``n`` items of a task, and with levels of difficulty over some of each level.

        Nodes with the same questions get the same digest.
        Raises ``TaskError`` if the digests of this mixture need more CPU time than ``DIGEST_SECONDS``.
        """
        task = self._labels.index(label)
        size, levels = (self._pool.facts()[task][name] for name in ("size", "levels"))
        numbers = [Sequence64(b"", "train").at("digest", label, place) for place in range(n)]
        positions: list[tuple[int, ...]] = [(task, number if size is None else number % size) for number in numbers]
        for level in range(len(_several(levels))):
            positions += [(task, number, level) for number in numbers[:_LEVEL_ITEMS]]
        items = []
        for start in range(0, len(positions), _SMALLEST_CHUNK):
            begun = self._pool.making_seconds()
            items += self._pool.make(positions[start : start + _SMALLEST_CHUNK])
            self._digest_seconds += max(0.0, self._pool.making_seconds() - begun)
            if self._digest_seconds > DIGEST_SECONDS:
                raise TaskError(
                    f"comparing the questions of the swarm's tasks needs more than {DIGEST_SECONDS:.0f} s of CPU time, "
                    f"up to the task {label}; their params make them too slow",
                    next="swarmctl swarm new --help",
                )
        return hashlib.sha256(msgpack.packb(items, unicode_errors="surrogatepass")).hexdigest()

    def questions(self, split: Split, round: int, count: int) -> list[Question]:
        """Return the first ``count`` questions of a round. A negative round comes before the first one.

        Training questions are distinct within the round, as long as the tasks have enough of them, and never held out.
        Held-out questions are the same in every round. Small fixed sets may yield fewer than ``count``.

        Raises:
            TaskError: a task cannot generate questions, or has too few.
        """
        heldout = self._hold_out()
        if split == "heldout":
            return heldout[:count]
        return list(islice(self._training(round, count), count))

    def question(self, task: str, round: int, index: int, level: int | None) -> Question | None:
        """Return the question of a task that a peer asked at an index of a round, at a level of difficulty.

        The peer may ask other tasks at the indices before than this node. None if the question is held out here, or
        shown as an example. Only with ``levels``. Raises ``TaskError`` if it cannot be generated.
        """
        self._hold_out()
        number = self._labels.index(task)
        seed = self._positions.seed(self._pool.facts()[number], number, round, index)
        (found,) = self._made("train", round, [(index, number, seed)], [level])
        return None if found.key in self._held_keys or found.key in self._set_aside else found

    def levels_at(self, round: int) -> dict[str, int]:
        """Return the level of difficulty at which a round asks each task that has one."""
        facts = self._pool.facts()
        found = {label: self._positions.level(facts, task, "train", round) for task, label in enumerate(self._labels)}
        return {label: level for label, level in found.items() if level is not None}

    def examples(self, count: int) -> dict[str, list[Question]]:
        """Return up to ``count`` questions of each task, with their answers in ``entry``: the same ones every time.

        None is held out. Call ``set_aside`` with those that a prompt shows.
        """
        self._hold_out()
        return {
            label: list(
                islice(self._examples(task), min(count, fact["size"] // HELD_OUT_SHARE if fact["size"] else count))
            )
            for task, (label, fact) in enumerate(zip(self._labels, self._pool.facts(), strict=True))
        }

    def set_aside(self, questions: Sequence[Question]) -> None:
        """Keep questions out of training, like held-out ones."""
        self._hold_out()
        self._set_aside |= {question.key for question in questions}

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        """Verify completions in parallel. Return one score for each, whatever it contains."""
        readings = [
            read(completion, reference_of(question.entry))
            for question, completion in zip(questions, completions, strict=True)
        ]
        answers = [None if reading is None else reading.answer for reading in readings]
        jobs = [
            (place, (self._labels.index(question.task), answer, dict(question.entry)))
            for place, (question, answer) in enumerate(zip(questions, answers, strict=True))
            if answer is not None and len(answer) <= LONGEST_ANSWER
        ]
        credits: list[float | Verdict | Unscored] = [
            Unscored(NO_ANSWER) if answer is None else Unscored("answer too long") for answer in answers
        ]
        for (place, _), credit in zip(jobs, self._pool.verify([job for _, job in jobs]), strict=True):
            credits[place] = credit
        return [self._judge(credit, reading) for credit, reading in zip(credits, readings, strict=True)]

    def reply(self, questions: Sequence[Question], talks: Sequence[Talk]) -> list[Heard]:
        """Return environments' replies to the latest turns of conversations.

        A turn that needs too much CPU time ends its conversation, which counts as wrong.
        """
        jobs = [
            (self._labels.index(question.task), talk, dict(question.entry))
            for question, talk in zip(questions, talks, strict=True)
        ]
        return [self._heard(found) for found in self._pool.reply(jobs)]

    def _heard(self, found: EnvironmentReply | Unscored) -> Heard:
        if isinstance(found, Unscored):
            return Heard(score=self._judge(found, None))
        if found.verdict is None:
            return Heard(found.messages, lost=found.lost)
        return Heard(found.messages, self._judge(found.verdict, None))

    def close(self) -> None:
        """Stop the worker processes."""
        self._pool.close()

    def _judge(self, found: float | Verdict | Unscored, reading: Reading | None) -> Score:
        strict = reading is not None and reading.strict
        if isinstance(found, Unscored):
            return Score(0.0, strict, str(found), judged=found != UNJUDGED)
        verdict = found if isinstance(found, Verdict) else Verdict(found)
        terms = tuple(RewardTerm(name, value, None, "") for name, value in verdict.terms)
        if verdict.credit >= FULL_CREDIT:
            return Score(1.0, strict, "correct", terms)
        partly = "partly correct" if self._partial else "not fully correct"
        why = verdict.why or (partly if verdict.credit > 0 else "wrong")
        return Score(verdict.credit if self._partial else 0.0, strict, why, terms)

    def _hold_out(self) -> list[Question]:
        if self._heldout is None:
            found: dict[str, Question] = {}
            known = 0
            for question in self._stream("heldout", 0, self._wanted) if self._wanted else ():
                known = known + 1 if question.key in found else 0
                self._give_up_after(known, f"only {len(found)} distinct questions to hold out", len(found))
                found.setdefault(question.key, question)
                if len(found) == self._wanted:
                    break
            self._heldout = list(found.values())
            self._held_keys = frozenset(found)
        return self._heldout

    def _training(self, round: int, count: int) -> Iterator[Question]:
        """Yield a round's questions that are not held out, each only once until the tasks are used up."""
        seen: set[str] = set()
        repeats = held = 0
        for question in self._stream("train", round, count):
            held = held + 1 if question.key in self._held_keys or question.key in self._set_aside else 0
            known = len(self._held_keys)
            self._give_up_after(held, f"no questions besides the {known} held-out ones", known)
            if held:
                continue
            if question.key in seen:
                repeats += 1
                if repeats < FORGET_AFTER:
                    continue
                seen.clear()
            repeats = 0
            seen.add(question.key)
            yield question

    def _give_up_after(self, positions: int, found: str, known: int) -> None:
        """Raise ``TaskError`` after so many positions without a new question. ``known``: the number of questions."""
        if positions > GIVE_UP_AFTER:
            few = max(1, min(known, self._wanted) // 2)  # the other half is left to train on
            raise TaskError(
                f"the tasks ({', '.join(self._labels)}) have {found}; widen their params or hold out fewer questions",
                next=f"swarmctl run --set eval.questions={few}",
            )

    def _stream(self, split: Split, round: int, count: int) -> Iterator[Question]:
        """Yield a round's questions in order, without end. They are generated in batches."""
        positions = self._positions.of_round(self._pool.facts(), split, round)
        chunk = min(max(count, _SMALLEST_CHUNK), _LARGEST_CHUNK)
        while picked := list(islice(positions, chunk)):
            yield from self._made(split, round, picked)
            count -= chunk
            chunk = min(max(count, chunk // 8, _SMALLEST_CHUNK), _LARGEST_CHUNK)

    def _made(
        self,
        split: Split,
        round: int,
        positions: Sequence[tuple[int, int, int]],
        levels: Sequence[int | None] | None = None,
    ) -> Iterator[Question]:
        """Yield the questions at (index, task, seed), at the round's levels or at others."""
        facts = self._pool.facts()
        if levels is None:
            levels = [self._positions.level(facts, task, split, round) for _, task, _ in positions]
        jobs = [
            (task, seed) if level is None else (task, seed, level)
            for (_, task, seed), level in zip(positions, levels, strict=True)
        ]
        made = self._pool.make(jobs)
        for (index, task, seed), level, (text, entry, key) in zip(positions, levels, made, strict=True):
            label = self._labels[task]
            digest = hashlib.sha256(canonical(label, text)).hexdigest()
            position = None if facts[task]["size"] is None else seed
            turns = facts[task]["turns"]
            chat = tuple(entry["chat"]) if turns else ()
            yield Question(label, split, round, index, text, entry, digest, key, position, level, chat, turns)

    def _examples(self, task: int) -> Iterator[Question]:
        """Yield distinct questions of a task that are not held out, in the order that the charter gives."""
        label, size = self._labels[task], self._pool.facts()[task]["size"]
        positions = None if size is None else self._shown.permutation(label, 0, size)
        seen: set[str] = set(self._held_keys)
        for index in range(GIVE_UP_AFTER if positions is None else len(positions)):
            seed = self._shown.at("item", label, 0, index) if positions is None else positions[index]
            for question in self._made("train", -1, [(index, task, seed)]):
                if question.key not in seen:
                    seen.add(question.key)
                    yield question


def _several(levels: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return a task's levels if there are easier ones than its own parameters."""
    return levels if len(levels) > 1 else ()
