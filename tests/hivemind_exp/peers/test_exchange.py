"""What a node shares and draws in a round. A killed node draws the same groups again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hivemind_exp.game.sampling.game import STAGE
from hivemind_exp.journal.journal import Journal
from hivemind_exp.models.chat_format import encode
from hivemind_exp.peers.bundle import Bundle, unpack
from hivemind_exp.peers.exchange import (
    PeerBatch,
    PeerDrawLog,
    PeerExchange,
    TrainingStatus,
)
from hivemind_exp.peers.questions import QuestionCache
from hivemind_exp.peers.sampler import PeerSampler
from hivemind_exp.peers.vetting import Vetting
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.peers import PeersSource
from hivemind_exp.trainer.advantages import build_rows
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from tests.support.nodes import Events
from tests.support.peers import ME, SWARM, TOKENIZER, PostOffice, letter, make_sampler, own_group, shared_group

HERE = TrainingStatus(3, 0.25)


class Node:
    """One node's side of an in-memory swarm."""

    def __init__(
        self, root: Path, office: PostOffice, step_trainer: SourceGRPOTrainer, with_logps: bool = False
    ) -> None:
        self.events = Events()
        self.sampler: PeerSampler = make_sampler(root, with_logps=with_logps, model="tiny")
        self.drawn = PeerDrawLog(root / "journal.sqlite", SWARM)
        self.exchange = PeerExchange(
            wire=office.wire(ME),  # type: ignore[arg-type]
            sampler=self.sampler,
            drawn=self.drawn,
            encode=lambda chat: tuple(encode(chat, TOKENIZER)),
            log_probabilities=step_trainer.log_probabilities,
            seed=1,
            emit=self.events,
        )

    def play(self, round_: int = 0) -> PeerBatch:
        self.exchange.share(round_, STAGE, [own_group(0), own_group(1)], HERE)
        return self.exchange.draw(round_, STAGE)


@pytest.fixture
def office() -> PostOffice:
    return PostOffice()


@pytest.fixture
def node(tmp_path: Path, office: PostOffice, step_trainer: SourceGRPOTrainer) -> Iterator[Node]:
    found = Node(tmp_path, office, step_trainer)
    with closing(found.drawn):
        yield found


def sent(office: PostOffice) -> Bundle:
    (mine,) = [each for each in office.sent if each.peer == ME]
    return unpack(mine.data, peer=ME, swarm=SWARM)


def test_own_groups_are_shared_with_their_metadata(node: Node, office: PostOffice) -> None:
    node.play(7)
    bundle = sent(office)
    assert (bundle.round, bundle.stage, len(bundle.groups)) == (7, STAGE, 2)
    group = own_group(0)
    shared = bundle.groups[0]
    assert shared.texts == tuple(row.text for row in group.rollouts)
    assert (shared.question, shared.index, shared.task) == (group.prompt.question.digest, 0, "spelling")
    assert (shared.kind, shared.label, shared.outcomes, shared.logps) == ("policy", "tiny", (1000, 0, 0, 0), ())
    assert node.events.of("share")[0]["groups"] == 2


def test_a_group_is_shared_with_its_questions_level(node: Node, office: PostOffice) -> None:
    for level in (0, 2, None):
        office.sent.clear()
        group = own_group(0)
        question = replace(group.prompt.question, level=level)
        node.exchange.share(1, STAGE, [replace(group, prompt=replace(group.prompt, question=question))], HERE)
        assert [shared.level for shared in sent(office).groups] == [level]


def test_a_draw_leaves_out_levels_easier_than_this_nodes_own_in_that_round(node: Node, office: PostOffice) -> None:
    node.exchange.levels = {4: {"spelling": 1}, 5: {"spelling": 0}}.__getitem__
    node.sampler.rules = replace(node.sampler.rules, levels={"spelling": 2})
    node.sampler.vetting = Vetting(node.sampler.rules, node.sampler.texts, QuestionCache(node.sampler.tasks, 64))
    office.send("peer", letter("peer", replace(shared_group(3), level=0)).data)
    node.exchange.share(4, STAGE, [own_group(0)], HERE)
    assert node.exchange.draw(4, STAGE).groups == ()
    assert len(node.exchange.draw(5, STAGE).groups) == 1


def test_a_group_partly_written_by_a_teacher_is_labeled_teacher(node: Node, office: PostOffice) -> None:
    mixed = own_group(0)
    teachers = own_group(0, kind=Kind.TEACHER)
    mixed = replace(mixed, rollouts=(*mixed.rollouts[:3], teachers.rollouts[3]))
    node.exchange.share(0, STAGE, [mixed], HERE)
    assert (sent(office).groups[0].kind, sent(office).groups[0].label) == ("teacher", "gpt-4o-mini")


def test_a_group_with_hinted_completions_is_not_shared(node: Node, office: PostOffice) -> None:
    hinted = own_group(0)
    hinted = replace(hinted, rollouts=(*hinted.rollouts[:3], replace(hinted.rollouts[3], kind=Kind.HINTED)))
    node.exchange.share(0, STAGE, [hinted, own_group(1)], HERE)
    assert [group.index for group in sent(office).groups] == [1]


def test_an_incomplete_group_is_not_shared(node: Node, office: PostOffice) -> None:
    node.exchange.share(0, STAGE, [own_group(0, size=3), own_group(1)], HERE)
    assert [group.index for group in sent(office).groups] == [1]
    office.sent.clear()
    node.exchange.share(1, STAGE, [own_group(0, size=3)], HERE)
    assert office.sent == []


