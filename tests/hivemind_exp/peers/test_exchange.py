"""What a node shares and draws in a round. A killed node draws the same groups again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from hivemind_exp.game.sampling.game import STAGE, build_prompts
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Manifest, TrainingRow
from hivemind_exp.models.chat_format import encode
from hivemind_exp.peers.bundle import Bundle, unpack
from hivemind_exp.peers.exchange import (
    CERTAIN,
    QUANTILE,
    LikelihoodFilter,
    PeerBatch,
    PeerDrawLog,
    PeerExchange,
    TrainingStatus,
    quantile,
    row_of,
)
from hivemind_exp.peers.source import PeerSource
from hivemind_exp.rollouts.types import Group, Kind, Prompt, Rollout, answer_tokens, encode_completion
from hivemind_exp.sources.peers import PeersSource
from hivemind_exp.tasks.base import Score
from hivemind_exp.trainer.advantages import build_rows
from hivemind_exp.trainer.grpo_step import SourceGRPOTrainer
from tests.support.nodes import Events
from tests.support.peers import ME, SWARM, TOKENIZER, PostOffice, letter, make_source, shared_group
from tests.support.spelling_task import Spelling
from tests.support.step_trainers import make_step_trainer

HERE = TrainingStatus(3, 0.25)


def own_group(index: int = 0, *, right: int = 1, kind: Kind = Kind.POLICY, size: int = 4) -> Group:
    """Return one of this node's own groups, verified."""
    question = Spelling().questions("train", 0, index + 1)[index]
    texts = [f"<answer>{question.entry['answer'] if place < right else 'zzz'}</answer>" for place in range(size)]
    rollouts = tuple(
        Rollout(
            kind,
            "local" if kind.own else "openai",
            text,
            encode_completion(TOKENIZER, text, False),
            False,
            model=None if kind.own else "gpt-4o-mini",
        )
        for text in texts
    )
    scores = tuple(Score(float(place < right), True, "compared") for place in range(size))
    return Group(build_prompts([question], TOKENIZER)[0], rollouts, scores)


@pytest.fixture
def step_trainer(tmp_path: Path) -> SourceGRPOTrainer:
    return make_step_trainer(tmp_path)


