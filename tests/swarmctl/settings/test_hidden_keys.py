"""Messages about invalid values never show a key, whichever setting or option it is given for."""

from __future__ import annotations

import json

import pytest

from swarmctl import cli
from swarmctl.errors import Exit, without_typed_keys
from swarmctl.settings.schema import dotted, settings
from swarmctl.settings.sources import Override
from tests.support.setting_problems import assigned, messages

KEY = "sk-proj-Abcdefghijklmnop0123456789"


@pytest.mark.parametrize(
    "name", ["offload.key", "providers={a={base_url='http://x', model=%s}}", "tasks=[{name='x', params={api_key=%s}}]"]
)
def test_a_value_under_a_name_that_means_a_secret_is_never_shown(name: str) -> None:
    assignment = name % "2024-01-01" if "%s" in name else f"{name}=hunter2"
    (message,) = assigned(assignment)
    assert "hunter2" not in message
    assert ("(hidden)" in message) == ("2024" not in message)


@pytest.mark.parametrize("path", list(settings()), ids=dotted)
def test_a_key_is_never_shown_whatever_setting_it_is_given_for(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert KEY not in " ".join(messages(Override(path, KEY, "--set")))
    for value in (f"[{KEY!r}]", f"{{a = {KEY!r}}}", f"{{{KEY} = 1}}"):
        assert KEY not in " ".join(assigned(f"{dotted(path)}={value}"))
    monkeypatch.setenv(f"SWARMCTL_{'__'.join(path).upper()}", KEY)
    cli.run(["profiles", "show", "--json"])
    out, err = capsys.readouterr()
    assert KEY not in out + err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", f"{KEY}=1"],
        ["--set", f"train.{KEY}=1"],
        ["--set", f"model.device={KEY}"],
        ["--model", KEY, "--task", "no_such_task"],
        ["--device", KEY],
        ["--task", KEY],
        ["--rounds", KEY],
        ["--seed", KEY],
        ["--offload", KEY],
        ["--max-usd", KEY],
        ["--join", KEY],
        ["--profile", KEY],
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_key_on_the_command_line_is_never_repeated(
    arguments: list[str], as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["run", "--no-input", *arguments, *(["--json"] if as_json else [])]) in (
        Exit.CONFIGURATION,
        Exit.USAGE,
    )
    out, err = capsys.readouterr()
    assert KEY not in out + err
    if as_json:
        assert json.loads(out)["error"]["message"]


def test_errors_hide_keys_but_not_paths_and_commands() -> None:
    line = f"swarm1:{'0f' * 32}@/ip4/203.0.113.7/tcp/4001"
    for text in ("no file /home/me/disk-experiments-2024/x.toml", f"swarmctl run --join {line}", f"@{'0f' * 20}"):
        assert without_typed_keys(text) == text
    assert without_typed_keys(f"run --set 'model.name={KEY}' -d") == (
        "run --set 'model.name=(hidden: looks like a key)' -d"
    )
