"""Chooses how a node asks: as its settings or its record say, or by calibrating its model, once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import starmap

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.events import CalibrationEvent, Emit, Event, NoteEvent, PhaseEvent, WarningEvent, discard
from hivemind_exp.game.node_style import node_style, write_style
from hivemind_exp.game.prompt_style import WORDED, ChatBuilder, build_chats, configured
from hivemind_exp.game.sampling.game import STAGE, said
from hivemind_exp.intervals import in_percent
from hivemind_exp.models.chat_format import encode, set_thinking, thinking_template
from hivemind_exp.models.chat_turns import check_turns
from hivemind_exp.models.model_location import TINY
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.runner.kept_text import check_questions
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.sources.source import WholeWeights
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.trainer.calibration import EXAMPLES, Calibration, Complete, Found, affordable, candidates
from hivemind_exp.trainer.collapse import CUT, UNREAD, ways_to_a_reward
from hivemind_exp.trainer.start_levels import asked_at, find_levels

_READ = 16
"""Questions of each task that the tokenizer must keep."""


@dataclass(frozen=True, slots=True)
class StyleChooser:
    """Chooses the prompt style of one node."""

    config: Config
    files: NodeFiles
    emit: Emit
    stop: StopFlag
    tasks: Tasks
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    dtype: str = "float32"
    """The number format of the model's computation."""
    whole: WholeWeights = nullcontext
    """Gives the model its weights inside a block, if it has them only for a while."""

    def chats(self, *, new: bool) -> ChatBuilder:
        """Return the builder of the node's chats. Turns thinking on or off in the chat template if the style says so.

        ``new``: the node has done nothing yet. Then its model is calibrated, unless that has happened, or it is "tiny",
        which can only answer in tags. A node killed meanwhile starts again. Raises ``StopRequested``.
        """
        config = self.config
        if talks := self.tasks.conversing():
            self._check_turns(talks)
        elif new and config.model.name != TINY and not self.files.prompt.exists():
            check_questions(self.tokenizer, config.model.name, self.tasks.examples(_READ))
            self._calibrate()
        style = node_style(config, self.files)
        if style.thinking is not None and config.model.thinking is None:
            set_thinking(self.tokenizer, config.model.name, style.thinking)
        return build_chats(style, self.tasks)

    def _check_turns(self, talks: Sequence[str]) -> None:
        """Raise ``ModelError`` if the chat template cannot continue a conversation as it was."""
        for question in self.tasks.examples(1)[talks[0]]:
            check_turns(self.tokenizer, question.chat)
        if self.config.prompt.style == "auto" and len(talks) < len(self.config.tasks):
            message = (
                f"the prompt style of the other tasks is not calibrated, because {talks[0]} is a conversation. To "
                "choose it, set prompt.style"
            )
            self.emit(NoteEvent(code="calibration", message=message))

    def _calibrate(self) -> None:
        self.emit(PhaseEvent(name="trying prompt styles"))
        config, on_cpu = self.config, self.model.device.type == "cpu"
        complete = NodeCompletions(config, self.stop, self.model, self.tokenizer, self._pass_on, self.dtype, self.whole)
        calibration = Calibration(
            complete,
            self.tasks,
            longest=config.generation.max_completion_tokens,
            group_size=config.game.group_size,
            budget=affordable(sum(each.numel() for each in self.model.parameters()), on_cpu=on_cpu),
            seed=derive_seed(config.node.seed, "calibrate"),
            progress=self._tell,
        )
        paced = self.tasks if config.game.curriculum and isinstance(self.tasks, Mixture) else None
        with nullcontext() if paced is None else asked_at(paced, 0):
            found = calibration.run(*self._candidates())
        easiest = {task: signal.sampled for task, signal in found.tasks.items()}
        correct = partial(self._correct, complete, found.chats)
        event = as_event(found, {} if paced is None else find_levels(paced, easiest, correct))
        for line in summary_lines(config, event):
            self.emit(NoteEvent(code="calibration", message=line))
        self.emit(event)
        if not found.earned:
            self.emit(WarningEvent(code="nothing_earned", message=no_signal(config, event, found.too_long)))
        write_style(self.files.prompt, found.chats.style, event.model_dump(mode="json"))

    def _correct(self, complete: Complete, chats: ChatBuilder, asked: Sequence[Question]) -> list[bool]:
        """Return whether a sampled answer to each question is correct."""
        seed = derive_seed(self.config.node.seed, "start levels")
        longest = self.config.generation.max_completion_tokens
        rows = [row for row, _ in complete([(chats, question) for question in asked], longest=longest, seed=seed)]
        scores = self.tasks.score(asked, ["" if row is None else said(row) for row in rows])
        return [score.correct for score in scores]

    def _pass_on(self, event: Event, /) -> None:
        """Report what happens while completions are generated, except which: these are no evaluation."""
        if not isinstance(event, PhaseEvent):
            self.emit(event)

    def _tell(self, percent: int) -> None:
        self.emit(PhaseEvent(name="trying prompt styles", done=percent, total=100, percent=True))

    def _candidates(self) -> tuple[list[ChatBuilder], list[int]]:
        """Return the styles to try, and numbers of examples for the best of them. A single style if it is set."""
        config, settings = self.config, self.config.prompt
        fixed = configured(settings, config.model.thinking)
        if settings.style != "auto":
            return [ChatBuilder(fixed, self.tasks.examples(max(WORDED, fixed.examples)))], []
        drawn = self.tasks.examples(max(WORDED, fixed.examples, *EXAMPLES))
        switch = config.model.thinking is None and thinking_template(self.tokenizer, True) is not None
        styles = candidates(fixed, system=settings.system, switch=switch)
        most = min(map(len, drawn.values()), default=0)
        examples = [count for count in EXAMPLES if count <= most] if settings.examples == "auto" else []
        return [ChatBuilder(style, drawn) for style in styles], examples


