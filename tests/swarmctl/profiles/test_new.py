"""``swarmctl profiles new``: questions on a terminal, flags, and no partial files."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import pexpect
import pytest

from hivemind_exp.models.hardware import Hardware
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.profiles.new import merged
from swarmctl.profiles.suitable import suitable_builtin
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import resolve
from tests.support.command_line import SWARMCTL, write_profile
from tests.support.fake_api.server import api_server
from tests.support.terminals import end_input, interrupt, rest_of, spawn


def config_of(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert cli.run(["profiles", "show", name, "--json"]) == Exit.DONE
    config = json.loads(capsys.readouterr().out)["config"]
    assert isinstance(config, dict)
    return config


@pytest.mark.parametrize("builtin", sorted(profiles.builtin_names()))
def test_a_copy_of_a_builtin_profile_has_the_same_settings(
    builtin: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["profiles", "new", "mine", "--from", builtin, "--no-input"]) == Exit.DONE
    out = capsys.readouterr().out
    assert str(home / "profiles/mine.toml") in out
    assert "run --profile mine" in out
    assert cli.run(["profiles", "validate", "mine"]) == Exit.DONE
    copy, original = config_of("mine", capsys), config_of(builtin, capsys)
    assert {**copy, "node": None} == {**original, "node": None}


def test_flags_and_docstrings(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["profiles", "new", "mine", "--from", "cpu", "--model", "./weights", "--task", "gsm8k", "--task", "bf"]
    command += ["--device", "cuda:1", "--rounds", "7", "--set", "train.beta=0.5", "--set", "model.lora=false", "--json"]
    assert cli.run(command) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    text = Path(report["path"]).read_text(encoding="utf-8")
    values = tomllib.loads(text)
    assert values["model"]["name"] == str(Path.cwd() / "weights"), "found from any directory"
    assert values["model"]["device"] == "cuda:1"
    assert values["model"]["lora"] is False
    assert values["tasks"] == ["gsm8k", "bf"]
    assert values["game"]["rounds"] == 7
    assert (
        "# Weight of the KL penalty on the node's own rows. 0: no reference model, and `kl` is null.\nbeta = 0.5\n"
        in text
    )
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) in range(80, 97)
    assert "for machines without an accelerator" in text.lower(), "the comment of the built-in profile is kept"
    assert config_of("mine", capsys)["game"] == {**config_of("cpu", capsys)["game"], "rounds": 7}  # type: ignore[dict-item]


def test_a_profile_is_not_overwritten(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_profile(home, "mine", "# my work\n")
    assert cli.run(["profiles", "new", "mine"]) == Exit.CONFIGURATION
    assert "profiles new mine --yes" in capsys.readouterr().err
    assert path.read_text() == "# my work\n"
    assert (
        cli.run(["profiles", "new", "mine", "--task", "bf", "--task", "gsm8k", "--rounds", "3"]) == Exit.CONFIGURATION
    )
    pasted = shlex.split(capsys.readouterr().err.splitlines()[1].partition("profiles new ")[2])
    assert cli.run(["profiles", "new", *pasted]) == Exit.DONE
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    assert values["tasks"] == ["bf", "gsm8k"]
    assert values["game"]["rounds"] == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["x", "--from", "gpus"], "did you mean gpu?"),
        (["x", "--set", "train.bta=1"], "did you mean train.beta?"),
        (["x", "--set", "nonsense=1"], "unknown setting nonsense"),
        (["x", "--set", "train.beta=-1"], "train.beta"),
        (["x", "--task", "spell_backwards"], "spell_backward"),
        (["x", "--device", "tpu"], "invalid --device: 'tpu'. Use auto, cpu, mps, xpu, cuda or cuda:N"),
        (["x", "--set", "tasks=1"], "invalid tasks: 1. Use at least one task name, or a list of tables"),
        (["../x"], "invalid profile name: '../x'. Use 1 to 64 letters, digits, '.', '_' or '-'"),
        (["x.toml"], "invalid profile name: 'x.toml'. Use 1 to 64 letters"),
        (["-", "--no-input"], "invalid profile name: '-'. Use 1 to 64 letters"),
    ],
)
def test_errors_are_reported_and_nothing_is_written(
    arguments: list[str], told: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong_setting = {"--from", "--set", "--task"} & set(arguments)
    assert cli.run(["profiles", "new", *arguments]) == (Exit.CONFIGURATION if wrong_setting else Exit.USAGE)
    assert told in capsys.readouterr().err
    assert not list(home.rglob("*.toml"))


def test_a_key_is_refused_and_not_repeated(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = "hf_abcdefghijklmnopqrstuvwxyz"
    assert cli.run(["profiles", "new", "x", "--set", f"model.revision={key}"]) == Exit.CONFIGURATION
    out, err = capsys.readouterr()
    assert "the value of model.revision looks like an API key, which does not belong in a profile" in err
    assert key not in out + err
    assert not list(home.rglob("*.toml"))


def test_a_failing_disk_leaves_the_old_profile(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_profile(home, "mine", "# my work\n")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hivemind_exp.atomic_write.os.fsync", full)
    assert cli.run(["profiles", "new", "mine", "--yes"]) == Exit.FAILED
    assert "No space left on device" in capsys.readouterr().err
    assert path.read_text() == "# my work\n"
    assert list(path.parent.iterdir()) == [path]


def test_a_profile_may_hide_the_builtin_one_it_comes_from(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profiles", "new", "default", "--model", "a/b", "--no-input"]) == Exit.DONE
    said = capsys.readouterr().err
    assert "warning: --profile default now means your file, not the built-in profile, also for existing nodes." in said
    assert f"  rm {home / 'profiles/default.toml'}" in said
    assert config_of("default", capsys)["model"]["name"] == "a/b"  # type: ignore[index]
    assert cli.run(["profiles", "new", "mine", "--no-input"]) == Exit.DONE
    assert "built-in" not in capsys.readouterr().err


def test_a_value_replaces_a_table_and_vice_versa() -> None:
    assert merged({("a", "b"): 1, ("c",): 2}, {("a",): 3}) == {("a",): 3, ("c",): 2}
    assert merged({("a",): 3}, {("a", "b"): 1}) == {("a", "b"): 1}


def terminal(*arguments: str) -> pexpect.spawn[str]:
    return spawn([*SWARMCTL, "profiles", "new", *arguments], columns=120)


@pytest.mark.slow
def test_questions_on_a_terminal(home: Path) -> None:
    asked = terminal("mine", "--from", "gpu")
    for question, now, answer in (
        ("Model", "Qwen/Qwen2.5-0.5B-Instruct", ""),
        ("Tasks", "sapo", "gsm8k, bf"),
        ("Device", "auto", ""),
        ("Total rounds (0: until you stop it)", "0", "12"),
    ):
        asked.expect_exact(question)
        asked.expect_exact(f"[{now}]: ")
        asked.sendline(answer)
    asked.expect(r"To run it:\s+\S+ run --profile mine")
    rest_of(asked)
    assert asked.exitstatus == Exit.DONE
    values = tomllib.loads((home / "profiles/mine.toml").read_text(encoding="utf-8"))
    assert values["tasks"] == ["gsm8k", "bf"]
    assert values["game"] == {"groups": 16, "rounds": 12}
    assert "name" not in values["model"], "an unanswered question leaves the extended value"


@pytest.mark.slow
def test_a_question_is_repeated_after_a_wrong_answer(home: Path) -> None:
    asked = terminal("mine")
    for question, answer, said in (
        ("Model", "sk-proj-Abcdefghijklmnop0123456789", "This looks like an API key"),
        ("Model", "", ""),
        ("Tasks", "gsm8kk", "Unknown task 'gsm8kk'; did you mean gsm8k?\r\n"),
        ("Tasks", "gsm8k", ""),
        ("Device", "gpu", "Invalid model.device: 'gpu'. Use auto, cpu, mps, xpu, cuda or cuda:N."),
        ("Device", "cpu", ""),
        ("Total rounds", "-3", "Invalid game.rounds: -3. Use a whole number of at least 0."),
        ("Total rounds", "3", "To run it"),
    ):
        asked.expect_exact(question)
        asked.expect_exact("]: ")
        asked.sendline(answer)
        asked.expect_exact(said)
    rest_of(asked)
    values = tomllib.loads((home / "profiles/mine.toml").read_text(encoding="utf-8"))
    assert (values["tasks"], values["model"]["device"], values["game"]["rounds"]) == (["gsm8k"], "cpu", 3)


@pytest.mark.slow
def test_name_and_builtin_profile_are_prompted_for(home: Path) -> None:
    write_profile(home, "taken", "")
    suitable = suitable_builtin()
    asked = terminal()
    for question, answer, said in (
        ("Name of the new profile: ", "taken", "already exists."),
        ("Name of the new profile: ", "../x", "Invalid profile name: '../x'."),
        ("Name of the new profile: ", "mine", "Built-in profile"),
        (f"(cpu, default, demo, gpu, mac, smol) [{suitable}]: ", "gpus", "did you mean gpu?"),
        (f"[{suitable}]: ", "", "Model"),
        ("]: ", "", "Tasks"),
        ("]: ", "", "Device"),
        ("]: ", "", "Total rounds"),
        ("]: ", "12", "To run it:"),
    ):
        asked.expect_exact(question)
        asked.sendline(answer)
        asked.expect_exact(said)
    rest_of(asked)
    assert asked.exitstatus == Exit.DONE
    text = (home / "profiles/mine.toml").read_text(encoding="utf-8")
    assert f"# From the built-in profile {suitable}:" in text
    assert tomllib.loads(text)["game"]["rounds"] == 12


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        (Hardware(), "cpu"),
        (Hardware(driverless=True), "cpu"),
        (Hardware(apple=True), "mac"),
        (Hardware(nvidia="H100"), "default"),
        (Hardware(amd=True), "default"),
    ],
)
def test_the_suitable_builtin_profile(hardware: Hardware, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("swarmctl.profiles.suitable.detect_hardware", lambda: hardware)
    assert suitable_builtin() == name


def test_a_missing_name_is_an_error_without_a_terminal(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ([], ["--no-input"], ["--rounds", "3"]):
        assert cli.run(["profiles", "new", *more]) == Exit.USAGE
        cause, following = capsys.readouterr().err.splitlines()
        assert cause == "error: missing argument 'NAME'"
        assert following.endswith("profiles new --help")
    assert not list(home.rglob("*.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("leave", [interrupt, end_input])
def test_an_interrupt_during_a_question_writes_nothing(leave: Callable[[pexpect.spawn[str]], None], home: Path) -> None:
    asked = terminal("mine")
    asked.expect_exact("Model")
    leave(asked)
    asked.expect_exact("\r\nInterrupted.")
    rest_of(asked)
    assert asked.exitstatus == Exit.INTERRUPTED
    assert not list(home.rglob("*.toml"))


@pytest.mark.slow
def test_tab_completes_a_task_and_the_default_typed_out_keeps_its_parameters(home: Path) -> None:
    asked = terminal("mine", "--from", "smol")
    asked.expect_exact("Model")
    asked.expect_exact("]: ")
    asked.sendline("")
    asked.expect_exact("[basic_arithmetic]: ")
    asked.send("basic_ar\t")
    asked.expect_exact("basic_arithmetic")
    asked.sendline("")
    for _ in ("Device", "Total rounds"):
        asked.expect_exact("]: ")
        asked.sendline("")
    rest_of(asked)
    assert asked.exitstatus == Exit.DONE
    (task,) = tomllib.loads((home / "profiles/mine.toml").read_text(encoding="utf-8"))["tasks"]
    assert task["params"]["max_digits"] == 2


@pytest.mark.slow
def test_no_questions_without_a_terminal_or_with_flags(home: Path) -> None:
    for arguments in (["one", "--no-input"], ["two", "--rounds", "3"], ["three", "--json"]):
        asked = terminal(*arguments)
        rest_of(asked)
        asked.close()
        assert asked.exitstatus == Exit.DONE


def test_a_profile_that_run_would_refuse_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["profiles", "new", "maths", "--from", "demo", "--task", "gsm8k"]) == Exit.CONFIGURATION
    assert "the tiny model supports only the task spell_backward, not gsm8k" in capsys.readouterr().err
    assert not (home / "profiles/maths.toml").exists()
    write_profile(home, "maths", 'extends = "demo"\n[[tasks]]\nname = "gsm8k"\n')
    for command in (["profiles", "validate", "maths"], ["doctor", "fit.profile", "-p", "maths"]):
        assert cli.run(command) != Exit.DONE
        assert "the tiny model supports only the task spell_backward" in capsys.readouterr().out


def test_a_profile_can_offload_to_a_provider_or_a_servers_address(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["profiles", "new", "paid", "--offload", "openai:gpt-6-luna", "--max-usd", "2"]) == Exit.DONE
    paid = resolve(profiles.read(profiles.find("paid")), [], {}).config
    assert (paid.offload.provider, paid.offload.model, paid.offload.limits.usd) == ("openai", "gpt-6-luna", 2)
    with api_server() as server:
        url = server.base_url.replace("127.0.0.1", "localhost")
        name = f"localhost-{server.url.rpartition(':')[2]}"
        assert cli.run(["profiles", "new", "own", "--offload", url]) == Exit.DONE
        assert f"Provider {name} is the server at {url}. It counts as free" in capsys.readouterr().err
    own = resolve(profiles.read(profiles.find("own")), [], {}).config
    assert (own.offload.provider, own.offload.model) == (name, "test-model")
    assert (own.providers[name].base_url, own.providers[name].free) == (url, True)
    assert cli.run(["profiles", "new", "down", "--from", "demo", "--offload", url]) == Exit.CONFIGURATION
    said = capsys.readouterr().err
    assert f"profiles new down --from demo --offload {url}\n" in said
    assert cli.run(["profiles", "new", "down", "--from", "demo", "--offload", f"{url}:later"]) == Exit.DONE
    said = capsys.readouterr().err
    assert f"the server at {url} did not list its models (connection refused), so it is unknown" in said
    assert "doctor api --profile down\n" in said
