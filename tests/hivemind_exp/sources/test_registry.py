"""A new source is one module and one line in the registry, whatever its completions count as."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.node_charter import node_charter
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.loss_descriptions import describe_loss
from hivemind_exp.offload.rules import check_offload
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.rollouts.types import Group, Prompt, Rollout
from hivemind_exp.source_kinds import COUNTS_AS, Kind
from hivemind_exp.sources.registry import SOURCES, SourceEntry, build_sources, other_source_name, uses_api
from hivemind_exp.sources.schedule import AHEAD, rounds_ahead
from hivemind_exp.sources.source import Ask, NodeParts, Source
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Question, Score
from tests.support.nodes import make_config, run
from tests.support.recorded_events import Events

TEXT = "<think>a</think><answer>b</answer>"
IDS = (5, 6, 7)
ROUNDS = 2


@dataclass(eq=False)
class Parrot(Source):
    """Says the same to everybody, as completions of a given kind."""

    kind: Kind
    name = "parrot"
    lag: int = 0
    _version: int = 0

    def weights_moved(self, version: int) -> None:
        self._version = version

    def collect(self, ask: Ask) -> Iterator[list[Group]]:
        known = (-1.0,) * len(IDS) if self.kind is Kind.POLICY else None
        row = Rollout(self.kind, self.name, TEXT, IDS, truncated=False, lag=self.lag, behaviour_logps=known)
        yield [Group(prompt, (row,) * len(places), places=places) for prompt, places in ask.empty]


def config(kind: Kind, **offload: Any) -> Config:
    """Return a node's configuration with the source as ``offload.kind``. No server listens at its address."""
    box = {"base_url": "http://127.0.0.1:9/v1", "free": True}
    box |= {} if kind is Kind.POLICY else {"model": "other"}
    share = 1.0 if kind is Kind.RELAY else 0.5
    made = make_config(
        game={"rounds": ROUNDS}, offload={"provider": "box", "share": share, **offload}, providers={"box": box}
    )
    changed = made.offload.model_copy(update={"kind": "parrot"})  # the line in ``OffloadKind`` that a new source has
    return made.model_copy(update={"offload": changed})


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that adds the source to the registry."""

    def add(kind: Kind) -> None:
        monkeypatch.setitem(COUNTS_AS, "parrot", kind)
        monkeypatch.setitem(SOURCES, "parrot", SourceEntry(lambda _: Parrot(kind)))

    return add


@pytest.mark.parametrize("kind", list(Kind))
def test_a_node_plays_rounds_with_a_source_that_counts_as_a_kind(kind: Kind, register: Any, tmp_path: Path) -> None:
    register(kind)
    made = config(kind)
    check_offload(made)
    events = Events()
    run(made, tmp_path / "node", emit=events)
    local = [] if kind is Kind.RELAY else [("local", "policy", ROUNDS * 3 * 2)]
    with closing(sqlite3.connect(tmp_path / "node/journal.sqlite")) as journal:
        found = journal.execute("SELECT source, kind, count(*) FROM completions GROUP BY source ORDER BY source")
        assert found.fetchall() == [*local, ("parrot", kind, ROUNDS * 3 * (4 if kind is Kind.RELAY else 2))]
    expected = {kind} if kind is Kind.RELAY else {kind, Kind.POLICY}
    assert {event["source"] for event in events.of("rollouts")} == expected
    assert events.of("offload") == []  # nothing connected to a server
    assert len(events.of("round")) == ROUNDS


def test_what_concerns_the_rows_depends_on_their_kind(register: Any) -> None:
    register(Kind.POLICY)
    made = config(Kind.POLICY)
    assert first_endpoint(made).model == made.model.name
    assert rounds_ahead(made) == AHEAD
    assert describe_loss(made).startswith("policy: ")
    with pytest.raises(Exception, match=r"offload\.kind = parrot learns from this node's own weights, so openai"):
        check_offload(config(Kind.POLICY, fallback=["openai"]))
    register(Kind.TEACHER)
    assert first_endpoint(config(Kind.TEACHER)).model == "other"
    assert rounds_ahead(config(Kind.TEACHER)) == AHEAD


def test_a_node_reports_completions_that_are_too_old_to_learn_from(
    register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(Kind.POLICY)
    for number, (lag, expected) in enumerate(((4, []), (5, ["stale", "stale"]))):
        monkeypatch.setitem(SOURCES, "parrot", SourceEntry(lambda _, lag=lag: Parrot(Kind.POLICY, lag)))
        events = Events()
        run(config(Kind.POLICY), tmp_path / str(number), emit=events)
        assert [event["code"] for event in events.of("warning") if event["code"] == "stale"] == expected
    assert "left 6 of the node's own completions out" in events.of("warning")[0]["message"]


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_has_a_description_for_people(kind: Kind, register: Any) -> None:
    register(kind)
    assert describe_loss(config(kind)).startswith(f"{kind}: ")


def test_the_entry_says_whether_the_api_engine_is_needed(register: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    register(Kind.TEACHER)
    made = config(Kind.TEACHER)
    assert (other_source_name(made), uses_api(made)) == ("parrot", False)
    monkeypatch.setitem(SOURCES, "parrot", SourceEntry(lambda _: Parrot(Kind.TEACHER), uses_api=True))
    assert uses_api(made)
    api = make_config(offload={"provider": "openai"})
    assert (other_source_name(api), uses_api(api)) == ("api", True)


def test_a_source_whose_kind_is_another_one_is_not_built(register: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    register(Kind.TEACHER)
    monkeypatch.setitem(COUNTS_AS, "parrot", Kind.POLICY)
    with pytest.raises(AssertionError, match="COUNTS_AS"):
        build_sources(NodeParts(config(Kind.TEACHER), StopFlag()))


class Archive(Source):
    """Adds a whole group of its own to each step, as peers do."""

    name = "archive"
    kind = Kind.PEER
    adds_groups = True

    def collect(self, ask: Ask) -> Iterator[list[Group]]:
        question = Question("spell", "train", ask.stage_run.round, 0, "Spell ab backwards.", {"answer": "ba"}, "q", "q")
        prompt = Prompt(question, ask.stage_run.stage, ({"role": "user", "content": question.text},), (8, 9))
        right, wrong = Score(1.0, True, "right"), Score(0.0, True, "wrong")
        row = Rollout(self.kind, "archive", TEXT, IDS, truncated=False)
        yield [Group(prompt, (row, replace(row, ids=(8, 9))), (right, wrong))]


def test_a_source_can_add_whole_groups_to_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(parts: NodeParts) -> Archive | None:
        return None if parts.model is None else Archive()

    monkeypatch.setitem(SOURCES, "archive", SourceEntry(build))
    files, made = NodeFiles(tmp_path / "node"), make_config(game={"rounds": ROUNDS})
    run(made, files.root)
    with closing(Journal(files.journal, node_charter(made, files))) as journal:
        rows = [[row.source for row in step.rows if row.kind is Kind.PEER] for step in journal.manifests(0)]
    assert [set(each) for each in rows] == [{"archive"}] * ROUNDS
