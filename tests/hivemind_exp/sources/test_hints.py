"""Answers with a hint: what is asked for, what is refused, and that the node learns without the hint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.game.sampling.game import build_prompts, verified
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, StageRun, TrainingRow, contributions
from hivemind_exp.models.tiny import build_model, build_tokenizer
from hivemind_exp.offload.hints import GIVES_AWAY, TOO_LONG
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Prompt, encode_completion
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.group_filler import GroupFiller
from hivemind_exp.sources.registry import build_sources
from hivemind_exp.sources.source import NodeParts
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question, Score
from hivemind_exp.trainer.advantages import build_rows
from tests.support.nodes import make_config
from tests.support.recorded_events import Events
from tests.support.spelling_task import Spelling

FIRST = StageRun(0, "answer")
TOKENIZER = build_tokenizer()
ACCEPTED = "The answer in another form"


class Lenient(Spelling):
    """Its verifier accepts another form of every answer."""

    def score(self, questions: Sequence[Question], completions: Sequence[str]) -> list[Score]:
        scores = super().score(questions, completions)
        return [
            Score(1.0, True, "") if text == ACCEPTED else score for text, score in zip(completions, scores, strict=True)
        ]


@dataclass
class HintGiver:
    """Answers through the journal, as the API process does."""

    journal: Journal
    hint: Callable[[str], str | None]
    asked: list[CompletionRequest] = field(default_factory=list)

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        for order in orders:
            self.asked.append(order)
            text = self.hint(order.messages[-1]["content"])
            if text is not None:
                made = Completion(0, Kind.TEACHER, "box", "m", text, truncated=False, version=0, usd=0.01)
                self.journal.write_completions(order, [made])

    def wait(self, round_: int, deadline: float | None = None) -> None:  # noqa: ARG002 - as called
        assert {order.round for order in self.asked} <= {round_}

    def report_spend(self, round_: int) -> None:
        pass


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.sqlite", "s")) as made:
        yield made


def make_filler(journal: Journal, giver: HintGiver, **offload: Any) -> GroupFiller:
    config = make_config(
        game={"groups": 4, "group_size": 4},
        generation={"max_prompt_tokens": 48},
        offload={"provider": "box", "teach": "hints", **offload},
        providers={"box": {"base_url": "http://127.0.0.1:9/v1", "model": "m", "free": True}},
    )
    model, tasks = build_model(TOKENIZER, 0), Lenient()
    parts = NodeParts(config, StopFlag(), model, TOKENIZER, giver, None, journal, tasks)  # type: ignore[arg-type]
    return GroupFiller(
        config,
        build_sources(parts),
        journal,
        encode=lambda text, truncated: encode_completion(TOKENIZER, text, truncated),
        verify=lambda groups: verified(tasks, groups),
        emit=Events(),
    )


def prompts() -> list[Prompt]:
    return build_prompts(Spelling().questions("train", 0, 4), TOKENIZER)


def kinds(journal: Journal, prompt: Prompt) -> list[Kind]:
    return [rollout.kind for rollout in journal.rollouts(0, prompt, 0).values()]


def test_hinted_completions_belong_to_the_prompt_without_the_hint(journal: Journal) -> None:
    asked = prompts()
    giver = HintGiver(journal, lambda _: "Begin at its end.")
    filler = make_filler(journal, giver)
    groups = filler.fill(FIRST, asked)
    assert [order.question for order in giver.asked] == [prompt.question.digest for prompt in asked]
    for group, prompt in zip(groups, asked, strict=True):
        assert [rollout.kind for rollout in group.rollouts] == [Kind.POLICY] * 4 + [Kind.HINTED] * 4
        assert group.prompt == prompt
        assert {rollout.source for rollout in group.rollouts} == {"local"}
    rows = build_rows(verified(Spelling(), groups), make_config().train, {})
    assert {row.prompt_ids for row in rows} == {prompt.ids for prompt in asked}


def test_what_a_hint_taught_is_learned_with_and_without_it(journal: Journal) -> None:
    """Otherwise the node forgets how to follow hints."""
    asked = prompts()
    filler = make_filler(journal, HintGiver(journal, lambda _: "Begin at its end."))
    groups = verified(Lenient(), filler.fill(FIRST, asked))
    plain = TrainingRow(Kind.HINTED, "local", "t", 2, asked[2].ids, (5, 6), "it", 1.0, 0.8, 0)
    own = replace(plain, kind=Kind.POLICY, advantage=-0.5)
    wrong = replace(plain, group=1, prompt_ids=asked[1].ids, advantage=0.0)
    first, without, with_it, last = filler.rows(0, groups, [own, plain, wrong])
    assert (first, last) == (own, wrong)
    assert without == replace(plain, advantage=0.4)
    assert with_it == replace(without, prompt_ids=with_it.prompt_ids)
    assert "Hint: Begin at its end." in TOKENIZER.decode(with_it.prompt_ids)
    (made,) = contributions(Manifest(0, 0, 0, 4, (without, with_it)))
    assert (made.completions, made.tokens) == (1, 2)


def test_the_share_says_how_many_slots_are_answered_again(journal: Journal) -> None:
    giver = HintGiver(journal, lambda _: "Begin at its end.")
    groups = make_filler(journal, giver, share=0.5).fill(FIRST, prompts())
    assert {len(group.rollouts) for group in groups} == {6}


def test_unusable_hints_leave_the_slots_empty_and_are_not_asked_for_again(journal: Journal) -> None:
    leaks, unhelpful, long, missing = prompts()
    word = {prompt.question.text: str(prompt.question.entry["answer"]) for prompt in (leaks, unhelpful, long, missing)}

    def hint(question: str) -> str | None:
        if question == leaks.question.text:
            return f"Write {'-'.join(word[question]).upper()}."
        if question == unhelpful.question.text:
            return ACCEPTED
        return "x" * 60 if question == long.question.text else None

    giver = HintGiver(journal, hint)
    filler = make_filler(journal, giver)
    for _ in range(2):
        groups = filler.fill(FIRST, [leaks, unhelpful, long, missing])
        assert {len(group.rollouts) for group in groups} == {4}
    replies = journal.replies(0, "hint").hints()
    assert [replies[prompt.question.digest].refused for prompt in (leaks, unhelpful, long)] == [
        GIVES_AWAY,
        GIVES_AWAY,
        TOO_LONG,
    ]
    counts = [[order.question for order in giver.asked].count(each.question.digest) for each in (leaks, long, missing)]
    assert counts == [1, 1, 2]  # a hint that never came is not paid for


@pytest.mark.slow
def test_a_restart_asks_for_no_hint_twice_and_samples_the_same(journal: Journal, tmp_path: Path) -> None:
    asked = prompts()
    make_filler(journal, HintGiver(journal, lambda _: "Begin at its end.")).fill(FIRST, asked)
    with closing(Journal(tmp_path / "other.sqlite", "s")) as other:
        filler = make_filler(other, HintGiver(other, lambda _: "Begin at its end."))
        filler.request(FIRST, asked)  # a hint needs the round's samples
        assert other.replies(0, "hint").hints() == {}
        # Killed after the hints, before the first hinted completion.
        HintGiver(other, lambda _: "Begin at its end.").submit(
            CompletionRequest(0, "hint", prompt.question.digest, ({"content": ""},), (0,), 0) for prompt in asked
        )
        again = HintGiver(other, lambda _: "Another one.")
        make_filler(other, again).fill(FIRST, asked)
        assert again.asked == []
        for prompt in asked:
            assert other.rollouts(0, prompt, 0) == journal.rollouts(0, prompt, 0)
            assert kinds(other, prompt) == [Kind.POLICY] * 4 + [Kind.HINTED] * 4
        silent = HintGiver(other, lambda _: None)
        make_filler(other, silent).fill(FIRST, asked)
        assert silent.asked == []


def test_a_hinted_answer_in_another_format_is_put_into_the_nodes_style(journal: Journal) -> None:
    (prompt, *_) = prompts()
    giver = HintGiver(journal, lambda _: None)
    filler = make_filler(journal, giver)
    (group,) = filler.fill(FIRST, [prompt])
    answer = str(prompt.question.entry["answer"])
    boxed = replace(
        group.rollouts[0], kind=Kind.HINTED, text=f"\\boxed{{{answer}}}", ids=TOKENIZER.encode("x"), truncated=False
    )
    kept = filler._usable(boxed, prompt)
    assert kept is not None
    assert kept.text == f"<answer>{answer}</answer>"
    assert kept.ids == encode_completion(TOKENIZER, kept.text, False)
