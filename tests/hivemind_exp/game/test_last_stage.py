"""The names of stages agree with what other modules assume of them."""

from hivemind_exp.game.last_stage import LAST_STAGE
from hivemind_exp.game.sampling.game import STAGE
from hivemind_exp.game.study_group.game import STAGES, StudyGroup
from hivemind_exp.game_settings import STAGE_NAMES
from hivemind_exp.offload import hints, judge
from hivemind_exp.offload.settings import SCORE_STAGE


def test_a_round_ends_with_the_games_last_stage() -> None:
    assert {"sampling": STAGE, "study-group": STAGE_NAMES[-1]} == LAST_STAGE


def test_an_api_may_complete_every_stage() -> None:
    assert tuple(stage.name for stage in STAGES) == StudyGroup.stages == STAGE_NAMES


def test_requests_that_are_no_stages_have_names_of_their_own() -> None:
    others = [judge.STAGE, hints.STAGE, SCORE_STAGE]
    assert len({*STAGE_NAMES, *others}) == len(STAGE_NAMES) + len(others)
