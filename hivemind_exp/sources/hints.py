"""``hints``: this node's weights, shown a hint from an API, where they fail without one.

The hints are in the journal as the replies of a stage of their own, so none is paid for twice. The completions come
from ``local``, for another prompt. Their groups keep the prompt without the hint; half of what the node learns is for
that prompt, the other half for the prompt with the hint.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hivemind_exp.config import Config
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import TrainingRow
from hivemind_exp.models.chat_format import encode
from hivemind_exp.offload.hints import (
    EMPTY,
    GIVES_AWAY,
    STAGE,
    TOO_LONG,
    clean_hint,
    gives_away,
    hint_messages,
    with_hint,
)
from hivemind_exp.offload.process.client import OffloadClient
from hivemind_exp.rollouts.types import CompletionRequest, Group, Prompt
from hivemind_exp.seeds import derive_seed
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources import local
from hivemind_exp.sources.source import Ask, NodeParts, Source
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.tasks.verifiers.reader import reference_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "hints"


@dataclass(eq=False)
class HintsSource(Source):
    """Requests one hint per question, and answers with those that do not give the answer away."""

    name = NAME
    kind = Kind.HINTED

    _config: Config
    _offload: OffloadClient
    _local: local.LocalSource
    _tokenizer: PreTrainedTokenizerBase
    _journal: Journal
    _tasks: Tasks
    """Finds out which hints are answers."""

    def request(self, ask: Ask) -> None:
        """Request hints that are not in the journal."""
        round_ = ask.stage_run.round
        orders = [_order(round_, prompt) for prompt, _ in ask.empty]
        self._offload.submit(each for each in orders if not self._journal.settled(round_, STAGE, each.question))

    def collect(self, ask: Ask) -> Iterator[list[Group]]:
        """Wait for the hints and sample the empty slots with them.

        Slots of questions without a usable hint stay empty. On a CPU, the same weights, slots and hints give the same
        completions.
        """
        if not ask.empty:
            return
        round_ = ask.stage_run.round
        self._offload.wait(round_, ask.deadline)
        self._offload.report_spend(round_)
        hinted = self._hinted(round_, [prompt for prompt, _ in ask.empty])
        together: dict[tuple[int, ...], list[Prompt]] = defaultdict(list)
        for prompt, places in ask.empty:
            if prompt.question.digest in hinted:
                together[places].append(prompt)
        for places, prompts in sorted(together.items()):
            shown = [hinted[prompt.question.digest] for prompt in prompts]
            seed = derive_seed(self._config.node.seed, f"hinted {places}", round_)
            made = self._local.generate(shown, len(places), seed=seed)
            yield [
                Group(prompt, tuple(replace(row, kind=self.kind) for row in rows), places=places)
                for prompt, rows in zip(prompts, made, strict=True)
            ]

    def rows(self, round_: int, groups: Sequence[Group], rows: Sequence[TrainingRow]) -> Sequence[TrainingRow]:
        """Return the rows, with each that a hint helped to write split in two halves: without and with the hint.

        If the node learned nothing for prompts with hints, it would forget how to follow them, and soon no hint would
        help.
        """
        helped = {row.group for row in rows if row.kind is self.kind and row.advantage}
        hinted = self._hinted(round_, [groups[number].prompt for number in sorted(helped)])
        found: list[TrainingRow] = []
        for row in rows:
            shown = hinted.get(groups[row.group].prompt.question.digest) if row.kind is self.kind else None
            if shown is None:
                found.append(row)
            else:
                half = replace(row, advantage=row.advantage / 2)
                found += [half, replace(half, prompt_ids=shown.ids)]
        return found

    def set_aside(self, provider: str, why: str, command: str) -> None:
        self._offload.set_aside(provider, why, command)

    def _hinted(self, round_: int, prompts: Sequence[Prompt]) -> dict[str, Prompt]:
        """Return the prompts with a usable hint, by question. Records why the other hints are not used."""
        replies = self._journal.replies(round_, STAGE).hints()
        hints = {
            prompt.question.digest: (prompt, clean_hint(reply.text))
            for prompt in prompts
            if (reply := replies.get(prompt.question.digest)) is not None and reply.refused is None
        }
        questions = [prompt.question for prompt, _ in hints.values()]
        scores = self._tasks.score(questions, [hint for _, hint in hints.values()]) if hints else []
        found: dict[str, Prompt] = {}
        for (prompt, hint), score in zip(hints.values(), scores, strict=True):
            digest, reference = prompt.question.digest, reference_of(prompt.question.entry)
            messages = with_hint(prompt.messages, prompt.question.text, hint)
            ids = tuple(encode(messages, self._tokenizer))
            if not hint:
                why = EMPTY
            elif score.correct or (reference is not None and gives_away(hint, reference)):
                why = GIVES_AWAY
            elif len(ids) > self._config.generation.max_prompt_tokens:
                why = TOO_LONG
            else:
                found[digest] = replace(prompt, messages=messages, ids=ids)
                continue
            self._journal.write_lost(_order(round_, prompt), (0,), why)
        return found


def _order(round_: int, prompt: Prompt) -> CompletionRequest:
    messages = hint_messages(prompt.question.text)
    return CompletionRequest(round_, STAGE, prompt.question.digest, messages, (0,), version=0)


def build(parts: NodeParts) -> HintsSource | None:
    """Return the source that answers again with an API's hints; None without a model or an API engine."""
    own = local.build(parts)
    if parts.offload is None or own is None or parts.tokenizer is None:
        return None
    assert parts.journal is not None
    assert parts.tasks is not None
    return HintsSource(parts.config, parts.offload, own, parts.tokenizer, parts.journal, parts.tasks)
