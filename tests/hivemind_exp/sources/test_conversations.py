"""The model and an environment take turns, and the rollout is exactly what the model saw and sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from hivemind_exp.game.sampling.game import build_prompts, scores_of
from hivemind_exp.models.chat_format import encode
from hivemind_exp.models.tiny import build_tokenizer
from hivemind_exp.rollouts.types import Prompt, Rollout, Turn
from hivemind_exp.source_kinds import Kind
from hivemind_exp.sources.conversations import LOST, TRIES, Conversations
from hivemind_exp.tasks.base import Heard, Question, Score, Talk
from tests.support.tiny_models import TEMPLATE
from tests.support.two_turn_game import TwoTurnGame

TOKENIZER = build_tokenizer()
TOKENIZER.chat_template = TEMPLATE
END = TOKENIZER.eos_token_id


class Scripted:
    """Says the given texts, one per turn, in every conversation, and ends each with an end of turn."""

    def __init__(self, *texts: str) -> None:
        self._texts: Iterator[str] = iter(texts)
        self.asked: list[Sequence[Prompt]] = []
        self.seeds: list[int | None] = []

    def __call__(self, prompts: Sequence[Prompt], rooms: Sequence[int], seed: int | None) -> list[Rollout]:
        self.asked.append(prompts)
        self.seeds.append(seed)
        text = next(self._texts)
        made = []
        for room in rooms:
            ids = [*TOKENIZER.encode(text, add_special_tokens=False), END]
            made.append(Rollout(Kind.POLICY, "local", text, tuple(ids[:room]), len(ids) > room))
        return made


class Losing(TwoTurnGame):
    """Loses every conversation."""

    def reply(self, _: object, talks: Sequence[Talk]) -> list[Heard]:
        return [Heard(lost=True) for _ in talks]


class Silent(TwoTurnGame):
    """Says nothing."""

    def reply(self, questions: Sequence[Question], talks: Sequence[Talk]) -> list[Heard]:
        return [replace(heard, messages=()) for heard in super().reply(questions, talks)]


def play(game: TwoTurnGame, said: Scripted, *, most: int = 40, count: int = 1) -> list[Rollout]:
    prompts = build_prompts(game.questions("train", 0, count), TOKENIZER)
    return Conversations(TOKENIZER, game, said, "local", most).play(prompts, seed=5)


def test_a_conversation_is_one_rollout_of_the_tokens_as_they_were() -> None:
    game, said = TwoTurnGame(), Scripted("ab", "x")
    (row,) = play(game, said)
    letter = game.questions("train", 0, 1)[0].entry["letter"].upper()
    chat = ({"role": "user", "content": "Play."}, {"role": "assistant", "content": "ab"})
    prompt, second = said.asked[0][0], said.asked[1][0]
    assert second.ids == (*prompt.ids, *row.ids[:-2])  # the model saw exactly this
    heard = Turn("user", letter, row.turns[1].tokens)
    assert row.turns == (Turn("assistant", "ab", 3), heard, Turn("assistant", "x", 2))
    assert row.heard == ((3, 3 + row.turns[1].tokens),)
    assert [row.ids[place] for place in (0, 1, 2)] == [*TOKENIZER.encode("ab"), END]
    shown = [number for number in (*prompt.ids, *row.ids[:-2]) if number != END]  # this template shows no end of turn
    assert shown == encode((*chat, {"role": "user", "content": letter}), TOKENIZER)
    assert row.sampled == 5
    assert row.text == f"ab\n\n[user] {letter}\n\nx"
    assert row.score is not None
    assert row.score.outcome == float(letter == "X")


def test_turns_have_seeds_of_their_own() -> None:
    once, again = Scripted("a", "x"), Scripted("a", "x")
    assert play(TwoTurnGame(), once) == play(TwoTurnGame(), again)
    assert once.seeds == again.seeds
    assert len(set(once.seeds)) == 2
    assert None not in once.seeds


@pytest.mark.parametrize(("most", "turns"), [(2, 1), (3, 2), (12, 2), (40, 3)])
def test_a_conversation_ends_where_there_is_no_room(most: int, turns: int) -> None:
    (row,) = play(TwoTurnGame(), Scripted("ab", "x"), most=most)
    assert len(row.ids) <= most
    assert row.truncated == (most < 40)
    assert row.score is not None
    assert row.score.judged
    assert len(row.turns) == turns
    assert row.sampled == min(most, 3 if turns < 3 else 5)


def test_a_lost_conversation_begins_again_and_is_never_scored_0() -> None:
    game, said = TwoTurnGame(), Scripted("a", "b", "c", "x", "x")
    questions = game.questions("train", 0, 2)
    game.lose = {(questions[0].digest, 2)}
    lost, other = play(game, said, count=2)
    assert [turn.text for turn in lost.turns if turn.sampled] == ["c", "x"]
    assert [turn.text for turn in other.turns if turn.sampled] == ["a", "b"]
    seeds = {talk.seed for talk in game.asked}
    assert len(seeds) == 3  # each attempt has a chance of its own
    assert lost.score is not None
    assert lost.score.judged


def test_a_conversation_that_is_lost_again_and_again_is_left_out() -> None:
    (row,) = play(Losing(), Scripted(*"abc"))
    assert TRIES == 3
    assert row.score == Score(0.0, False, LOST, judged=False)


def test_an_environment_may_let_the_model_go_on_without_a_word() -> None:
    game = Silent()
    (row,) = play(game, Scripted("a", "x"))
    assert [(turn.role, turn.text) for turn in row.turns] == [("assistant", "a"), ("user", ""), ("assistant", "x")]
    assert row.heard == ((2, 2 + row.turns[1].tokens),)


def test_a_conversations_own_score_counts() -> None:
    game = TwoTurnGame()
    (row,) = play(game, Scripted("a", "x"))
    assert scores_of(game, game.questions("train", 0, 1), [row]) == [row.score]  # the game refuses to score
