"""The stage that ends a round is the last one that each game plays."""

from hivemind_exp.game.last_stage import LAST_STAGE
from hivemind_exp.game.sampling.game import STAGE
from hivemind_exp.game.study_group.game import STAGE_NAMES


def test_a_round_ends_with_the_games_last_stage() -> None:
    assert {"sampling": STAGE, "study-group": STAGE_NAMES[-1]} == LAST_STAGE