@dataclass(frozen=True, slots=True)
class NodeCompletions(Complete):
    """Completes chats with the node's own model and sampling settings."""

    config: Config
    stop: StopFlag
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    emit: Emit = discard
    dtype: str = "float32"
    whole: WholeWeights = nullcontext

    def __call__(
        self, asked: Sequence[tuple[ChatBuilder, Question]], *, longest: int, seed: int | None
    ) -> list[tuple[Rollout | None, int]]:
        limit = self.config.generation.max_prompt_tokens
        settings = self.config.generation.model_copy(update={"max_completion_tokens": longest})
        source = LocalSource(
            self.model, self.tokenizer, settings, self.stop, _emit=self.emit, _dtype=self.dtype, whole=self.whole
        )
        prompts = list(starmap(self._prompt, asked))
        # Completions of one batch last as long as its longest, and prompts are padded to the longest.
        order = sorted((len(prompt.ids), place) for place, prompt in enumerate(prompts) if len(prompt.ids) <= limit)
        fitting = [prompts[place] for _, place in order]
        sampled = () if seed is None else source.generate(fitting, 1, seed=seed)
        rows = source.answer(fitting) if seed is None else [row for (row,) in sampled]
        done: list[tuple[Rollout | None, int]] = [(None, len(prompt.ids)) for prompt in prompts]
        for (length, place), row in zip(order, rows, strict=True):
            done[place] = row, length
        return done

    def _prompt(self, chats: ChatBuilder, question: Question) -> Prompt:
        chat = chats.chat(question)
        with self._thinking(chats.style.thinking):
            return Prompt(question, STAGE, chat, tuple(encode(chat, self.tokenizer)))

    @contextmanager
    def _thinking(self, thinking: bool | None) -> Iterator[None]:
        """Use a variant of the chat template inside the block, if the settings leave it open."""
        template = self.tokenizer.chat_template
        if thinking is not None and self.config.model.thinking is None:
            self.tokenizer.chat_template = thinking_template(self.tokenizer, thinking) or template
        try:
            yield
        finally:
            self.tokenizer.chat_template = template


def as_event(found: Found, levels: Mapping[str, int]) -> CalibrationEvent:
    """Return a calibration's result for the log."""
    style, greedy, sampled = found.chats.style, found.greedy, found.sampled
    return CalibrationEvent(
        style=str(style),
        form=style.form,
        **{name: getattr(style, name) for name in ("examples", "system", "thinking")},
        tried=found.tried,
        questions=greedy.asked,
        samples=found.samples,
        right=greedy.share(greedy.right),
        sampled=sampled.share(sampled.right),
        readable=sampled.share(sampled.readable),
        ended=sampled.share(sampled.ended),
        completion_length=sampled.share(sampled.tokens),
        tasks={task: asdict(signal) for task, signal in found.tasks.items()},
        levels=dict(levels),
        completions=found.completions,
        tokens=found.tokens,
    )


def summary_lines(config: Config, event: CalibrationEvent) -> list[str]:
    """Return the three lines that are printed about a calibration."""
    chosen = f"the best of {event.tried}; to choose another, set prompt.style" if event.tried > 1 else "as set"
    limit = config.generation.max_completion_tokens
    groups = ", ".join(f"{task} {_percent(signal['differing'])}" for task, signal in event.tasks.items())
    return [
        f"Prompt style: {event.style} ({chosen}).",
        f"Its answers: {_percent(event.right)} correct ({in_percent(event.right, event.questions)}), "
        f"{_percent(event.sampled)} when sampled; "
        f"{_percent(event.readable)} readable; {_percent(event.ended)} end within {limit} tokens, "
        f"{event.completion_length:.0f} on average.",
        f"Groups of {event.samples} that would teach something: {groups}.",
    ]


def no_signal(config: Config, event: CalibrationEvent, too_long: int = 0) -> str:
    """Return the warning about a model that earns nothing, with the settings that help.

    ``too_long``: number of styles whose prompts did not fit.
    """
    shares = {CUT: 1 - event.ended, UNREAD: 1 - event.readable}
    reason = next((reason for reason, share in shares.items() if share > 1 / 2), "wrong")
    what = f"no completion in any prompt style earned a reward; most are {reason}"
    message = f"{what}. {ways_to_a_reward(config, reason)}"
    if too_long:
        limit = config.generation.max_prompt_tokens
        message += f". Prompts in {too_long} of the styles were too long to try: raise generation.max_prompt_tokens"
        message += f" (now {limit})"
    return message


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
