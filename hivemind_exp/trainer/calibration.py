"""Find the prompt style in which a model answers best, before its training starts.

In two rungs, as in successive halving (Jamieson & Talwalkar 2016, arXiv 1502.07943): all styles without examples answer
a few questions; the best style, the same with examples, and the best style of another form answer more. If no style is
right by then, examples are tried in every form, and sampled answers decide: training learns from those. Then the best
style is measured with the node's own sampling settings. The effort is bounded in tokens, not in seconds, so that a slow
machine finds the same as a fast one; larger models get fewer tokens.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from hivemind_exp.game.prompt_style import FORMS, ChatBuilder, PromptStyle
from hivemind_exp.game.sampling.game import said
from hivemind_exp.rollouts.types import Rollout
from hivemind_exp.tasks.base import Question, Tasks
from hivemind_exp.tasks.verifiers.reader import read, reference_of

CPU_TOKENS, ACCELERATOR_TOKENS = 6_000, 120_000
"""What a calibration may cost, in generated tokens. A small model takes about a minute for the first on two cores, and
seconds for the second on an NVIDIA card."""
CPU_PARAMETERS, ACCELERATOR_PARAMETERS = 150_000_000, 1_500_000_000
"""Parameters up to which a model may spend all of them. A larger one generates more slowly, so it gets fewer."""
LEAST_TOKENS = 1_000
"""What every calibration may cost: a few questions in each style."""
EXAMPLES = (1, 3)
"""Numbers of examples that are tried."""
MOST_SAMPLES = 8
"""Completions per question, at most, that measure how often sampling is right."""
ROUND = -2
"""The round, before the first one, from which the questions come."""
_RUNGS = 2
_FEWEST, _MOST = 2, 32
"""Questions that each style answers in a rung: at least, even if the tokens are few, and at most.

Few questions cannot tell styles apart: one that is right on a fifth of them answers none of 4 in two runs of five, and
none of 32 in one of a thousand."""
_SHORTEST = 32
"""Tokens to which completions of the search may be cut, if there are too few for the node's own limit."""
_SEARCH = 0.75
"""Share of the tokens for the search. The rest measures the style that was found."""
_CHARACTERS_A_TOKEN = 4
_PREFILL = 0.5
"""Cost of a prompt's token, relative to a generated one, as measured on a CPU."""


