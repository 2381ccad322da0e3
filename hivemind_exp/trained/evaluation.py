"""Ask a model, or a model behind an API, held-out questions, and verify its answers.

Every completion is in a journal before it is verified, so an evaluation that ends early continues where it stopped, and
an API is never paid twice.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import TaskError
from hivemind_exp.game.prompt_style import ChatBuilder, build_chats
from hivemind_exp.game.sampling.game import STAGE, build_prompts, scores_of
from hivemind_exp.journal.journal import Encode, Journal
from hivemind_exp.journal.node_charter import node_charter
from hivemind_exp.journal.records import StageRun
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.process.client import open_offload
from hivemind_exp.offload.settings import is_offloaded
from hivemind_exp.rollouts.types import CompletionRequest, Group, Prompt, encode_completion
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.sources.source import Ask
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trained.loading import Job, loaded_model, own_tasks, style_of, with_charter
from hivemind_exp.trainer.round_loop import encode_as_bytes

CHUNK = 16
"""Questions that are answered and verified together, and stored under one round number."""
PUBLIC = b"swarmctl eval"
"""Determines the questions of ``--task``: the same for every model on every machine."""


def evaluate(job: Job) -> None:
    """Ask ``questions`` questions ``samples`` times each; emit the event ``result`` for each question.

    ``asked``: the node whose held-out questions are asked (``config``, ``node_dir``); None: questions of the job's
    tasks that are the same for every model. ``results``: the directory for the journal and, with an API, the ledger.
    ``greedy``: decode greedily, with one sample. Raises ``NodeError``.
    """
    with ExitStack() as ends:
        job.link.phase("making questions")
        tasks, count = ends.enter_context(_tasks(job))
        questions = tasks.questions("heldout", 0, count)
        if not questions:
            raise TaskError("the tasks have no held-out questions")
        job.link.emit("questions", count=len(questions))
        results = NodeFiles(Path(job.order["results"]))
        journal = ends.enter_context(closing(Journal(results.journal, node_charter(job.config, results))))
        remote = is_offloaded(job.config)
        chats = build_chats(style_of(job), tasks)
        if remote:
            if talks := next((each.task for each in questions if each.turns), None):
                raise TaskError(
                    f"task {talks} is a conversation, which only a model on this machine can have",
                    next="swarmctl eval --help",
                )
            answered = _from_api(job, journal, results, questions, chats)
        else:
            answered = _from_model(job, journal, questions, chats, tasks)
        for chunk in answered:
            for group, scores in zip(chunk, _scores(tasks, chunk), strict=True):
                job.link.emit("result", **_result(group, scores))


@contextmanager
def _tasks(job: Job) -> Iterator[tuple[Tasks, int]]:
    """Open the tasks; yield them, and how many of their held-out questions to ask."""
    asked, wanted = job.order["asked"], job.order["questions"]
    if asked is None:
        with closing(Mixture(job.config.tasks, charter=PUBLIC, secret=PUBLIC, heldout=wanted)) as public:
            yield public, wanted
        return
    files = NodeFiles(Path(asked["node_dir"]))
    config = with_charter(Config.model_validate(asked["config"]), files)
    with own_tasks(config, files) as tasks:
        # The node may have trained on any further question.
        yield tasks, min(wanted, config.eval.questions)


def _chunks(questions: Sequence[Question]) -> Iterator[tuple[StageRun, Sequence[Question]]]:
    for number, start in enumerate(range(0, len(questions), CHUNK)):
        yield StageRun(number, STAGE), questions[start : start + CHUNK]


def _from_model(
    job: Job, journal: Journal, questions: Sequence[Question], chats: ChatBuilder, tasks: Tasks
) -> Iterator[list[Group]]:
    """Yield the answers of a model on this machine, chunk by chunk. It is only loaded if it has to answer."""
    with ExitStack() as ends:
        loaded = None
        for run, some in _chunks(questions):
            empty = _empty(job, journal, run, [Prompt(each, STAGE, (), ()) for each in some])
            if empty and loaded is None:
                loaded = ends.enter_context(loaded_model(job, tasks))
                job.link.phase("answering")
            if empty and loaded is not None:
                prompts = {prompt.question.digest: prompt for prompt in build_prompts(some, loaded.tokenizer, chats)}
                wanted = tuple((prompts[prompt.question.digest], places) for prompt, places in empty)
                for batch in _batches(loaded.source, job, run, wanted):
                    journal.write_rollouts(run.round, 0, batch)
            encode = encode_as_bytes if loaded is None else partial(encode_completion, loaded.tokenizer)
            yield _groups(job, journal, run, some, encode)


def _batches(
    source: LocalSource, job: Job, run: StageRun, empty: tuple[tuple[Prompt, tuple[int, ...]], ...]
) -> Iterator[Sequence[Group]]:
    if job.order["greedy"]:
        prompts = [prompt for prompt, _ in empty]
        while prompts:
            size = source.batch_size(prompts)
            some, prompts = prompts[:size], prompts[size:]
            rows = source.generate(some, 1, seed=None)
            yield [Group(prompt, made) for prompt, made in zip(some, rows, strict=True)]
        return
    # With a deadline, the source yields batch by batch.
    yield from source.collect(Ask(run, range(job.order["samples"]), empty, math.inf))


def _from_api(
    job: Job, journal: Journal, results: NodeFiles, questions: Sequence[Question], chats: ChatBuilder
) -> Iterator[list[Group]]:
    """Yield the answers of a model behind an API, chunk by chunk. All are requested at once."""
    orders = [
        CompletionRequest(run.round, STAGE, prompt.question.digest, prompt.messages, places, 0)
        for run, some in _chunks(questions)
        for prompt, places in _empty(job, journal, run, build_prompts(some, None, chats))
    ]
    offload = open_offload(job.config, results, job.secrets, job.link.hear, job.link.stop) if orders else None
    with ExitStack() as ends:
        if offload is not None:
            ends.callback(offload.close)
            offload.wait_for_probe()
            job.link.phase("answering")
            offload.submit(orders)
        for run, some in _chunks(questions):
            if offload is not None:
                offload.wait(run.round)
            yield _groups(job, journal, run, some, encode_as_bytes)


def _empty(
    job: Job, journal: Journal, run: StageRun, prompts: Sequence[Prompt]
) -> tuple[tuple[Prompt, tuple[int, ...]], ...]:
    """Return the prompts that lack answers, each with its empty slots."""
    found = []
    for prompt in prompts:
        settled = journal.settled(run.round, STAGE, prompt.question.digest)
        if left := tuple(place for place in range(job.order["samples"]) if place not in settled):
            found.append((prompt, left))
    return tuple(found)


def _groups(job: Job, journal: Journal, run: StageRun, questions: Sequence[Question], encode: Encode) -> list[Group]:
    groups = []
    for question in questions:
        prompt = Prompt(question, STAGE, (), ())
        rows = journal.rollouts(run.round, prompt, 0, encode)
        kept = [row for place, row in rows.items() if place < job.order["samples"]]
        groups.append(Group(prompt, tuple(kept)))
    return groups


def _scores(tasks: Tasks, groups: Sequence[Group]) -> list[list[Any]]:
    questions = [group.prompt.question for group in groups for _ in group.rollouts]
    scores = iter(scores_of(tasks, questions, [row for group in groups for row in group.rollouts]))
    return [[next(scores) for _ in group.rollouts] for group in groups]


def _result(group: Group, scores: Sequence[Any]) -> Mapping[str, Any]:
    question = group.prompt.question
    return {
        "task": question.task,
        "question": question.text,
        "digest": question.digest,
        "reference": question.entry.get("answer"),
        "answers": [
            {
                "text": row.text,
                "correct": score.correct if score.judged else None,
                "why": score.why,
                "truncated": row.truncated,
                "tokens": row.sampled if row.source == "local" else None,
            }
            for row, score in zip(group.rollouts, scores, strict=True)
        ],
    }
