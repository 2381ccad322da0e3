"""The node's journal (SQLite). Completions are written before they are used, manifests before their step is taken.

A completion in the journal is never requested again, and a step in it is never lost: kill -9 at any moment leaves
either a whole entry or none.
"""

import dataclasses
import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EISDIR
from pathlib import Path

from hivemind_exp import formats
from hivemind_exp.errors import FileProblem, NodeError
from hivemind_exp.full_disk import disk_full, lacks_inodes
from hivemind_exp.journal import audit, canary_log, columns, conversation, owner, pruning, question_results, records
from hivemind_exp.journal import prompts as prompts_table
from hivemind_exp.journal.decoding import decoding
from hivemind_exp.journal.records import FOREIGN, Evaluation, Manifest, QuestionResult, SourceContribution, StageRun
from hivemind_exp.journal.replies import Replies
from hivemind_exp.journal.stored import stored_rollout
from hivemind_exp.journal.terms import read_terms, terms_of
from hivemind_exp.list_command import list_command
from hivemind_exp.node_id import NodeId
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score

_SCHEMA = """
CREATE TABLE IF NOT EXISTS prompts (
    swarm TEXT, round INTEGER, stage TEXT, position INTEGER, task TEXT, question TEXT, messages TEXT,
    PRIMARY KEY (swarm, round, stage, position)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (
    swarm TEXT, round INTEGER, stage TEXT, question TEXT, body TEXT,
    PRIMARY KEY (swarm, round, stage, question)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS completions (
    swarm TEXT, round INTEGER, stage TEXT, question TEXT, idx INTEGER,
    kind TEXT, source TEXT, model TEXT, version INTEGER, text TEXT, ids TEXT, truncated INTEGER, logps TEXT,
    outcome REAL, strict INTEGER, why TEXT, usd REAL, t REAL, terms TEXT, conversation TEXT,
    PRIMARY KEY (swarm, round, stage, question, idx)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lost (
    swarm TEXT, round INTEGER, stage TEXT, question TEXT, idx INTEGER, why TEXT,
    PRIMARY KEY (swarm, round, stage, question, idx)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS manifests (step INTEGER PRIMARY KEY, round INTEGER, body BLOB);
CREATE TABLE IF NOT EXISTS turns (step INTEGER PRIMARY KEY, round INTEGER, stage TEXT, part INTEGER, finished INTEGER);
CREATE INDEX IF NOT EXISTS turns_by_round ON turns (round, stage);
CREATE TABLE IF NOT EXISTS lessons (
    step INTEGER, kind TEXT, source TEXT, completions INTEGER, tokens INTEGER, PRIMARY KEY (step, kind, source)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evaluations (round INTEGER PRIMARY KEY, accuracy REAL, questions INTEGER, by_task TEXT);
"""
_INSERT_COMPLETION = (
    "INSERT OR IGNORE INTO completions (swarm, round, stage, question, idx, kind, source, model, version, text, ids, "
    "truncated, logps, usd, t, conversation) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_GROUP = "swarm=? AND round=? AND stage=? AND question=?"
"""Selects one question's group in one stage."""
Encode = Callable[[str, bool], tuple[int, ...]]
"""Returns a text's token ids, at least one; the second argument says whether the text was truncated."""


class Journal:
    """A node's append-only journal. Don't share an instance between threads; each thread can open the file itself.

    Raises ``DiskFull`` if an entry cannot be written, ``FileProblem`` if the file is damaged or has a newer format.
    """

    def __init__(self, path: Path, swarm: str, *, durable: bool = True, node: NodeId | None = None) -> None:
        """Open the file. ``node``: the node that it must belong to. Raises ``NodeConflict`` if it is another's.

        Without ``durable``, an entry survives a killed process immediately, but a power cut only after the next write
        by a durable instance for the same file.
        """
        self._swarm = swarm
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            # A step must not be taken before its manifest is physically on disk, or a power cut would fork the node.
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            if durable:  # other instances open the file after this one has checked it
                formats.check_pages(self._db, path)
            formats.check_database(self._db, path)
            self._db.executescript(_SCHEMA + question_results.SCHEMA + audit.SCHEMA + canary_log.SCHEMA)
            columns.add_missing(self._db)
            owner.claim(self._db, path, node)
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def write_prompts(self, round_: int, prompts: Sequence[Prompt], first: int = 0) -> None:
        """Record a stage's prompts, before their first use. ``first``: the position of ``prompts[0]`` in the stage."""
        self._write_all(*prompts_table.statements(self._swarm, round_, prompts, first))

    def prompt(self, round_: int, question: Question, stage: str) -> Prompt | None:
        """Return a stage's prompt for a question, without token ids, or None if there is none yet."""
        found = self._db.execute(
            f"SELECT messages, body FROM prompts LEFT JOIN notes USING (swarm, round, stage, question) WHERE {_GROUP}",
            (self._swarm, round_, stage, question.digest),
        ).fetchone()
        if found is None:
            return None
        messages, notes = found
        with self._decoding(round_):
            return Prompt(question, stage, tuple(json.loads(messages)), (), json.loads(notes or "{}"))

    def write_rollouts(self, round_: int, version: int, groups: Sequence[Group]) -> None:
        """Record this machine's rollouts, all or none. ``version``: the node's optimizer steps so far."""
        now = time.time()
        rows = [
            (
                *(self._swarm, round_, group.prompt.stage, group.prompt.question.digest, place),
                *(rollout.kind, rollout.source, rollout.model),
                *(None if rollout.lag is None else version - rollout.lag, rollout.text, json.dumps(rollout.ids)),
                *(rollout.truncated, json.dumps(rollout.behaviour_logps), 0.0, now, conversation.packed(rollout)),
            )
            for group in groups
            for place, rollout in group.numbered().items()
        ]
        self._write_all((_INSERT_COMPLETION, rows))

    def write_completions(self, order: CompletionRequest, completions: Sequence[Completion]) -> None:
        """Record an API's completions, before they are used."""
        now = time.time()
        rows = [
            (
                *(self._swarm, order.round, order.stage, order.question, made.index),
                *(made.kind, made.provider, made.model, made.version, made.text, None),
                *(made.truncated, json.dumps(made.logps), made.usd, now, None),
            )
            for made in completions
        ]
        self._write_all((_INSERT_COMPLETION, rows))

    def write_lost(self, order: CompletionRequest, places: Sequence[int], why: str) -> None:
        """Record that slots were given up, so that they are not requested again."""
        group = (self._swarm, order.round, order.stage, order.question)
        self._write_all(("INSERT OR IGNORE INTO lost VALUES (?,?,?,?,?,?)", [(*group, n, why) for n in places]))

    def settled(self, round_: int, stage: str, question: str) -> set[int]:
        """Return the slots of a group that are filled or given up; ``question`` is the question's digest."""
        query = " UNION ".join(f"SELECT idx FROM {table} WHERE {_GROUP}" for table in ("completions", "lost"))
        return {place for (place,) in self._db.execute(query, (self._swarm, round_, stage, question) * 2)}

    def write_scores(self, round_: int, groups: Sequence[Group]) -> None:
        """Add the verifier's score to each completion."""
        rows = [
            (
                *(score.outcome, score.strict, score.why, terms_of(score)),
                *(self._swarm, round_, group.prompt.stage, group.prompt.question.digest, place),
            )
            for group in groups
            for place, score in zip(group.numbered(), group.scores, strict=True)
        ]
        self._write_all((f"UPDATE completions SET outcome=?, strict=?, why=?, terms=? WHERE {_GROUP} AND idx=?", rows))

    def rollouts(self, round_: int, prompt: Prompt, version: int, encode: Encode | None = None) -> dict[int, Rollout]:
        """Return a prompt's rollouts generated so far, by slot, in order, without those of peers.

        ``encode`` returns the token ids of texts that were recorded without any.
        """
        rows = self._db.execute(
            "SELECT idx, kind, source, model, version, text, ids, truncated, logps, conversation FROM completions "
            f"WHERE {_GROUP} AND idx<? ORDER BY idx",
            (self._swarm, round_, prompt.stage, prompt.question.digest, FOREIGN),
        )
        with self._decoding(round_):
            return {place: stored_rollout(row, version, encode) for place, *row in rows}

    def replies(self, round_: int, stage: str) -> Replies:
        """Return what an API returned for a stage's requests that have one slot and a name of their own."""
        return Replies(self._db, self._swarm, round_, stage)

    def scored(self, round_: int, stage: str, question: str, places: range) -> list[tuple[int, Kind, str, Score]]:
        """Return slot, kind, text and score of a group's verified completions, in slot order."""
        rows = self._db.execute(
            "SELECT idx, kind, text, outcome, strict, why, terms FROM completions "
            f"WHERE {_GROUP} AND idx>=? AND idx<? AND outcome IS NOT NULL ORDER BY idx",
            (self._swarm, round_, stage, question, places.start, places.stop),
        )
        with self._decoding(round_):
            return [
                (place, Kind(kind), text, Score(float(outcome), bool(strict), why, read_terms(terms)))
                for place, kind, text, outcome, strict, why, terms in rows
            ]

    def verified_rounds(self) -> int:
        """Return the number of rounds up to the last one with verified completions."""
        query = "SELECT MAX(round) FROM completions WHERE swarm=? AND outcome IS NOT NULL"
        return self._count(query, self._swarm)

    def commit(
        self,
        manifest: Manifest,
        stage_run: StageRun | None = None,
        finished: int | None = None,
        results: Sequence[QuestionResult] = (),
    ) -> None:
        """Record a step before it is taken.

        Its stage run, its question results and its sources' contributions are kept even after the manifest is deleted.

        ``stage_run``: the step's stage run; unset: the stage ``answer`` of its round. ``finished``: rounds finished
        before; unset: the number of its round.
        """
        about = stage_run or StageRun(manifest.round, "answer")
        self.commit_all([manifest], about, about.round if finished is None else finished, results)

    def commit_all(
        self, manifests: Sequence[Manifest], about: StageRun, finished: int, results: Sequence[QuestionResult] = ()
    ) -> None:
        """Record steps of one stage run before they are taken: all or none. ``results``: the first one's."""
        steps = [(each.step, about.round, about.stage, about.chunk, finished) for each in manifests]
        taught = [
            (each.step, *dataclasses.astuple(lesson)) for each in manifests for lesson in records.contributions(each)
        ]
        packed = [(each.step, each.round, each.pack()) for each in manifests]
        self._write_all(
            ("INSERT INTO manifests VALUES (?,?,?)", packed),
            (audit.INSERT_DIGEST, [(step, audit.digest(body)) for step, _, body in packed]),
            ("INSERT INTO turns VALUES (?,?,?,?,?)", steps),
            ("INSERT INTO lessons VALUES (?,?,?,?,?)", taught),
            (question_results.INSERT, question_results.rows(manifests[0].step, results)),
        )

    def replace(self, manifest: Manifest) -> None:
        """Replace a step's manifest by one that is taken in another way, or without some rows."""
        self._write_all(*audit.replacement_rows(manifest))

    def write_result(self, step: int, outcome: audit.StepOutcome) -> None:
        """Record what a step gave, after it was taken. A repeated step replaces its earlier result."""
        self._write_all(*audit.result_rows(step, outcome))

    def question_results(self, task: str, first: int, before: int) -> list[QuestionResult]:
        """Return a task's results in the rounds from ``first`` to ``before`` (not included), in order."""
        return question_results.of_task(self._db, task, first, before)

    def formats(self) -> list[tuple[int, int]]:
        """Return each step's completions that count, and how many of them are in exactly the requested format."""
        return question_results.formats(self._db)

    def stage_run(self, step: int) -> tuple[StageRun, int] | None:
        """Return a step's stage run and the number of rounds that the node had finished before it.

        None if nothing is recorded: before the first step, or for a step taken when each round was a single step.
        """
        found = self._db.execute("SELECT round, stage, part, finished FROM turns WHERE step=?", (step,)).fetchone()
        return None if found is None else (StageRun(*found[:3]), found[3])

    def chunks(self, round_: int, stage: str) -> int:
        """Return how many chunks of a stage have a step."""
        return self._count("SELECT MAX(part) FROM turns WHERE round=? AND stage=?", round_, stage)

    def contributions(self, before_step: int) -> list[SourceContribution]:
        """Return each source's total contribution to the steps before ``before_step``."""
        rows = self._db.execute(
            "SELECT kind, source, SUM(completions), SUM(tokens) FROM lessons WHERE step<? "
            "GROUP BY kind, source ORDER BY kind, source",
            (before_step,),
        )
        return [SourceContribution(Kind(kind), *rest) for kind, *rest in rows]

    def manifests(self, first_step: int) -> Iterator[Manifest]:
        """Yield the manifests from ``first_step`` on, in order, and stop at the first missing one.

        Raises ``FileProblem`` if one is damaged.
        """
        expected = first_step
        for step, body, digest in self._db.execute(
            "SELECT step, body, sha256 FROM manifests LEFT JOIN digests USING (step) WHERE step>=? ORDER BY step",
            (first_step,),
        ):
            if step != expected:
                return
            expected += 1
            try:
                yield audit.open_manifest(step, body, digest)
            except (ValueError, TypeError) as error:
                raise self._damaged(f"step {step + 1}: {error}") from error

    def is_empty(self) -> bool:
        """Return whether nothing has happened yet: no prompt, completion, step or evaluation."""
        tables = ("prompts", "completions", "manifests", "turns", "evaluations")
        return not any(self._db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in tables)

    def steps(self) -> int:
        """Return the number of steps up to the last one recorded, whether or not its manifest still exists."""
        return max(self._count(f"SELECT MAX(step) FROM {table}") for table in ("manifests", "turns"))

    def steps_taken(self) -> int:
        """Return the number of steps up to the last one with a result; ``steps`` in early journals, which have none."""
        taken, early = self._count("SELECT MAX(step) FROM results"), not self._count("SELECT MAX(step) FROM digests")
        return taken or (self.steps() if early else 0)

    def rewind(self, step: int, round_: int) -> None:
        """Delete the steps from ``step`` on, and what depends on their weights: these steps cannot be replayed.

        ``round_``: rounds finished before ``step``. Completions from other sources stay, because they were paid for.
        """
        by_step = ("manifests", "digests", "turns", "lessons", "visits", "results", "restorations", "marks")
        self._write_all(
            *((f"DELETE FROM {table} WHERE step>=?", [(step,)]) for table in by_step),
            ("DELETE FROM evaluations WHERE round>?", [(round_,)]),
            ("DELETE FROM completions WHERE version>? AND (source='local' OR kind='policy')", [(step,)]),
            ("UPDATE completions SET version=? WHERE version>?", [(step, step)]),
        )

    def forget_manifests(self, before_step: int) -> None:
        """Delete the manifests before ``before_step``, which every kept checkpoint already contains."""
        tables = ("manifests", "digests")
        self._write_all(*((f"DELETE FROM {table} WHERE step<?", [(before_step,)]) for table in tables))

    def first_round(self, finished: int, oldest_step: int) -> int:
        """Return the first round in which the node had finished ``finished`` rounds, or took step ``oldest_step``.

        0 if there is no such round. ``round`` and ``finished`` differ in a swarm whose rounds follow the clock.
        """
        query = "SELECT MIN(round) FROM turns WHERE finished>=? OR step>=?"
        return int(self._db.execute(query, (finished, oldest_step)).fetchone()[0] or 0)

    def prune(self, before: int) -> None:
        """Delete the prompts and completions of the rounds before ``before``. See ``pruning``."""
        try:
            pruning.delete_rounds(self._db, self._swarm, before)
        except sqlite3.Error as error:
            raise self._explain(error) from error

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Record an evaluation, so that a restart does not repeat it."""
        row = (evaluation.round, evaluation.accuracy, evaluation.questions, json.dumps(evaluation.by_task))
        answers = (canary_log.INSERT_ANSWERS, [canary_log.answers_row(evaluation)])
        self._write_all(("INSERT OR REPLACE INTO evaluations VALUES (?,?,?,?)", [row]), answers)

    def evaluations(self) -> list[Evaluation]:
        rows = self._db.execute("SELECT round, accuracy, questions, by_task FROM evaluations ORDER BY round")
        return [Evaluation(round_, accuracy, count, json.loads(tasks)) for round_, accuracy, count, tasks in rows]

    def close(self) -> None:
        self._db.close()

    def _count(self, query: str, *values: object) -> int:
        """Return how many items exist, given a query for the highest number, counted from 0."""
        (last,) = self._db.execute(query, values).fetchone()
        return 0 if last is None else int(last) + 1

    def _write_all(self, *batches: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:  # commits, or rolls back
                for statement, rows in batches:
                    self._db.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self._explain(error) from error

    @contextmanager
    def _decoding(self, round_: int) -> Iterator[None]:
        try:
            with decoding(round_):
                yield
        except sqlite3.DataError as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, what: str) -> FileProblem:
        return FileProblem(
            f"the journal {self._path} is damaged ({what}). If you move it aside, the node resumes from its newest "
            "checkpoint, but the steps and completions since then are lost",
            next=formats.set_aside(self._path),
        )

    def _explain(self, error: sqlite3.Error) -> NodeError:
        text = str(error)
        if "full" in text or "disk I/O" in text or lacks_inodes(self._path.parent):
            return disk_full(f"the journal {self._path}", self._path.parent)
        if formats.is_damage(error):
            return self._damaged(text)
        if (obstacle := formats.explain_obstacle(IsADirectoryError(EISDIR, text, str(self._path)))) is not None:
            return obstacle
        return NodeError(f"cannot use the journal {self._path}: {text}", next=list_command(self._path))
