"""After a misspelled option, setting or value, the error suggests the command that was typed, corrected."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.terminal.command_line import launcher
from tests.support.command_line import ROOT, write_profile

HEX = "0123456789abcdef0123456789abcdef"


def suggestion(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the command that follows an error."""
    assert cli.run(arguments) in (Exit.CONFIGURATION, Exit.USAGE)
    *_, following = capsys.readouterr().err.splitlines()
    return following.removeprefix(f"  try: {launcher()} ").removeprefix("  try: ")


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("run -p demo --set train.learning_rat=1e-4 --rounds 3", "train.learning_rat=1e-4 -> train.learning_rate=1e-4"),
        ("run -p demo --set train.lr=1 -d", "train.lr -> train.learning_rate"),
        ("run -p demo --set trian.learning_rate=1", "trian -> train"),
        ("run -p demo --set=lora.rank=2", "lora.rank -> model.lora.rank"),
        ("run -p demo --set model.device=gpu", "=gpu -> =cuda"),
        ("run -p demo --set model.dtype=bf16 --set train.lr=1", "bf16 -> bfloat16, train.lr -> train.learning_rate"),
        ("run -p demo --set supervision.keep_awake=ture", "=ture -> =true"),
        ("run -p demo --device gpu", "--device gpu -> --device cuda"),
        ("run -p demo --device=gpu", "--device=gpu -> --device=cuda"),
        ("run --profle demo --set 'train.lr = 1'", "--profle -> --profile"),
        ("profiles show demo --set 'offload.kind = teachr' --json", "'offload.kind = teachr' -> offload.kind=teacher"),
        ("profiles new mine --set train.lr=1", "train.lr -> train.learning_rate"),
        ("swarm new tea --task 'a b' --set train.lr=1", "train.lr -> train.learning_rate"),
        (
            "run -p demo --set providers.box.base_url=http://127.0.0.1:1/v1 --set providers.box.ned_key=false",
            "ned_key -> needs_key",
        ),
    ],
)
def test_the_command_is_suggested_with_the_mistake_corrected(
    typed: str, right: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = typed
    for change in right.split(", "):
        expected = expected.replace(*change.split(" -> "))
    if "--json" in typed:
        assert cli.run(shlex.split(typed)) == Exit.CONFIGURATION
        assert f" {expected}" in capsys.readouterr().out
    else:
        assert suggestion(capsys, *shlex.split(typed)) == expected
    assert not home.exists()


@pytest.mark.parametrize(
    ("typed", "following"),
    [
        ("run -p demo --set rounds=3", "profiles show demo --origin"),  # of two tables
        ("run -p demo --set train.lr=many", "profiles show demo --origin"),  # the value is wrong, too
        ("run -p demo --set train.lr=1 --set train.zzzzzz=1", "profiles show demo --origin"),
        ("run -p demo --set train.lr=1 --set hub.repo=sk-abcdefghijklmnop1234", "profiles show demo --origin"),
        ("run -p demo --set train.lr=1 --model sk-abcdefghijklmnop1234", "profiles show demo --origin"),
        (f"run -p demo --set train.lr=1 --set offload.key={HEX}", "profiles show demo --origin"),
        (f"run -p demo --set train.lr=1 --set judge.api_key={HEX}", "keys set --help"),
        ("run -p demo --device zzz", "run --help"),
    ],
)
def test_no_command_is_suggested_that_fails_or_contains_a_key(
    typed: str, following: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suggestion(capsys, *shlex.split(typed)) == following


@pytest.mark.slow
def test_a_variable_is_corrected_for_the_command_and_the_command_works_when_pasted(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWARMCTL_TRAIN__LR", "1e-4")
    monkeypatch.setenv("SWARMCTL_MODEL__DTYPE", "floot32")
    assert cli.run(["run", "-p", "demo", "--rounds", "3"]) == Exit.CONFIGURATION
    command = capsys.readouterr().err.splitlines()[-1].removeprefix("  try: ")
    begin = "env -u SWARMCTL_TRAIN__LR SWARMCTL_MODEL__DTYPE=float32 SWARMCTL_TRAIN__LEARNING_RATE=1e-4"
    assert command == f"{begin} {launcher()} run -p demo --rounds 3"
    pasted = subprocess.run(
        f"{command} --dry-run --all", shell=True, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert pasted.returncode == Exit.DONE, pasted.stderr
    assert "learning_rate = 0.0001" in pasted.stdout


def test_only_what_was_typed_is_corrected(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile(home, "mine", 'extends = "demo"\n[train]\nlr = 1\n')
    assert suggestion(capsys, "run", "-p", "mine") == "profiles edit mine"
    assert suggestion(capsys, "run", "-p", "mine", "--set", "train.bta=0") == "profiles edit mine"
    monkeypatch.setenv("SWARMCTL_TRAIN__LR", "sk-abcdefghijklmnop1234")
    assert suggestion(capsys, "run", "-p", "demo") == "unset SWARMCTL_TRAIN__LR"


def test_doctor_suggests_its_own_command(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "fit.profile", "--profile", "demo", "--set", "train.lr=1"]) == Exit.CHECK_FAILED
    said = capsys.readouterr().out
    assert f"    try: {launcher()} doctor fit.profile --profile demo --set train.learning_rate=1\n" in said
