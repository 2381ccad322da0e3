"""Answer held-out questions or your own prompt, and chat."""

from collections.abc import Sequence
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.game.prompt_style import ChatBuilder, build_chats
from hivemind_exp.game.sampling.game import STAGE, scores_of
from hivemind_exp.models.chat_format import encode
from hivemind_exp.rollouts.types import Message, Prompt, Rollout
from hivemind_exp.seeds import derive_seed
from hivemind_exp.stop import StopRequested
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.trained.loading import Job, LoadedModel, loaded_model, own_chats, own_tasks, style_of


def own_question(config: Config, text: str) -> Question:
    """Return the user's text in the form of a question, which nothing can verify."""
    return Question(config.tasks[0].name, "heldout", 0, 0, text, {}, "", "")


def sample(job: Job) -> None:
    """Answer ``text``, or ``questions`` held-out questions, with a verdict on each answer.

    With ``base``, the model answers as before training, too. Emits for each question the events ``question``, ``text``
    (pieces of the answer) and ``answer``.
    """
    text = job.order["text"]
    if text is not None:
        with own_chats(job) as chats:
            _sample(job, [own_question(job.config, text)], chats, None)
        return
    job.link.phase("making questions")
    with own_tasks(job.config, job.files) as tasks:
        count = min(job.order["questions"], job.config.eval.questions)
        _sample(job, tasks.questions("heldout", 0, count), build_chats(style_of(job), tasks), tasks)


def _sample(job: Job, questions: Sequence[Question], chats: ChatBuilder, tasks: Tasks | None) -> None:
    seed, link, system = job.order["seed"], job.link, job.order["system"]

    def prompts_for(speaker: LoadedModel) -> list[Prompt]:
        asked = [(question, tuple(opening(question, chats, system))) for question in questions]
        return [Prompt(each, STAGE, chat, tuple(encode(chat, speaker.tokenizer))) for each, chat in asked]

    before: Sequence[dict[str, Any] | None] = [None] * len(questions)
    if job.order["base"]:
        with loaded_model(job, tasks, trained=False) as base:
            link.phase("answering with the model before training")
            rows = base.source.generate(prompts_for(base), 1, seed=seed)
        before = _verdicts(questions, [row for (row,) in rows], tasks)
    with loaded_model(job, tasks) as trained:
        for prompt, earlier in zip(prompts_for(trained), before, strict=True):
            question = prompt.question
            about = {"task": question.task, "reference": question.entry.get("answer")} if tasks else {}
            link.emit("question", question=question.text, before=earlier, **about)
            made = trained.source.stream(prompt, lambda piece: link.emit("text", text=piece), seed=seed)
            link.emit("answer", **_verdicts([question], [made], tasks)[0])


def _verdicts(questions: Sequence[Question], made: Sequence[Rollout], tasks: Tasks | None) -> list[dict[str, Any]]:
    scores = [None] * len(made) if tasks is None else scores_of(tasks, questions, made)
    return [
        {
            "text": row.text,
            "tokens": row.sampled,
            "truncated": row.truncated,
            "correct": score.correct if score is not None and score.judged else None,
            "why": None if score is None else score.why,
        }
        for row, score in zip(made, scores, strict=True)
    ]


def opening(question: Question, chats: ChatBuilder, system: str | None) -> list[Message]:
    """Return the first turns of a chat. ``system``: the system turn; empty: none; None: as the node asks.

    A conversation with an environment always begins as the environment says.
    """
    if system is None or question.chat:
        return list(chats.chat(question))
    first = [{"role": "system", "content": system}] if system else []
    return [*first, {"role": "user", "content": question.text}]


class Conversation:
    """The turns of a chat, of which the oldest are forgotten when they no longer fit."""

    def __init__(self, config: Config, speaker: LoadedModel, chats: ChatBuilder, system: str | None) -> None:
        self._config, self._speaker, self._chats, self._system = config, speaker, chats, system
        self._room = speaker.context - config.generation.max_completion_tokens
        self._turns: list[Message] = []

    def ask(self, text: str) -> tuple[Prompt, int]:
        """Return the prompt for the user's next turn, and how many earlier turns are forgotten.

        Raises ``ConfigurationError`` if this turn alone is too long.
        """
        kept = self._turns
        while True:
            said = [*kept, {"role": "user", "content": text}]
            question = own_question(self._config, said[0]["content"])
            chat = [*opening(question, self._chats, self._system), *said[1:]]
            ids = tuple(encode(chat, self._speaker.tokenizer))
            if len(ids) <= self._room:
                forgotten, self._turns = len(self._turns) - len(kept), said
                return Prompt(question, STAGE, tuple(chat), ids), forgotten
            if not kept:
                raise ConfigurationError(
                    f"this is too long: {len(ids):,} tokens, and the model's context has room for {self._room:,}"
                )
            kept = kept[2:]

    def answered(self, text: str) -> None:
        """Add the model's turn."""
        self._turns.append({"role": "assistant", "content": text})


def chat(job: Job) -> None:
    """Answer each message that the user sends, ``{"say": TEXT}``, until the command ends this process."""
    link, seed = job.link, job.order["seed"]
    with own_chats(job) as chats, loaded_model(job) as speaker:
        talk, number = Conversation(job.config, speaker, chats, job.order["system"]), 0
        link.emit("ready")
        while (said := link.receive().get("say")) is not None:
            link.stop.clear()
            try:
                prompt, forgotten = talk.ask(said)
            except ConfigurationError as error:
                link.emit("refused", message=error.message)
                continue
            pieces: list[str] = []

            def hear(piece: str, pieces: list[str] = pieces) -> None:
                pieces.append(piece)
                link.emit("text", text=piece)

            truncated = stopped = False
            turn = None if seed is None else derive_seed(seed, "chat", number)
            try:
                truncated = speaker.source.stream(prompt, hear, seed=turn).truncated
            except StopRequested:
                stopped = True
            number += 1
            talk.answered("".join(pieces))
            link.emit("answer", truncated=truncated, stopped=stopped, forgotten=forgotten)
