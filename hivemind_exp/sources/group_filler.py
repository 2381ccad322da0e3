"""Whole groups from several sources: each place is filled once, by whom the schedule says, through the journal."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.journal.journal import Journal
from hivemind_exp.rollouts.orders import CompletionRequest, OffloadEngine
from hivemind_exp.rollouts.types import Group, Prompt, Rollout, Source, encode_completion
from hivemind_exp.seeds import derive_seed
from hivemind_exp.sources.schedule import Parts, parts, rounds_ahead

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def empty_places(journal: Journal, round_: int, prompt: Prompt, wanted: range) -> tuple[int, ...]:
    """Return those of the wanted places in a group that are neither filled nor given up."""
    settled = journal.settled_places(round_, prompt)
    return tuple(place for place in wanted if place not in settled)


def orders_for(
    journal: Journal, round_: int, prompts: Sequence[Prompt], wanted: range, version: int
) -> list[CompletionRequest]:
    """Return the orders for what is still empty, none for a prompt that has everything."""
    return [
        CompletionRequest(round_, prompt.stage, prompt.question.digest, prompt.messages, places, version)
        for prompt in prompts
        if (places := empty_places(journal, round_, prompt, wanted))
    ]


Verify = Callable[[Sequence[Group]], list[Group]]
"""Returns the groups with their scores."""


class GroupFiller:
    """Fills groups from this machine and, where the schedule says so, from an API."""

    def __init__(
        self,
        config: Config,
        *,
        journal: Journal,
        local: Source,
        offload: OffloadEngine | None,
        tokenizer: PreTrainedTokenizerBase,
        verify: Verify,
        emit: Emit,
    ) -> None:
        """Put the parts together. Without ``offload`` everything is generated here."""
        self._config = config
        self._journal = journal
        self._local = local
        self._offload = offload
        self._tokenizer = tokenizer
        self._verify = verify
        self._emit = emit
        self._told_of_length = False
        self._part = 0
        self._deadline: float | None = None

    @property
    def ahead(self) -> int:
        """Rounds after the present one whose prompts are wanted early."""
        return rounds_ahead(self._config.offload) if self._offload is not None else 0

    def prefetch(self, round_: int, prompts: Sequence[Prompt], version: int) -> None:
        """Ask an API now for what a round will need and what depends on no step before it."""
        if self._offload is None or not prompts:
            return
        plan = self._parts(round_, prompts)
        if plan.remote and not plan.only_if_failed:
            self._order(round_, prompts, plan, version)

    def fill(
        self, round_: int, prompts: Sequence[Prompt], version: int, *, part: int = 0, deadline: float | None = None
    ) -> list[Group]:
        """Return the groups of a round; one that nobody could fill is left out.

        ``version``: optimizer steps behind the node's weights; ``part``: which stretch of the round's questions this
        is; ``deadline`` (``time.monotonic``): what is not begun by then is left, but for the first. Raises
        ``StopRequested`` and ``NodeError``.
        """
        if not prompts:
            return []
        self._part, self._deadline = part, deadline
        plan = self._parts(round_, prompts)
        self.prefetch(round_, prompts, version)
        self._sample(round_, prompts, range(plan.local), version)
        if self._offload is not None and plan.remote:
            if plan.only_if_failed:
                self._order(round_, self._failed(round_, prompts, version), plan, version)
            self._offload.wait(round_, deadline)
            self._offload.report_spend(round_)
            if not plan.only_if_failed:  # else this machine has sampled the whole group already
                self._sample(round_, prompts, plan.remote_places, version)  # what the API could not fill
        return [group for prompt in prompts if (group := self._group(round_, prompt, version)).rollouts]

    def _parts(self, round_: int, prompts: Sequence[Prompt]) -> Parts:
        if self._offload is None:
            return Parts(self._config.game.group_size, 0)
        # The later stages of a study group show at least one answer of the node's own.
        least = int(self._config.game.kind == "study-group" and prompts[0].stage == "answer")
        return parts(self._config.offload, round_, prompts[0].stage, self._config.game.group_size, least=least)

    def _order(self, round_: int, prompts: Sequence[Prompt], plan: Parts, version: int) -> None:
        assert self._offload is not None
        self._offload.submit(orders_for(self._journal, round_, prompts, plan.remote_places, version))

    def _sample(self, round_: int, prompts: Sequence[Prompt], wanted: range, version: int) -> None:
        """Sample the places of each group that are still empty here."""
        empty: dict[tuple[int, ...], list[Prompt]] = defaultdict(list)
        for prompt in prompts:
            if places := empty_places(self._journal, round_, prompt, wanted):
                empty[places].append(prompt)
        for places, left in sorted(empty.items()):
            whole = places == tuple(range(wanted.stop))
            purpose = "generate" if whole else f"generate {places}"
            if (left[0].stage, self._part) != ("answer", 0):
                purpose = f"{purpose} {left[0].stage} {self._part}"
            for number, some in enumerate(self._bites(left, len(places))):
                self._generate(round_, some, places, version, purpose if number == 0 else f"{purpose} {number}")

    def _bites(self, prompts: Sequence[Prompt], count: int) -> Iterator[Sequence[Prompt]]:
        """Yield prompts to generate for at a time: all of them, or as many as a batch holds until time is up."""
        if self._deadline is None:
            yield prompts
            return
        size = max(1, self._config.generation.batch // count)
        for start in range(0, len(prompts), size):
            if start and time.monotonic() >= self._deadline:
                return
            yield prompts[start : start + size]

    def _generate(
        self, round_: int, prompts: Sequence[Prompt], places: tuple[int, ...], version: int, purpose: str
    ) -> None:
        seed = derive_seed(self._config.node.seed, purpose, round_)
        made = self._local.generate(prompts, len(places), seed=seed)
        groups = [Group(prompt, rows, places=places) for prompt, rows in zip(prompts, made, strict=True)]
        self._journal.write_rollouts(round_, version, groups)

    def _failed(self, round_: int, prompts: Sequence[Prompt], version: int) -> list[Prompt]:
        """Return the prompts that none of this machine's samples answers rightly."""
        groups = [self._group(round_, prompt, version) for prompt in prompts]
        own = [
            Group(group.prompt, tuple(rollout for rollout in group.rollouts if rollout.kind is self._local.kind))
            for group in groups
        ]
        return [group.prompt for group in self._verify(own) if not any(score.correct for score in group.scores)]

    def _group(self, round_: int, prompt: Prompt, version: int) -> Group:
        rollouts = self._journal.rollouts(round_, prompt, version, self._encode)
        kept = {place: rollout for place, rollout in rollouts.items() if self._fits(rollout)}
        return Group(prompt, tuple(kept.values()), places=tuple(kept))

    def _fits(self, rollout: Rollout) -> bool:
        """Whether a text has no more tokens under this node's tokenizer than its own completions may have."""
        limit = self._config.generation.max_completion_tokens
        if rollout.kind is self._local.kind or len(rollout.ids) <= limit:
            return True
        if not self._told_of_length:
            self._told_of_length = True
            message = (
                f"completions of {rollout.source} that have more tokens here than "
                f"generation.max_completion_tokens = {limit} are left out"
            )
            self._emit(WarningEvent(code="long_completions", message=message))
        return False

    def _encode(self, text: str, truncated: bool) -> tuple[int, ...]:
        return encode_completion(self._tokenizer, text, truncated)