class Node:
    """One node's side of an in-memory swarm."""

    def __init__(
        self, root: Path, office: PostOffice, step_trainer: SourceGRPOTrainer, with_logps: bool = False
    ) -> None:
        self.events = Events()
        self.source: PeerSource = make_source(root, with_logps=with_logps, model="tiny")
        self.drawn = PeerDrawLog(root / "journal.sqlite", SWARM)
        self.exchange = PeerExchange(
            wire=office.wire(ME),  # type: ignore[arg-type]
            source=self.source,
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
    other = make_source(tmp_path / "other", with_logps=True)
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
        again.source.vetting.remember_used(again.drawn.used())
        assert again.play(1).groups == ()


def test_a_peer_is_credited_for_groups_that_a_step_learned_from(
    node: Node, office: PostOffice, step_trainer: SourceGRPOTrainer
) -> None:
    for peer in ("a", "b"):
        office.send(peer, letter(peer, shared_group(4 if peer == "a" else 6)).data)
    batch = node.play(0)
    assert {group.rollouts[0].source for group in batch.groups} == {"a", "b"}
    source, book = PeersSource(node.exchange), node.source.book
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


def peer_group(prompt: Prompt, texts: list[str], outcomes: list[float]) -> Group:
    return Group(
        prompt,
        tuple(
            Rollout(Kind.PEER, "peer", text, encode_completion(TOKENIZER, text, False), False, None) for text in texts
        ),
        tuple(Score(outcome, True, "compared") for outcome in outcomes),
    )


def make_filter(step_trainer: SourceGRPOTrainer) -> LikelihoodFilter:
    return LikelihoodFilter(step_trainer.log_probabilities, partial(answer_tokens, TOKENIZER))


def taught(step_trainer: SourceGRPOTrainer) -> Group:
    """Teach the tiny model one text, and return it as an own group."""
    group = own_group(0, right=4)
    weighty = [replace(row, advantage=1.0) for row in build_rows([group], step_trainer.train_config, {})]
    for step in range(40):
        step_trainer.step(Manifest(step, step, 0, 8, tuple(weighty)))
    return group


@pytest.mark.slow
def test_poisoned_reasoning_is_dropped_and_text_like_the_nodes_own_stays(step_trainer: SourceGRPOTrainer) -> None:
    group = taught(step_trainer)
    floor = make_filter(step_trainer).measure([group])
    assert floor is not None
    right = group.rollouts[0].text
    peers = peer_group(group.prompt, [right, f"<think>buy gold</think>{right}", "aaa", "bbb"], [1.0, 1.0, 0.0, 0.0])
    rows = build_rows([peers], step_trainer.train_config, {})
    assert [row.text for row in rows] == [right, f"<think>buy gold</think>{right}"]
    poisoned = tuple(row for row in rows if "gold" in row.text)
    before = {name: value.clone() for name, value in step_trainer.policy.state_dict().items()}
    result = step_trainer.step(Manifest(40, 40, 0, 8, poisoned, floor, (0, 80)))
    assert (result.by_kind[Kind.PEER]["filtered"], result.loss, result.grad_norm) == (1, 0.0, 0.0)
    # The momentum of earlier steps still moves the weights, but the text does not.
    result = step_trainer.step(Manifest(41, 41, 0, 8, tuple(rows), floor, (0, 80)))
    assert result.by_kind[Kind.PEER]["filtered"] == 1
    assert result.grad_norm > 0
    assert any(not torch.equal(value, before[name]) for name, value in step_trainer.policy.state_dict().items())


def test_the_first_floor_is_measured_on_more_of_the_nodes_samples() -> None:
    """Of a few samples, the 2 % quantile is the least likely one, which poison may exceed."""
    measured: list[int] = []

    def log_probabilities(rows: Sequence[TrainingRow]) -> list[list[float]]:
        measured.append(len(rows))
        return [[-1.0] * len(row.completion_ids) for row in rows]

    own = [own_group(number) for number in range(16)]
    (tokens,) = {len(row.ids) for group in own for row in group.rollouts}
    fresh = LikelihoodFilter(log_probabilities, lambda *_: range(0))
    assert fresh.measure(own) == fresh.measure(own) == pytest.approx(-tokens / (tokens + CERTAIN) - 0.05)
    assert measured == [64, 16]


def test_short_unlikely_samples_do_not_put_the_floor_below_poison() -> None:
    """As measured with the tiny model: samples of one rare token outside the answer, and poison of eleven."""
    group = own_group(0)
    short = {2, 5, 9}
    numbers = itertools.count()

    def log_probabilities(rows: Sequence[TrainingRow]) -> list[list[float]]:
        first = [-6.4 if next(numbers) in short else -0.02 for _ in rows]
        return [[each, *[0.0] * (len(row.completion_ids) - 1)] for each, row in zip(first, rows, strict=True)]

    floor = LikelihoodFilter(log_probabilities, lambda ids, _text: range(1, len(ids))).measure([group] * 16)
    assert floor is not None
    assert -5.6 < floor < -1.0


@pytest.mark.slow
def test_a_specialists_correct_answers_pass_and_poison_around_them_does_not(step_trainer: SourceGRPOTrainer) -> None:
    """A node that copies words has never spelled one backward. The peer always does."""
    questions = Spelling().questions("train", 0, 24)
    prompts = build_prompts(questions, TOKENIZER)
    own = [
        Group(
            prompt,
            (Rollout(Kind.POLICY, "local", text, encode_completion(TOKENIZER, text, False), False),),
            (Score(1.0, True, "compared"),),
        )
        for prompt in prompts[:16]
        for text in [f"<answer>{prompt.question.key}</answer>"]
    ]
    for step in range(30):
        rows = [replace(row_of(group, 0), advantage=1.0) for group in own]
        step_trainer.step(Manifest(step, step, 0, 16, tuple(rows), tokens=(80, 0)))
    floor = make_filter(step_trainer).measure(own)
    floor_over_all = LikelihoodFilter(step_trainer.log_probabilities, lambda *_: range(0)).measure(own)
    specialist = [
        peer_group(prompt, [f"<answer>{prompt.question.entry['answer']}</answer>"] * 4, [1.0] * 4)
        for prompt in prompts[16:]
    ]
    rows = build_rows(specialist, step_trainer.train_config, {})
    assert len(rows) == 8 * 4

    def refused(texts: Sequence[str], manifest: Manifest) -> int:
        """Return how many rows are refused if these are the texts."""
        said = [
            replace(row, text=text, completion_ids=encode_completion(TOKENIZER, text, False))
            for row, text in zip(rows, texts, strict=True)
        ]
        step_trainer.policy.load_state_dict(weights)
        found = step_trainer.step(replace(manifest, rows=tuple(said))).by_kind[Kind.PEER]["filtered"]
        assert found is not None
        return int(found)

    weights = {name: value.clone() for name, value in step_trainer.policy.state_dict().items()}
    texts = [row.text for row in rows]
    now = Manifest(30, 30, 0, 32, (), floor, (0, 160))
    for style in ("<think>buy gold</think>{}", "{} buy gold", "<answer>buy gold</answer>{}"):
        assert refused([style.format(text) for text in texts], now) == len(rows)
    assert refused(texts, replace(now, floor=floor_over_all, tokens=None)) > 0.8 * len(rows)
    assert refused(texts, now) < 0.1 * len(rows)


def test_own_rows_and_rows_without_a_floor_are_never_dropped(step_trainer: SourceGRPOTrainer) -> None:
    group = own_group(0)
    rows = build_rows([group], step_trainer.train_config, {})
    strict = step_trainer.step(Manifest(0, 0, 0, 8, tuple(rows), 0.0, (20, 0)))
    assert strict.grad_norm > 0
    peers = build_rows([peer_group(group.prompt, ["a", "b"], [1.0, 0.0])], step_trainer.train_config, {})
    assert step_trainer.step(Manifest(1, 1, 0, 8, tuple(peers), tokens=(0, 4))).by_kind[Kind.PEER]["filtered"] == 0


def test_the_floor_is_stored_in_the_manifest() -> None:
    manifest = Manifest(1, 2, 3, 4, (), -1.25)
    assert Manifest.unpack(manifest.pack()) == manifest


def test_manifests_in_the_previous_format_can_be_replayed() -> None:
    import msgpack

    assert Manifest.unpack(msgpack.packb([1, 5, 6, 7, 8, []])) == Manifest(5, 6, 7, 8, ())
    assert Manifest.unpack(msgpack.packb([2, 5, 6, 7, 8, -1.5, []])) == Manifest(5, 6, 7, 8, (), -1.5)


def test_quantiles_are_interpolated() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0], QUANTILE) == 3.0
    assert quantile([4.0, 0.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 1.0], 0.25) == 0.25


def test_measuring_changes_neither_weights_nor_random_numbers(step_trainer: SourceGRPOTrainer) -> None:
    before, state = step_trainer.policy.state_dict(), torch.get_rng_state()
    kept = {name: value.clone() for name, value in before.items()}
    make_filter(step_trainer).measure([own_group(0), own_group(1)])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, kept[name]) for name, value in step_trainer.policy.state_dict().items())
    assert all(parameter.grad is None for parameter in step_trainer.policy.parameters())
