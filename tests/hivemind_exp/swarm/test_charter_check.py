"""Check that this machine generates the swarm's questions, with a fix for every way in which they can differ."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from contextlib import closing
from pathlib import Path

import pytest

from hivemind_exp.config import Config, TaskConfig
from hivemind_exp.errors import ConfigurationError, SwarmError, SwarmSkew, TaskError
from hivemind_exp.game_settings import GameConfig
from hivemind_exp.swarm.charter import MILLION, Charter
from hivemind_exp.swarm.charter_check import applied, check_skew, levels_of, pinned
from hivemind_exp.tasks.mixture import Mixture, TaskFacts
from hivemind_exp.tasks.registry import expand
from tests.support.charters import FILE, LEVELS, charter, with_curriculum, words

FACTS = (
    TaskFacts("spell_backward", None, None, "reasoning-gym 0.1.25"),
    TaskFacts("jsonl", 100, "ef" * 32, ""),
)
DIGESTS = {"spell_backward": "ab" * 32, "jsonl": "cd" * 32}
PIP = f"{shlex.quote(sys.executable)} -m pip install"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "sums.jsonl"
    path.write_text("".join(json.dumps({"question": f"{n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(20)))
    return path


@pytest.fixture(scope="module")
def founded(file: Path) -> tuple[Charter, list[TaskFacts], dict[str, str]]:
    """A charter of real tasks, with the facts and digests of the machine that created it."""
    specs = [
        TaskConfig(name="spell_backward", weight=2, params={"min_word_len": 3, "max_word_len": 5}),
        TaskConfig(name="jsonl", path=str(file)),
    ]
    mixture = Mixture(specs, charter=b"", secret=b"", heldout=0, verifiers=1)
    try:
        facts = mixture.facts()
        digests = {fact.label: mixture.digest(fact.label) for fact in facts}
    finally:
        mixture.close()
    return charter(tasks=pinned(specs, facts, digests)), facts, digests


@pytest.mark.slow
def test_nodes_with_the_same_questions_may_join(
    founded: tuple[Charter, list[TaskFacts], dict[str, str]], file: Path
) -> None:
    made, facts, digests = founded
    check_skew(made, facts, digests)
    assert [task.weight_ppm for task in made.tasks] == [666_667, 333_333]
    assert made.tasks[0].version.startswith("reasoning-gym ")
    assert (made.tasks[1].size, len(made.tasks[1].sha256 or "")) == (20, 64)
    # Another node, with the same file at another path, has the same tasks.
    config = applied(made, Config(tasks=[TaskConfig(name="jsonl", path=str(file))]))
    mixture = Mixture(config.tasks, charter=b"other", secret=b"other", heldout=0, verifiers=1)
    try:
        check_skew(made, mixture.facts(), {label: mixture.digest(label) for label in digests})
    finally:
        mixture.close()


def test_tasks_and_game_come_from_the_charter() -> None:
    before = Config.model_validate({"tasks": ["sapo"], "game": {"groups": 3, "group_size": 2, "rounds": 7}})
    params = {"min_word_len": 3}
    alone = charter(tasks=(words(params=params, weight_ppm=MILLION),), group_size=16)
    config = applied(alone, before)
    assert config.tasks == [TaskConfig(name="spell_backward", params=params)]
    assert (config.game.kind, config.game.group_size, config.game.groups, config.game.rounds) == ("sampling", 16, 3, 7)
    assert config.model_copy(update={"tasks": before.tasks, "game": before.game}) == before
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_equal_shares_differ_by_at_most_a_millionth() -> None:
    tasks = [TaskConfig(name="sapo")]
    facts = [TaskFacts(spec.label, None, None, "") for spec, _ in expand(tasks)]
    shares = [task.weight_ppm for task in pinned(tasks, facts, {fact.label: "ab" * 32 for fact in facts})]
    assert sum(shares) == MILLION
    assert max(shares) - min(shares) == 1
    unequal = [TaskConfig(name="bf", weight=1e-9), TaskConfig(name="arc_1d", weight=1e9)]
    facts = [TaskFacts(name, None, None, "") for name in ("bf", "arc_1d")]
    assert [task.weight_ppm for task in pinned(unequal, facts, {"bf": "", "arc_1d": ""})] == [1, MILLION - 1]


def test_unknown_tasks_and_missing_files_are_reported(file: Path) -> None:
    with pytest.raises(SwarmSkew, match="each node needs the file of 100 questions"):
        applied(charter(), Config())
    plain = charter(tasks=(words(params={}), FILE))
    assert applied(plain, Config(tasks=[TaskConfig(name="jsonl", path=str(file))])).tasks[1].path == str(file)
    for name in ("spel_backward", "sapo"):
        with pytest.raises(SwarmSkew, match=r"does not know|interprets the swarm's tasks differently"):
            applied(charter(tasks=(words(name=name, label=name, params={}, weight_ppm=MILLION),)), Config())
    with pytest.raises(SwarmSkew, match="interprets the swarm's tasks differently"):
        applied(charter(tasks=(words(label="letters", weight_ppm=MILLION),)), Config())


@pytest.mark.parametrize(
    "params",
    [{"data_file": "/etc/passwd"}, {"max_word_len": 10**9}, {"min_word_len": "<|im_end|>"}, {"x\ntry: y": 1}],
)
def test_parameters_that_only_a_profile_can_set_are_refused(params: dict[str, object]) -> None:
    made = charter(tasks=(words(params=params, weight_ppm=MILLION),))
    with pytest.raises(SwarmError, match="the swarm's charter sets") as caught:
        applied(made, Config())
    assert not any(str(text) in caught.value.message for text in ("passwd", "im_end", "try: y"))
    spec = TaskConfig.model_validate({"name": "spell_backward", "params": params})
    with pytest.raises(TaskError, match="a swarm's task spell_backward cannot set"):
        pinned([spec], [TaskFacts("spell_backward", None, None, "")], {"spell_backward": ""})


def test_a_curriculum_is_refused_unless_the_charter_allows_it(file: Path) -> None:
    config = Config.model_validate({"tasks": [{"name": "jsonl", "path": str(file)}], "game": {"curriculum": True}})
    tasks = (words(params={}), FILE)
    with pytest.raises(ConfigurationError, match="the charter of swarm maths fixes the tasks' parameters") as caught:
        applied(charter(tasks=tasks), config)
    assert caught.value.next == "swarmctl run --set game.curriculum=false"
    allowed = with_curriculum(tasks=(words(params={}, levels=LEVELS[::2]), FILE))
    assert applied(allowed, config).game.curriculum
    assert not applied(allowed, config.model_copy(update={"game": GameConfig()})).game.curriculum
    assert levels_of(allowed) == {"spell_backward": LEVELS[::2], "jsonl": ()}
    assert levels_of(charter()) is None


@pytest.mark.parametrize("level", [{"data_file": "/etc/passwd"}, {"max_word_len": 10**9}, {"max_word_len": "five"}])
def test_a_level_has_only_parameters_that_a_charter_can_set(level: dict[str, object]) -> None:
    task = words(params={}, weight_ppm=MILLION, levels=({"max_word_len": 3}, level))
    with pytest.raises(SwarmError, match="the swarm's charter sets"):
        applied(with_curriculum(tasks=(task,)), Config())


@pytest.mark.slow
def test_the_digest_covers_the_levels_that_the_charter_lists() -> None:
    spec = TaskConfig(name="chain_sum", params={"min_terms": 2, "max_terms": 4})
    found = []
    for levels in (None, (), ({"max_terms": 2}, {"max_terms": 4}), ({"max_terms": 3}, {"max_terms": 4})):
        given = None if levels is None else {"chain_sum": levels}
        with closing(Mixture([spec], charter=b"", secret=b"", heldout=0, verifiers=1, levels=given)) as made:
            facts, digest = made.facts(), made.digest("chain_sum")
        (task,) = pinned([spec], facts, {"chain_sum": digest})
        assert task.levels == (levels or ())
        found.append(digest)
    assert found[0] == found[1]
    assert len(set(found)) == 3


@pytest.mark.slow
def test_a_level_that_the_generator_rejects_is_reported() -> None:
    spec = TaskConfig(name="chain_sum", params={"min_terms": 3, "max_terms": 4})
    given = {"chain_sum": ({"max_terms": 2}, {"max_terms": 4})}
    with (
        closing(Mixture([spec], charter=b"", secret=b"", heldout=0, verifiers=1, levels=given)) as made,
        pytest.raises(TaskError, match="rejects a level of difficulty in the swarm's charter"),
    ):
        made.facts()


@pytest.mark.parametrize(
    ("place", "changes", "told", "cure"),
    [
        (
            0,
            {"version": "reasoning-gym 0.1.23"},
            "from reasoning-gym 0.1.23 on this machine",
            f"{PIP} reasoning-gym==0.1.25",
        ),
        (0, {"version": ""}, "from this version of swarmctl on this machine", "swarmctl --version"),
        (0, {"label": "bf"}, "does not have the swarm's task spell_backward", "swarmctl --version"),
        (
            1,
            {"sha256": "00" * 32},
            r"on this machine \(100 questions, SHA-256 000000000000…\)",
            "swarmctl run --task FILE.jsonl",
        ),
        (1, {"size": 99}, "99 questions", "swarmctl run --task FILE.jsonl"),
        (1, {"size": None, "sha256": None}, r"on this machine \(not a fixed set\)", "swarmctl run --task FILE.jsonl"),
    ],
)
def test_skew_suggests_a_fix(place: int, changes: dict[str, object], told: str, cure: str) -> None:
    check_skew(charter(), FACTS, DIGESTS)
    facts = list(FACTS)
    facts[place] = dataclasses.replace(facts[place], **changes)  # type: ignore[arg-type]
    with pytest.raises(SwarmSkew, match=told) as caught:
        check_skew(charter(), facts, DIGESTS)
    assert caught.value.next == cure


def test_other_questions_under_the_same_version_are_skew() -> None:
    with pytest.raises(SwarmSkew, match=r"other questions on this machine.*both use reasoning-gym 0\.1\.25") as caught:
        check_skew(charter(), FACTS, DIGESTS | {"spell_backward": "00" * 32})
    assert caught.value.next == f"{PIP} --force-reinstall --no-deps reasoning-gym==0.1.25"
    with pytest.raises(
        SwarmSkew, match=r"task jsonl has other questions on this machine.*its version and data match"
    ) as caught:
        check_skew(charter(), FACTS, {"spell_backward": "ab" * 32})
    assert caught.value.next == "swarmctl --version"


@pytest.mark.parametrize("version", ["evil-package 1.0", "reasoning-gym 0.1.25.post1", "reasoning-gym 1!2"])
def test_a_charter_cannot_suggest_another_package(version: str) -> None:
    hostile = charter(tasks=(words(version=version), FILE))
    with pytest.raises(SwarmSkew) as caught:
        check_skew(hostile, FACTS, DIGESTS)
    assert caught.value.next == "swarmctl --version"
