"""Warm start: before the first round, the node learns its own correct answers to prompts that show examples.

The steps' prompts show none, so that the model answers without them as it does with them. This is context distillation
(Askell et al. 2021, arXiv 2112.00861, appendix A) with verified answers only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, NoteEvent, PhaseEvent, WarningEvent
from hivemind_exp.game.base import Game
from hivemind_exp.game.prompt_style import PromptStyle, build_chats
from hivemind_exp.game.sampling.game import STAGE as ANSWER
from hivemind_exp.game.sampling.game import build_prompts, said
from hivemind_exp.journal.journal import Encode
from hivemind_exp.journal.records import Manifest, StageRun, TrainingRow
from hivemind_exp.rollouts.types import Prompt, Rollout
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.local import LocalSource
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.verifiers.reader import reference_of
from hivemind_exp.trainer.collapse import ways_to_a_reward
from hivemind_exp.trainer.round_loop import WARM_START

MOST_TIMES = 4
"""How often each answer is learned at most. More would only make the model repeat a few answers."""
BEFORE = -1
"""The round whose questions it asks."""


@dataclass(kw_only=True)
class WarmStart:
    """Samples the answers, and turns the correct ones into steps."""

    config: Config
    style: PromptStyle
    """How the node asks."""
    tasks: Tasks
    game: Game
    local: LocalSource
    tokenizer: PreTrainedTokenizerBase
    encode: Encode
    emit: Emit
    micro_batch: Callable[[Sequence[TrainingRow]], int]
    """Returns how many of a step's rows go through the model at a time."""

    def __post_init__(self) -> None:
        # At every start, so that the questions it shows as examples are always kept out of training.
        more = replace(self.style, examples=self.config.warm_start.examples)
        self._chats = build_chats(more, self.tasks)

    def steps(self) -> list[Manifest]:
        """Return the steps to take. Empty, with a warning, if no answer is correct. Raises ``StopRequested``."""
        settings = self.config.warm_start
        if self.style.examples >= settings.examples:
            message = f"no warm start: the prompts show {self.style.examples} examples already (warm_start.examples)"
            self.emit(WarningEvent(code="warm_start", message=message))
            return []
        pairs = self._prompts()
        asked = [with_examples for with_examples, _ in pairs]
        answers = self._sample(asked)
        scores = self.tasks.score([prompt.question for prompt in asked], list(map(said, answers)))
        correct = [
            (prompt, answer) for (_, prompt), answer, score in zip(pairs, answers, scores, strict=True) if score.correct
        ]
        rows = [row for number, pair in enumerate(correct) if (row := self._row(number, *pair)) is not None]
        found = f"{len(correct)} of {len(asked)} answers to prompts with {settings.examples} examples are correct"
        if not rows:
            message = f"no warm start: {found}. {ways_to_a_reward(self.config, 'wrong')}"
            self.emit(WarningEvent(code="warm_start", message=message))
            return []
        steps = min(settings.steps, MOST_TIMES * len(rows) // min(settings.batch, len(rows)))
        self.emit(NoteEvent(code="warm_start", message=f"warm start: {found}; learning them in {steps} steps"))
        return [self._manifest(step, rows) for step in range(steps)]

    def _prompts(self) -> list[tuple[Prompt, Prompt]]:
        """Return the prompts with and without examples, of those questions whose prompts are within the limit."""
        settings, limit = self.config.warm_start, self.config.generation.max_prompt_tokens
        questions = self.tasks.questions("train", BEFORE, settings.steps * settings.batch)
        shown = build_prompts(questions, self.tokenizer, self._chats)
        plain = self.game.prompts(StageRun(BEFORE, ANSWER), questions)
        both = zip(shown, plain, strict=True)
        return [pair for pair in both if max(len(prompt.ids) for prompt in pair) <= limit]

    def _sample(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """Return one completion per prompt."""
        answers = list[Rollout]()
        while (start := len(answers)) < len(prompts):
            self.emit(PhaseEvent(name="sampling answers for the warm start", done=start, total=len(prompts)))
            seed, size = derive_seed(self.config.node.seed, WARM_START, start), self.local.batch_size(prompts[start:])
            answers += [row for (row,) in self.local.generate(prompts[start : start + size], 1, seed=seed)]
        return answers

    def _row(self, number: int, prompt: Prompt, answer: Rollout) -> TrainingRow | None:
        """Return a correct answer, in the format that the node asks for; None if it cannot be put into it."""
        text = self.style.adopt(said(answer), reference_of(prompt.question.entry))
        ids = () if text is None else self.encode(text, False)
        if text is None or len(ids) > self.config.generation.max_completion_tokens:
            return None
        return TrainingRow(
            kind=answer.kind,
            source=answer.source,
            task=prompt.question.task,
            group=number,
            prompt_ids=prompt.ids,
            completion_ids=ids,
            text=text,
            outcome=1.0,
            advantage=1.0,  # the gradient of the log-likelihood
            lag=0,
        )

    def _manifest(self, step: int, rows: Sequence[TrainingRow]) -> Manifest:
        """Return a step on the next rows in turn."""
        size = min(self.config.warm_start.batch, len(rows))
        chosen = tuple(rows[(step * size + place) % len(rows)] for place in range(size))
        return Manifest(
            step=step,
            round=0,
            seed=derive_seed(self.config.node.seed, "step", step),
            micro_batch=self.micro_batch(chosen),
            rows=chosen,
        )
