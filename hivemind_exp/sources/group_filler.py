"""Fills the slots of each group from its sources, and writes every completion to the journal.

The schedule chooses each slot's source. The journal keeps only the first completion for a slot.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from hivemind_exp.config import Config
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.game.prompt_style import TAGS_STYLE, PromptStyle
from hivemind_exp.game.study_group.prompts import ANSWER, TAGS
from hivemind_exp.journal.journal import Encode, Journal
from hivemind_exp.journal.records import StageRun, TrainingRow
from hivemind_exp.offload.settings import teaches_hints
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.hint_usefulness import HintCheck
from hivemind_exp.sources.registry import other_source_name
from hivemind_exp.sources.schedule import GroupSplit, rounds_ahead, split_group
from hivemind_exp.sources.source import Ask, Source
from hivemind_exp.sources.usefulness import UsefulnessCheck
from hivemind_exp.tasks.verifiers.answer_tags import answer_in, strict_part
from hivemind_exp.tasks.verifiers.reader import is_marked, read, reference_of


@dataclass
class GroupFiller:
    """Fills groups from this machine and, if scheduled, from another source."""

    config: Config
    sources: Mapping[str, Source]
    """By name in the registry."""
    journal: Journal
    encode: Encode
    verify: Callable[[Sequence[Group]], list[Group]]
    """Returns the groups with scores."""
    emit: Emit
    style: PromptStyle = TAGS_STYLE
    """The node's prompt style. A teacher's answers are put into it."""

    def __post_init__(self) -> None:
        self._local = self.sources.get("local")
        self._remote = self.sources.get(other_source_name(self.config) or "")
        self._version = 0
        self._told: set[str] = set()
        self.barred: frozenset[str] = frozenset()
        """Peers and providers that are quarantined."""
        self._check = self._usefulness()

    @property
    def api_barred(self) -> bool:
        """Whether a provider is quarantined. Then no API is used, so that nothing falls back to another one."""
        chain = [self.config.offload.provider, *self.config.offload.fallback]
        return any(name.partition(":")[0] in self.barred for name in chain)

    @property
    def here(self) -> Kind | None:
        """The kind that only this machine generates. None: a server generates the same kind."""
        own = None if self._local is None else self._local.kind
        return None if self._remote is not None and self._remote.kind is own else own

    @property
    def ahead(self) -> int:
        """How many rounds after the current one need their prompts early."""
        return 0 if self._remote is None else rounds_ahead(self.config)

    def weights_moved(self, version: int) -> None:
        """Notify every source that the node's weights are now those after ``version`` optimizer steps."""
        self._version = version
        for source in self.sources.values():
            source.weights_moved(version)

    def rows(self, round_: int, groups: Sequence[Group], rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """Return what a round's step learns from, given the ``rows`` that were made of its ``groups``."""
        return rows if self._remote is None else self._remote.rows(round_, groups, rows)

    def check_usefulness(self, stage_run: StageRun, groups: Sequence[Group], rows: Sequence[TrainingRow]) -> None:
        """Warn if a stage's completions from the other source teach nothing; if that continues, stop requesting them.

        ``rows``: the rows that the stage's step learns from. In a relay, its verified completions count instead.
        """
        if self._check is not None:
            self._check.count(stage_run.round, groups, rows)

    def learned_from(self, rows: Sequence[TrainingRow]) -> None:
        """Notify every source of the rows of its kind that a step has learned from."""
        for source in self.sources.values():
            source.learned_from([row for row in rows if row.kind is source.kind])

    def _usefulness(self) -> UsefulnessCheck | None:
        if self._remote is None or self._remote.kind is Kind.POLICY:  # the trainer watches this node's own completions
            return None
        if teaches_hints(self.config):
            return HintCheck(self.config, self._remote, self.emit, journal=self.journal)
        return UsefulnessCheck(self.config, self._remote, self.emit)

    def request(self, stage_run: StageRun, prompts: Sequence[Prompt]) -> None:
        """Request now what a round needs from the other source, unless it depends on this machine's samples."""
        plan = self._plan(stage_run)
        if self._remote is not None and prompts and plan.remote and not plan.only_if_failed:
            self._remote.request(self._ask(stage_run, prompts, plan.remote_slots))

    def fill(self, stage_run: StageRun, prompts: Sequence[Prompt], deadline: float | None = None) -> list[Group]:
        """Return a stage's groups. Groups without any completion are left out.

        ``deadline`` (``time.monotonic``): after it, no batch is started, except the first. Raises ``StopRequested``
        and ``NodeError``.
        """
        plan = self._plan(stage_run)
        self.request(stage_run, prompts)
        self._collect(self._local, self._ask(stage_run, prompts, range(plan.local), deadline))
        if prompts and plan.remote:
            wanted = prompts
            if plan.only_if_failed and self._remote is not None:
                wanted = self._failed(stage_run, prompts)
                self._remote.request(self._ask(stage_run, wanted, plan.remote_slots))
            self._collect(self._remote, self._ask(stage_run, wanted, plan.remote_slots, deadline))
            if not plan.only_if_failed:  # otherwise, this machine has already sampled the whole group
                self._collect(self._local, self._ask(stage_run, prompts, plan.remote_slots, deadline))
        return self._groups(stage_run, prompts)

    def refill(self, stage_run: StageRun, prompts: Sequence[Prompt], first: int) -> list[Group]:
        """Return the groups of a stage's further questions, completed by this machine alone.

        ``first``: the number of the first one in the stage. Raises ``StopRequested``.
        """
        ask = self._ask(stage_run, prompts, range(self.config.game.group_size))
        self._collect(self._local, replace(ask, refill=first))
        return self._groups(stage_run, prompts)

    def added(self, stage_run: StageRun) -> list[Group]:
        """Return the groups, with scores, that a stage's step learns from in addition to the node's own."""
        batches = (source.collect(Ask(stage_run)) for source in self.sources.values() if source.adds_groups)
        return [group for batch in chain.from_iterable(batches) for group in batch]

    def _plan(self, stage_run: StageRun) -> GroupSplit:
        game = self.config.game
        if self._remote is None or (self._local is not None and self.api_barred):
            return GroupSplit(game.group_size, 0)
        # The later stages of a study group show at least one of the node's own answers.
        least = int(game.kind == "study-group" and stage_run.stage == "answer")
        return split_group(self.config.offload, stage_run.round, stage_run.stage, game.group_size, least=least)

    def _ask(self, stage_run: StageRun, prompts: Sequence[Prompt], places: range, deadline: float | None = None) -> Ask:
        empty = []
        for prompt in prompts if places else ():
            settled = self.journal.settled(stage_run.round, stage_run.stage, prompt.question.digest)
            if left := tuple(place for place in places if place not in settled):
                empty.append((prompt, left))
        return Ask(stage_run, places, tuple(empty), deadline)

    def _collect(self, source: Source | None, ask: Ask) -> None:
        if source is not None and ask.places:
            for batch in source.collect(ask):
                self.journal.write_rollouts(ask.stage_run.round, self._version, batch)

    def _failed(self, stage_run: StageRun, prompts: Sequence[Prompt]) -> list[Prompt]:
        """Return the prompts for which this machine has no correct sample."""
        assert self._local is not None
        own = [
            Group(prompt, tuple(row for row in group.rollouts if row.kind is self._local.kind))
            for prompt in prompts
            for group in [self._group(stage_run, prompt)]
        ]
        return [group.prompt for group in self.verify(own) if not any(score.correct for score in group.scores)]

    def _groups(self, stage_run: StageRun, prompts: Sequence[Prompt]) -> list[Group]:
        return [group for prompt in prompts if (group := self._group(stage_run, prompt)).rollouts]

    def _group(self, stage_run: StageRun, prompt: Prompt) -> Group:
        rollouts = self.journal.rollouts(stage_run.round, prompt, self._version, self.encode)
        kept = {
            place: usable
            for place, rollout in rollouts.items()
            if (usable := self._usable(rollout, prompt)) is not None
        }
        return Group(prompt, tuple(kept.values()), places=tuple(kept))

    def _usable(self, rollout: Rollout, prompt: Prompt) -> Rollout | None:
        """Return what the node can learn from: text that fits into ``generation.max_completion_tokens``.

        A teacher's or hinted text is put into the node's prompt style, and if it is too long, without the reasoning.
        None if nothing fits. Lengths are in the node's own tokens. Its own samples always fit. Without a local source,
        there is no limit.
        """
        if self._local is None or rollout.kind is self._local.kind:
            return rollout
        if rollout.source in self.barred:  # requested before it was quarantined
            return None
        limit = self.config.generation.max_completion_tokens
        supervised = rollout.kind in (Kind.TEACHER, Kind.HINTED)
        texts = list(self._styled(rollout, prompt)) if supervised else []
        for shortened, text in enumerate(texts):
            short = rollout
            if text != rollout.text.strip():
                short = replace(rollout, text=text, ids=self.encode(text, False), truncated=False)
            if len(short.ids) > limit:
                continue
            if shortened:
                self._warn(
                    "long_reasoning",
                    f"some completions from {rollout.source} have more than {limit} tokens with their reasoning, in "
                    "this node's tokenizer, so it learns their answers without the reasoning. To learn the reasoning, "
                    "too, raise generation.max_completion_tokens",
                )
            return short
        reference = reference_of(prompt.question.entry)
        if supervised and not texts and self.style.adopt(rollout.text, reference) is None:
            self._warn(
                "other_style",
                f"skipping completions from {rollout.source} whose answers cannot be written in the prompt style "
                f"{self.style.form} (prompt.style)",
            )
            return None
        if len(rollout.ids) <= limit:
            return rollout
        self._warn(
            "long_completions",
            f"skipping completions from {rollout.source} that have more than {limit} tokens in this node's "
            f"tokenizer{', even without their reasoning' if len(texts) > 1 else ''}. To use them, raise "
            "generation.max_completion_tokens",
        )
        return None

    def _styled(self, rollout: Rollout, prompt: Prompt) -> Iterator[str]:
        """Yield a completion in the node's style, the longest first: with the reasoning, then without."""
        text = rollout.text
        if prompt.stage not in TAGS:  # a stage without tags: any text is in its form
            yield text.strip()
            return
        if prompt.stage != ANSWER or (self.style.form == "tags" and answer_in(text) is not None):
            for names in (TAGS[prompt.stage], ("answer",))[: 2 if prompt.stage == ANSWER else 1]:
                found = strict_part(text, names)
                if found is not None:
                    yield found
            return
        complete = not rollout.truncated or is_marked(text)
        reading = read(text, reference_of(prompt.question.entry)) if complete else None
        if reading is not None:
            styled = (self.style.dress(reading, reasoning=reasoning) for reasoning in (True, False))
            yield from (each for each in styled if each is not None)

    def _warn(self, code: str, message: str) -> None:
        if code not in self._told:
            self._told.add(code)
            self.emit(WarningEvent(code=code, message=message))