def affordable(parameters: int, *, on_cpu: bool) -> int:
    """Return what the calibration of a model may cost, in generated tokens."""
    tokens, size = (CPU_TOKENS, CPU_PARAMETERS) if on_cpu else (ACCELERATOR_TOKENS, ACCELERATOR_PARAMETERS)
    return max(LEAST_TOKENS, tokens * size // max(size, parameters))


class Complete(Protocol):
    """Completes chats with the model: greedily, or sampled with a seed."""

    def __call__(
        self, asked: Sequence[tuple[ChatBuilder, Question]], *, longest: int, seed: int | None
    ) -> list[tuple[Rollout | None, int]]:
        """Return each chat's completion and the prompt's length in tokens. None: the prompt is too long."""


@dataclass(slots=True)
class Tally:
    """Counts over a style's completions."""

    asked: int = 0
    right: int = 0
    readable: int = 0
    ended: int = 0
    tokens: int = 0
    prompt_tokens: int = 0

    def share(self, count: int) -> float:
        return count / self.asked if self.asked else 0.0

    @property
    def rank(self) -> tuple[float, ...]:
        """Sorts tallies, the best last: by correct answers, then readable ones, then ended ones, then short prompts."""
        return *map(self.share, (self.right, self.readable, self.ended)), -self.share(self.prompt_tokens)


@dataclass(frozen=True, slots=True)
class TaskSignal:
    """What was found about one task, in the style that was chosen."""

    questions: int
    right: float
    """Share of questions answered correctly with greedy decoding."""
    sampled: float
    """Share of sampled completions that are correct."""
    differing: float
    """Share of groups whose completions are neither all correct nor all wrong. Only these teach."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a calibration."""

    chats: ChatBuilder
    tried: int
    """Number of styles tried. 1: the style was set."""
    greedy: Tally
    """Of the style's greedy completions."""
    sampled: Tally
    tasks: dict[str, TaskSignal]
    samples: int
    """Completions per question in the final measurement."""
    too_long: int
    """Number of styles in which every prompt was longer than the node allows."""
    earned: bool
    """Whether any completion of any style was correct."""
    completions: int
    tokens: int
    """Generated in total."""


def candidates(fixed: PromptStyle, *, system: bool | None, switch: bool) -> list[PromptStyle]:
    """Return the styles to try first, without those that differ from what is set.

    ``fixed``: the style of the settings; ``switch``: whether the template can turn thinking on and off, and no setting
    does.
    """
    turns = (True, False) if system is None else (system,)
    thinking = (True, False) if switch else (fixed.thinking,)
    return list(itertools.starmap(PromptStyle, itertools.product(FORMS, (fixed.examples,), turns, thinking)))


@dataclass
class Calibration:
    """Tries styles on a node's tasks."""

    complete: Complete
    tasks: Tasks
    longest: int
    """The maximum length of a completion, in tokens."""
    group_size: int
    budget: int
    """What it may cost, in generated tokens. The final measurement may exceed it, with very long completions."""
    seed: int
    progress: Callable[[int], None] = lambda _: None
    """Called with the share of the budget that is spent so far, in percent."""
    _tallies: dict[PromptStyle, Tally] = field(default_factory=lambda: defaultdict(Tally))
    _sampled: dict[PromptStyle, Tally] = field(default_factory=lambda: defaultdict(Tally))
    """Of sampled completions, if no greedy one was correct."""
    _cost: float = 0.0
    _earned: bool = False
    _completions: int = 0
    _tokens: int = 0

    def run(self, chats: Sequence[ChatBuilder], examples: Sequence[int] = ()) -> Found:
        """Return the best of these styles and what it achieves. A single one is only measured.

        ``examples``: numbers of examples to try with the best of them.
        """
        questions, used, left = _alternating(self._questions(chats)), 0, list(chats)
        for rung in range(_RUNGS if len(chats) > 1 else 0):
            # If no answer was correct by the second rung, sampling needs its part, too.
            parts = _RUNGS - rung + (rung > 0 and not self._earned)
            share = max(0.0, self.budget * _SEARCH - self._cost) / parts
            used += self._rung(left, questions[used % len(questions) :] + questions, share)
            left.sort(key=lambda each: self._tallies[each.style].rank, reverse=True)
            left = left if rung else _extended(left, examples, every_form=not self._earned)
        if len(left) > 1 and not self._earned:
            used += self._sample(left, questions[used % len(questions) :] + questions)
            left.sort(key=lambda each: self._sampled[each.style].rank, reverse=True)
        return self._measure(left[0], questions, used)

    def _rung(self, chats: Sequence[ChatBuilder], questions: Sequence[Question], budget: float) -> int:
        """Ask the first questions in each style, as many as the budget allows. Return their number.

        It begins with as many as it can afford if no completion ends by itself. What those really cost says how many
        more follow.
        """
        begun, most = self._cost, max(_MOST, len({each.task for each in questions}))
        prompts = _PREFILL * sum(_prompt_tokens(each, questions[0]) for each in chats)
        size = max(_FEWEST, min(most, int(budget / (len(chats) * self.longest + prompts))))
        longest = min(self.longest, max(_SHORTEST, int((budget / size - prompts) / len(chats))))
        asked = 0
        while size > 0:
            self._try(chats, questions[asked : asked + size], longest)
            asked += size
            spent = self._cost - begun
            size = min(most, len(questions)) - asked
            size = min(size, int((budget - spent) * asked / spent)) if spent else size
        return asked

    def _sample(self, chats: Sequence[ChatBuilder], questions: Sequence[Question]) -> int:
        """Sample answers to the first questions in each style, as many as the budget allows. Return their number."""
        chats = [each for each in chats if self._tallies[each.style].tokens]  # those whose prompts are not too long
        tallies = [self._tallies[each.style] for each in chats]
        usual = sum(self._cost_per_completion(each) for each in tallies)
        left = int((self.budget * _SEARCH - self._cost) / usual) if usual else 0
        count = max(0, min(left, _MOST, len(questions)))
        asked = [(chat, question) for chat in chats for question in questions[:count]]
        for _ in range(min(left // count, MOST_SAMPLES) if count else 0):
            done = self._ask(asked, self.longest, self.seed + self._completions)
            for (chat, _), each in zip(asked, done, strict=True):
                _count(self._sampled[chat.style], *each)
        return count

    def _cost_per_completion(self, tally: Tally) -> float:
        """Return what a completion of a style costs. One that did not end lasts as long as the node allows."""
        usual, cut = tally.share(tally.tokens), 1 - tally.share(tally.ended)
        return usual + cut * (self.longest - usual) + _PREFILL * tally.share(tally.prompt_tokens)

    def _questions(self, chats: Sequence[ChatBuilder]) -> list[Question]:
        shown = {each.key for chat in chats for some in chat.shown.values() for each in some}
        drawn = self.tasks.questions("train", ROUND, 4 * _MOST)
        return [each for each in drawn if each.key not in shown] or drawn

    def _try(self, chats: Sequence[ChatBuilder], questions: Sequence[Question], longest: int) -> None:
        asked = [(chat, question) for chat in chats for question in questions]
        for (chat, _), (right, row, length, readable) in zip(asked, self._ask(asked, longest, None), strict=True):
            _count(self._tallies[chat.style], right, row, length, readable)

    def _measure(self, chats: ChatBuilder, questions: Sequence[Question], used: int) -> Found:
        """Measure a style, if possible on questions that were not used to choose it."""
        greedy = self._tallies[chats.style]
        left = (self.budget - self._cost) / self._cost_per_completion(greedy)
        tasks = len({each.task for each in questions})
        # Rather fewer completions per question than a task without any question.
        samples = min(self.group_size, MOST_SAMPLES, max(_FEWEST, int(left / tasks) - 1))
        count = min(max(int(left / (1 + samples)), _FEWEST, tasks), max(_MOST, tasks))
        fresh = [questions[place % len(questions)] for place in range(used, used + count)]
        asked = [(chats, question) for question in fresh]
        sampled = Tally()
        firsts = list(self._ask(asked, self.longest, None))
        rows = list(self._ask([each for each in asked for _ in range(samples)], self.longest, self.seed))
        for tally, some in ((greedy, firsts), (sampled, rows)):
            for each in some:
                _count(tally, *each)
        groups = [[right for right, *_ in rows[start : start + samples]] for start in range(0, len(rows), samples)]
        by_task: dict[str, list[tuple[bool, list[bool]]]] = defaultdict(list)
        for question, (right, *_), group in zip(fresh, firsts, groups, strict=True):
            by_task[question.task].append((right, group))
        return Found(
            chats,
            tried=len(self._tallies),
            greedy=greedy,
            sampled=sampled,
            tasks={task: _signal(some) for task, some in by_task.items()},
            samples=samples,
            too_long=sum(tally.tokens == 0 for tally in self._tallies.values()),
            earned=self._earned,
            completions=self._completions,
            tokens=self._tokens,
        )

    def _ask(
        self, asked: Sequence[tuple[ChatBuilder, Question]], longest: int, seed: int | None
    ) -> Iterator[tuple[bool, Rollout | None, int, bool]]:
        """Yield for each chat whether its completion is correct, the completion, the prompt's length, and whether the
        completion has a readable answer."""
        done = self.complete(asked, longest=longest, seed=seed)
        self._completions += len(done)
        self.progress(min(100, int(100 * self._cost / self.budget)))
        texts = ["" if row is None else said(row) for row, _ in done]
        scores = self.tasks.score([question for _, question in asked], texts)
        for (_, question), (row, length), text, score in zip(asked, done, texts, scores, strict=True):
            tokens = 0 if row is None else len(row.ids)
            self._tokens += tokens
            self._cost += 0 if row is None else tokens + _PREFILL * length
            self._earned = self._earned or score.correct
            yield score.correct, row, length, read(text, reference_of(question.entry)) is not None


def _prompt_tokens(chats: ChatBuilder, question: Question) -> float:
    """Return about how many tokens a prompt has."""
    return sum(len(turn["content"]) for turn in chats.chat(question)) / _CHARACTERS_A_TOKEN


def _extended(ranked: Sequence[ChatBuilder], examples: Sequence[int], *, every_form: bool) -> list[ChatBuilder]:
    """Return the best style, the best one of another form, and the best one that can show examples, with them.

    ``every_form``: show examples in the best style of each form that can. The form ``tags`` cannot: its examples would
    have to contain reasoning, and the tasks have none.
    """
    best = ranked[0]
    other = next((each for each in ranked if each.style.form != best.style.form), None)
    able = list({each.style.form: each for each in reversed(ranked) if each.style.form != "tags"}.values())
    able = sorted(able, key=ranked.index)[: None if every_form else 1]
    shown = [replace(each, style=replace(each.style, examples=count)) for each in able for count in examples]
    return [best, *([other] if other else []), *shown]


def _count(tally: Tally, right: bool, row: Rollout | None, length: int, readable: bool) -> None:
    tally.asked += 1
    tally.right += right
    tally.readable += readable
    tally.ended += row is not None and not row.truncated
    tally.tokens += 0 if row is None else len(row.ids)
    tally.prompt_tokens += length


def _signal(rows: Sequence[tuple[bool, Sequence[bool]]]) -> TaskSignal:
    sampled = [right for _, group in rows for right in group]
    return TaskSignal(
        questions=len(rows),
        right=sum(right for right, _ in rows) / len(rows),
        sampled=sum(sampled) / len(sampled),
        differing=sum(len(set(group)) > 1 for _, group in rows) / len(rows),
    )


def _alternating(questions: Sequence[Question]) -> list[Question]:
    """Return questions so that the tasks take turns."""
    by_task: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_task[question.task].append(question)
    return [each for some in itertools.zip_longest(*by_task.values()) for each in some if each is not None]
