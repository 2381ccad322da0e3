"""Exit code 2 for the value of an option, and 3 for a setting: the same rule for every command."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from tests.support.command_line import write_profile
from tests.support.journals import bare_node


@pytest.mark.parametrize(
    "value",
    [
        *("--rounds -1", "--rounds x", "--seed x", "--gpus 0", "--max-usd x", "--max-usd -1", "--device gpu"),
        *("--restart sometimes", "--node a/b", "--model ''", "--task ''", "--join x", "--set game.rounds"),
        "--offload http://user@host/v1",
    ],
)
@pytest.mark.usefixtures("home")
def test_a_value_that_an_option_cannot_take_is_an_invalid_command_line(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", "--profile", "demo", "--dry-run", *shlex.split(value)]) == Exit.USAGE
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.usefixtures("home")
def test_an_invalid_setting_is_a_wrong_configuration_wherever_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", "--profile", "demo", "--dry-run", "--set", "game.rounds=-1"]) == Exit.CONFIGURATION
    write_profile(home, "mine", "game.rounds = -1\n")
    assert cli.run(["run", "--profile", "mine", "--dry-run"]) == Exit.CONFIGURATION
    # Next to it, a wrong option changes nothing: the profile has to be mended, too.
    assert cli.run(["run", "--profile", "mine", "--dry-run", "--max-usd", "x"]) == Exit.CONFIGURATION
    monkeypatch.setenv("SWARMCTL_GAME__ROUNDS", "-1")
    assert cli.run(["run", "--profile", "demo", "--dry-run"]) == Exit.CONFIGURATION
    capsys.readouterr()


@pytest.mark.parametrize(
    "command",
    [
        *("profiles new a/b", "sample maths --temperature 9", "rollouts show maths --round 0"),
        *("rollouts stats maths --by x", "logs maths -n -1", "logs maths --level x", "logs maths --since x"),
        *("profiles new q --max-usd x", "profiles new q --device gpu", "report maths --port 0"),
        *("swarm new x --stage-time 1", "tasks show gcd --seed -1", "export maths out --gguf-type x"),
        "eval openai:m --task gcd --max-usd x",
    ],
)
@pytest.mark.usefixtures("home")
def test_every_command_has_the_same_code_for_it(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    bare_node("maths")
    assert cli.run(shlex.split(command)) == Exit.USAGE, capsys.readouterr().err