def test_groups_that_readers_would_reject_are_not_sent(node: Node, office: PostOffice) -> None:
    long = own_group(0)
    long = replace(long, rollouts=(*long.rollouts[:3], replace(long.rollouts[3], text="é" * 40_000)))
    # A small task can ask one question twice in a round.
    node.exchange.share(0, STAGE, [long, own_group(1), own_group(1)], HERE)
    assert [group.index for group in sent(office).groups] == [1]


def test_shared_log_probabilities_match_the_sampling_weights(
    tmp_path: Path, office: PostOffice, step_trainer: SourceGRPOTrainer
) -> None:
    node = Node(tmp_path, office, step_trainer, with_logps=True)
    with closing(node.drawn):
        node.exchange.share(0, STAGE, [own_group(0)], HERE)
    shared = sent(office).groups[0]
    group = own_group(0)
    for row, ids, logps in zip(group.rollouts, shared.ids, shared.logps, strict=True):
        assert ids == row.ids
        whole = torch.tensor([[*group.prompt.ids, *ids]])
        with torch.no_grad():
            expected = step_trainer.policy(whole).logits[0].log_softmax(-1)
        start = len(group.prompt.ids) - 1
        direct = [expected[start + place, token].item() for place, token in enumerate(ids)]
        assert logps == pytest.approx(direct, abs=1e-4)
    # Another node can draw the group for its f_tis loss.
    other = make_sampler(tmp_path / "other", with_logps=True)
    other.rules = replace(other.rules, me="another")
    other.take_in(office.sent)
    (taken,) = other.draw(seed=0)
    assert all(row.behaviour_logps for row in taken.rollouts)


def test_a_killed_node_draws_the_same_batch_again(
    tmp_path: Path, node: Node, office: PostOffice, step_trainer: SourceGRPOTrainer
) -> None:
    for peer in ("a", "b", "c"):
        office.send(peer, letter(peer, shared_group(4), shared_group(5)).data)
    first = node.play(0)
    assert len(first.groups) > 2
    assert first.floor is not None
    again = Node(tmp_path, office, step_trainer)
    with closing(again.drawn):
        for peer in ("x", "y"):
            office.send(peer, letter(peer, shared_group(6)).data)
        second = again.play(0)
        assert second.floor == first.floor
        assert [group.rollouts for group in second.groups] == [group.rollouts for group in first.groups]
        assert [group.scores for group in second.groups] == [group.scores for group in first.groups]
        assert [group.prompt.ids for group in second.groups] == [group.prompt.ids for group in first.groups]
        assert build_rows(second.groups, step_trainer.train_config, {}) == build_rows(
            first.groups, step_trainer.train_config, {}
        )
        # The next round draws what arrived meanwhile, and nothing that was drawn before.
        third = again.play(1)
        assert {group.rollouts[0].source for group in third.groups} == {"x", "y"}


def test_an_empty_draw_is_not_repeated(
    tmp_path: Path, node: Node, office: PostOffice, step_trainer: SourceGRPOTrainer
) -> None:
    assert node.play(0) == PeerBatch()
    again = Node(tmp_path, office, step_trainer)
    office.send("late", letter("late", shared_group(4)).data)
    with closing(again.drawn):
        assert again.play(0) == PeerBatch()
        assert len(again.play(1).groups) == 1


def test_groups_drawn_before_a_restart_are_not_drawn_again(
    tmp_path: Path, node: Node, office: PostOffice, step_trainer: SourceGRPOTrainer
) -> None:
    data = letter("a", shared_group(4)).data
    office.send("a", data)
    assert len(node.play(0).groups) == 1
    again = Node(tmp_path, office, step_trainer)
    office.send("a", data)
    with closing(again.drawn):
        again.sampler.vetting.remember_used(again.drawn.used())
        assert again.play(1).groups == ()


def test_a_peer_is_credited_for_groups_that_a_step_learned_from(
    node: Node, office: PostOffice, step_trainer: SourceGRPOTrainer
) -> None:
    for peer in ("a", "b"):
        office.send(peer, letter(peer, shared_group(4 if peer == "a" else 6)).data)
    batch = node.play(0)
    assert {group.rollouts[0].source for group in batch.groups} == {"a", "b"}
    source, book = PeersSource(node.exchange), node.sampler.book
    assert [book.record(peer).used for peer in ("a", "b")] == [0, 0]
    rows = build_rows(batch.groups, step_trainer.train_config, {})
    source.learned_from([row for row in rows if row.source == "a"])
    assert [book.record(peer).used for peer in ("a", "b")] == [1, 0]


def test_peers_text_never_becomes_the_nodes_own(tmp_path: Path, node: Node, office: PostOffice) -> None:
    question = own_group(0).prompt
    office.send("a", letter("a", shared_group(0)).data)  # the same question that this node answers in this round
    with closing(Journal(tmp_path / "journal.sqlite", SWARM)) as journal:
        journal.write_prompts(0, [question])
        journal.write_rollouts(0, 0, [own_group(0)])
        (group,) = node.play(0).groups
        assert group.prompt.question.digest == question.question.digest
        own = journal.rollouts(0, question, 0)
    assert list(own) == [0, 1, 2, 3]
    assert {row.kind for row in own.values()} == {Kind.POLICY}


# The filter: text that this node is unlikely to generate is left out of the step.
