"""Requests to an API carry the version of the weights at that moment."""

from __future__ import annotations

from collections.abc import Iterable

from hivemind_exp.game.sampling.game import build_prompts
from hivemind_exp.journal.records import StageRun
from hivemind_exp.rollouts.types import CompletionRequest
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.api import ApiSource
from hivemind_exp.sources.source import Ask
from tests.support.spelling_task import Spelling


class Recorded:
    """Stands in for the engine and records its calls in order."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def submit(self, orders: Iterable[CompletionRequest]) -> None:
        self.calls += [(each.round, each.stage, each.question, each.indices, each.version) for each in orders]

    def wait(self, round_: int, deadline: float | None = None) -> None:
        self.calls.append(("wait", round_, deadline))

    def report_spend(self, round_: int) -> None:
        self.calls.append(("report", round_))


def test_requests_carry_the_current_version_of_the_weights() -> None:
    engine = Recorded()
    source = ApiSource(engine, Kind.TEACHER)
    (prompt,) = build_prompts(Spelling().questions("train", 0, 1), None)
    digest = prompt.question.digest
    source.request(Ask(StageRun(4, "answer"), range(4), ((prompt, (0, 2)),)))
    source.weights_moved(7)
    source.request(Ask(StageRun(5, "answer"), range(4), ((prompt, (1,)),)))
    assert list(source.collect(Ask(StageRun(4, "answer"), range(4), (), 12.5))) == []
    assert engine.calls == [
        (4, "answer", digest, (0, 2), 0),
        (5, "answer", digest, (1,), 7),
        ("wait", 4, 12.5),
        ("report", 4),
    ]
