"""The command line as a whole: what it imports, prints and exits with."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind_exp import errors as node_errors
from hivemind_exp.errors import NodeError, from_code
from swarmctl import cli
from swarmctl.errors import Exit, exit_code, without_typed_keys
from swarmctl.terminal.safe_text import HIDDEN, clean, encodable, looks_like_key, masked, without_keys
from swarmctl.version import VERSION
from tests.support.command_line import ROOT, SWARMCTL, write_profile
from tests.support.journals import bare_node, mixed_node
from tools.completions.tree import tree
from tools.completions.words import WORDS

KEY = "sk-proj-Abcdefghijklmnop0123456789"


def test_importing_the_command_line_is_light() -> None:
    code = (
        "import sys, swarmctl.cli, swarmctl.profiles.list; heavy = {'rich', 'pydantic', 'pydantic_core', 'keyring', "
        "'openai', 'torch', 'psutil', 'tomlkit', 'asyncio', 'httpx2', 'importlib.metadata'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "rich"),
    [
        (["keys", "list"], "rich"),  # no key, so no table
        (["completion", "show", "bash"], "rich"),
        (["rollouts", "show"], "rich"),
        (["rollouts", "export"], "rich"),
        # These print a table, which only needs parts of rich.
        (["profiles", "list"], "rich.live"),
        (["status"], "rich.live"),
        (["identity", "show"], "rich.live"),
        (["rollouts", "stats"], "rich.live"),
    ],
)
def test_light_commands_import_nothing_heavy(command: list[str], rich: str) -> None:
    mixed_node()
    code = (
        f"import sys, swarmctl.cli; swarmctl.cli.run({command}); "
        "heavy = {'pydantic', 'tomlkit', 'torch', 'keyring', 'urllib.request', 'asyncio', 'pygments', 'httpx2'}; "
        f"print(sorted((heavy | {{'{rich}'}}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_version_does_not_import_typer() -> None:
    code = (
        "import sys; sys.argv = ['swarmctl', '--version']; from swarmctl.__main__ import main; main(); "
        "print('typer' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"swarmctl {VERSION}\nFalse\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["profiles"], ["profiles", "--help"]])
def test_help_goes_to_stdout_and_exits_0(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == Exit.DONE
    out, err = capsys.readouterr()
    assert "Examples:" in out
    assert err == ""


@pytest.mark.parametrize("command", [list(command.path) for command in tree(cli.app, WORDS).walk()], ids=" ".join)
def test_every_help_has_examples_and_is_wrapped_between_words_only(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*command, "--help"]) == Exit.DONE
    out = capsys.readouterr().out
    assert out.count("  swarmctl ") >= 2
    assert re.findall(r"\S-$|\[default:$", out, re.MULTILINE) == []


def test_every_command_is_listed_under_a_heading_with_its_full_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["keys"], ["profiles"], ["completion"]):
        cli.run([*command, "--help"])
        lists = capsys.readouterr().out.partition("Show this message and exit.")[2]
        assert "..." not in lists
        unplaced = "\nCommands:\n" in lists
        assert unplaced == bool(command), "add the new command to HEADINGS in swarmctl/terminal/help.py"
    cli.run(["--help"])
    out = capsys.readouterr().out
    assert out.index("\nStart:\n  init ") < out.index("\nWatch:\n  status ") < out.index("\nShell:\n  completion ")


def test_aliases_work_but_are_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profile", "list"]) == Exit.DONE
    assert "demo" in capsys.readouterr().out
    assert cli.run(["ps"]) == Exit.DONE
    assert "No nodes yet" in capsys.readouterr().out
    cli.run(["--help"])
    out = capsys.readouterr().out
    assert "  profile " not in out
    assert "  ps " not in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rnu"], "unknown command 'rnu'; did you mean run?"),
        (["run", "--ronds", "many"], "unknown option '--ronds'; did you mean --rounds?"),
        (["run", "--rounds", "many"], "invalid --rounds: 'many'. Use a whole number of at least 0"),
        (["profiles", "show", "a", "b"], "unexpected arguments: b"),
        (["keys", "set", "x", "--hots", "0123456789abcdef"], "unknown option '--hots'; did you mean --host?"),
        (["run", "--join"], "--join needs a value"),
        (["swarm", "show", "--node"], "--node needs a value"),
    ],
)
def test_a_wrong_command_line_exits_2(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == Exit.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert told in err
    assert err.splitlines()[1].startswith("  try: ")
    assert err.rstrip().endswith("--help")
    assert "0123456789abcdef" not in err
    assert len(arguments) == 1 or f"swarmctl {arguments[0]}" in err


def test_an_invalid_value_of_a_flag_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "--max-usd", "2usd"]) == Exit.USAGE
    error, suggestion = capsys.readouterr().err.splitlines()
    assert error == "error: invalid --max-usd: '2usd'. Use an amount in USD above 0, or unlimited"
    assert suggestion.endswith("swarmctl run --help")


@pytest.mark.parametrize(
    ("typed", "told", "following"),
    [
        ("help", "unknown command 'help'; did you mean swarmctl --help?", "swarmctl --help"),
        ("help run", "unknown command 'help'; did you mean swarmctl --help?", "swarmctl run --help"),
        ("help swarm new", "did you mean swarmctl --help?", "swarmctl swarm new --help"),
        ("version", "did you mean swarmctl --version?", "swarmctl --version"),
        ("list", "did you mean swarmctl status?", "swarmctl status --help"),
        ("kill", "did you mean swarmctl stop?", "swarmctl stop --help"),
        ("join", "did you mean swarmctl swarm join?", "swarmctl swarm join --help"),
        ("start demo", "did you mean swarmctl run?", "swarmctl run --profile demo"),
        ("start nonsense", "did you mean swarmctl run?", "swarmctl run --help"),
        ("keys add", "unknown command 'add'; did you mean swarmctl keys set?", "swarmctl keys set --help"),
        ("profiles rm", "did you mean swarmctl profiles delete?", "swarmctl profiles delete --help"),
        ("profiles rm mine", "did you mean swarmctl profiles delete?", "swarmctl profiles delete mine"),
        ("keys rm openai", "did you mean swarmctl keys delete?", "swarmctl keys delete openai"),
        ("keys delet openai --yes", "did you mean delete?", "swarmctl keys delete openai --yes"),
        ("keys rm openai --nonsense", "did you mean swarmctl keys delete?", "swarmctl keys delete --help"),
        (f"keys add sk-{'a1B2' * 8}", "did you mean swarmctl keys set?", "swarmctl keys set --help"),
        ("keys rm openai --help", "did you mean swarmctl keys delete?", "swarmctl keys delete openai --help"),
        ("profils show demo", "did you mean profiles?", "swarmctl profiles show demo"),
        ("profils nonsense", "did you mean profiles?", "swarmctl profiles --help"),
        ("kill maths", "did you mean swarmctl stop?", "swarmctl stop maths"),
        ("start --rounds 5", "did you mean swarmctl run?", "swarmctl run --rounds 5"),
        ("rnu", "unknown command 'rnu'; did you mean run?", "swarmctl run --help"),
        ("swarm pers", "unknown command 'pers'; did you mean peers?", "swarmctl swarm peers --help"),
    ],
)
def test_other_words_for_a_command_suggest_it(
    typed: str, told: str, following: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(typed.split()) == Exit.USAGE
    error, suggestion = capsys.readouterr().err.splitlines()
    assert error.endswith(told)
    assert suggestion.endswith(following)
    assert all(cli.run([*command.split()[1:], *(["--help"] * (" --" not in command))]) == 0 for command in _PLAIN)


_PLAIN = sorted(set(cli.INTENDED_COMMANDS.values()))


def test_a_name_after_run_suggests_its_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "demo"]) == Exit.USAGE
    error, suggestion = capsys.readouterr().err.splitlines()
    assert error == "error: unexpected arguments: demo; did you mean --profile demo?"
    assert suggestion.endswith("swarmctl run --profile demo")
    bare_node("demo")
    assert cli.run(["run", "demo"]) == Exit.USAGE
    assert "did you mean --node demo?" in capsys.readouterr().err


def test_a_dry_run_does_not_go_with_the_background(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "-p", "demo", "--dry-run", "--detach"]) == Exit.USAGE
    assert "--dry-run starts nothing, so it cannot be used with --detach" in capsys.readouterr().err


def test_errors_as_json_are_an_object_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["run", "--profile", "dmo", "--json"]) == Exit.CONFIGURATION
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert json.loads(out)["schema"] == 1
    assert error.keys() == {"code", "message", "next"}
    assert error["code"] == "configuration"
    assert "did you mean demo?" in error["message"]
    assert err == ""
    assert cli.run(["run", "--nonsense", "--json"]) == Exit.USAGE
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_a_misspelled_variable_stops_a_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SWARMCTL_TRIAN__BETA", "0.1")
    assert cli.run(["run", "-p", "demo"]) == Exit.CONFIGURATION
    cause, following = capsys.readouterr().err.splitlines()
    assert cause == "error: unknown setting $SWARMCTL_TRIAN__BETA; did you mean SWARMCTL_TRAIN__BETA?"
    assert following.startswith("  try: env -u SWARMCTL_TRIAN__BETA SWARMCTL_TRAIN__BETA=0.1 ")
    assert following.endswith("swarmctl run -p demo")
    assert not home.exists()


@pytest.mark.slow
def test_the_next_command_works_when_pasted(home: Path) -> None:
    program = SWARMCTL
    failed = subprocess.run(
        [*program, "profiles", "show", "dmo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert failed.returncode == Exit.CONFIGURATION
    command = failed.stderr.splitlines()[1].removeprefix("  try: ")
    assert subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_exit_code_is_3_for_what_the_user_must_change_and_1_otherwise() -> None:
    codes = {kind.code: exit_code(kind("x")) for kind in NodeError.__subclasses__()}
    threes = {code for code, exit in codes.items() if exit == Exit.CONFIGURATION}
    same = {"configuration", "node_conflict", "provider", "model", "task", "device", "key", "identity", "swarm"}
    assert threes == same | {"file", "checkpoint", "gave_up"}
    assert codes["out_of_memory"] == codes["disk_full"] == Exit.FAILED
    assert exit_code(NodeError("x")) == Exit.FAILED


def test_an_error_keeps_its_kind_across_processes() -> None:
    assert type(from_code("task", "x", None)) is node_errors.TaskError
    assert type(from_code("never heard of", "x", None)) is NodeError


def test_a_defect_is_one_line_and_its_traceback_is_in_a_file(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError(f"by zero, {KEY}")

    monkeypatch.setattr("swarmctl.profiles.list.list_profiles", broken)
    assert cli.run(["profiles", "list"]) == Exit.FAILED
    err = capsys.readouterr().err
    assert 'ZeroDivisionError: "by zero, ' in err
    assert f"the traceback in {home}/crash.log" in err
    assert "Traceback" not in err
    saved = (home / "crash.log").read_text()
    assert "Traceback" in saved
    assert "ZeroDivisionError: by zero" in saved
    assert KEY not in saved + err
    assert stat.S_IMODE((home / "crash.log").stat().st_mode) == 0o600
    (home / "crash.log").unlink()
    (home / "crash.log").mkdir()
    assert cli.run(["profiles", "list"]) == Exit.FAILED
    assert capsys.readouterr().err.endswith("Please report it\n")


def test_native_windows_is_rejected(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    assert cli.run(["profiles", "list"]) == Exit.FAILED
    assert "WSL 2" in capsys.readouterr().err


@pytest.mark.slow
def test_a_closed_pipe_prints_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [*SWARMCTL, "profiles", "show", "demo"]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b""


def test_profiles_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(home, "mine", 'description = "to\\u001b[31m my taste"\n')
    write_profile(home, "broken", "[")
    write_profile(home, "cpu", 'extends = "cpu"\n')
    assert cli.run(["profiles", "list"]) == Exit.DONE
    out = capsys.readouterr().out
    assert "* default  built-in" in out
    assert "to my taste" in out
    assert "not valid TOML" in out
    assert cli.run(["profiles", "list", "--json"]) == Exit.DONE
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["profiles"]}
    assert rows["cpu"]["hides_builtin"]
    assert not rows["cpu"]["builtin"]
    assert rows["broken"]["error"]
    assert rows["default"]["default"]


def test_output_of_show_is_a_valid_profile(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["cpu"], ["demo", "--origin"]):
        assert cli.run(["profiles", "show", *arguments, "--set", "train.beta=0.5"]) == Exit.DONE
        write_profile(home, "copy", capsys.readouterr().out)
        assert cli.run(["profiles", "show", "copy", "--json"]) == Exit.DONE
        copy = json.loads(capsys.readouterr().out)["config"]
        assert cli.run(["profiles", "show", arguments[0], "--set", "train.beta=0.5", "--json"]) == Exit.DONE
        assert json.loads(capsys.readouterr().out)["config"] == copy


def test_show_prints_origins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SWARMCTL_TRAIN__BETA", "0.5")
    assert cli.run(["profiles", "show", "demo", "--origin", "--set", "game.rounds=7"]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert "rounds = 7 # --set" in lines
    assert "beta = 0.5 # $SWARMCTL_TRAIN__BETA" in lines
    assert "groups = 16 # built-in demo" in lines
    assert "max_lag = 4 # default" in lines
    assert "[[tasks]] # built-in demo" in lines


def test_show_hides_what_looks_like_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--json"]):
        cli.run(["profiles", "show", "demo", "--set", "model.revision=hf_abcdefghijklmnopqrstuv", *extra])
        out = capsys.readouterr().out
        assert "abcdefghijk" not in out
        assert "looks like a key" in out


PEER = "12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm"


def test_keys_are_distinguished_from_commits() -> None:
    assert looks_like_key("sk-proj-0123456789abcdef")
    assert looks_like_key("https://me:secret@host/x")
    for digits in ("0123456789abcdef0123456789abcdef01234567", "0f" * 32):  # of a commit, or a key of some services
        assert looks_like_key(digits)
        assert masked(f"key {digits}") == "key (hidden: looks like a key)"
        assert digits not in without_typed_keys(f"unknown model '{digits}'")
        assert without_keys({"name": digits, "revision": digits}) == {"name": HIDDEN, "revision": digits}
        for text in (f"revision {digits}", f"model.revision={digits}", f"snapshots/{digits}/x", f"swarm1:{digits}"):
            assert digits in without_typed_keys(text)
        assert digits in masked(f"run --set model.revision={digits}")
    assert not looks_like_key("Qwen/Qwen2.5-0.5B-Instruct")
    invitation = f"swarm1:{'0f' * 32}@/ip4/203.0.113.7/tcp/4001/p2p/{PEER}"
    assert not looks_like_key(invitation)
    assert not looks_like_key(PEER)
    assert looks_like_key(PEER + "x")
    assert looks_like_key(f"{invitation} sk-proj-0123456789abcdef")
    assert without_keys({"a": ["hf_0123456789abcdef", 1]}) == {"a": ["(hidden: looks like a key)", 1]}


def test_text_is_made_safe_for_terminals() -> None:
    assert clean("a\x1b[2J\x1b]0;title\x07b\rc\nd\u202e") == "abc\nd"
    assert encodable("1 → 2 …", "ascii") == "1 -> 2 ..."
    assert encodable("1 → 2", "utf-8") == "1 → 2"


def test_validate(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("hivemind_exp.tasks.registry")
    assert cli.run(["profiles", "validate"]) == Exit.DONE
    assert "demo: ok" in capsys.readouterr().out
    write_profile(home, "bad", "[train]\nlearnin_rate = 1\nbeta = -1\n")
    assert cli.run(["profiles", "validate", "bad", "--json"]) == Exit.CONFIGURATION
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    problems = report["profiles"][0]["problems"]
    assert {problem["key"] for problem in problems} == {"train.learnin_rate", "train.beta"}
    assert "train.learning_rate" in {problem["nearest"] for problem in problems}
    path = write_profile(home, "lost", 'tasks = ["no_such_generator"]\n')
    assert cli.run(["profiles", "validate", str(path)]) == Exit.CONFIGURATION
    assert "no_such_generator" in capsys.readouterr().out
