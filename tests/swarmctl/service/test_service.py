"""``swarmctl service``: the files, checked with each system's own rules, and what the commands do."""

from __future__ import annotations

import json
import os
import plistlib
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from hivemind_exp.config import Config
from swarmctl import cli
from swarmctl.errors import Exit, exit_code
from swarmctl.nodes.lookup import files_of
from swarmctl.service import command, systemd
from swarmctl.service.definition import FINAL, Service
from swarmctl.settings.command_line import write_last
from swarmctl.settings.profile_files import find, read
from swarmctl.settings.resolve import resolve
from tests.support.command_line import STAND_IN, Cli
from tests.support.journals import bare_node
from tests.support.schemas import compose_schema, errors
from tests.support.terminals import rest_of, spawn

KEYS: dict[str, type] = {
    "Label": str,
    "ProgramArguments": list,
    "KeepAlive": dict,
    "RunAtLoad": bool,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "ProcessType": str,
    "WorkingDirectory": str,
    "StandardOutPath": str,
    "StandardErrorPath": str,
    "EnvironmentVariables": dict,
}
"""Keys of launchd.plist(5), with the types that it requires."""


@pytest.fixture
def node() -> str:
    """The name of a node that has run once, with a name that each format must quote."""
    name = "maths.v2"
    bare_node(name)
    write_last(files_of(name), resolve(read(find("demo")), [], {}))
    return name


def printed_as(kind: str, node: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert cli.run(["service", "install", node, "--print", kind, *more]) == Exit.DONE
    return capsys.readouterr().out


def values(unit: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in unit.splitlines() if line.startswith(f"{key}=")]


def test_the_unit_is_accepted_by_systemd(
    node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "a key"
    key.write_text("k")
    monkeypatch.setenv("HF_HOME", '/models/50% "off" $HOME')
    unit = printed_as("systemd", node, capsys, "--key", f"openai={key}")
    assert values(unit, "LoadCredential") == [f"openai:{key}"]
    (program,) = values(unit, "ExecStart")
    assert program.startswith('"/')
    assert program.endswith(f'"service" "run" "{node}"')
    assert '"HF_HOME=/models/50%% \\"off\\" $HOME"' in values(unit, "Environment")
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / f"swarmctl-{node}.service"
    path.write_text(unit)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
    verify = ["systemd-analyze", "verify", "--user", "--man=no", str(path)]
    checked = subprocess.run(verify, capture_output=True, text=True, env=environment, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    path.write_text(unit.replace("Restart=on-failure", "Restart=sometimes"))
    checked = subprocess.run(verify, capture_output=True, text=True, env=environment, check=False)
    assert "Failed to parse service restart specifier" in checked.stderr  # it does check


def test_the_unit_restarts_what_a_restart_may_help(node: str, capsys: pytest.CaptureFixture[str]) -> None:
    unit = printed_as("systemd", node, capsys)
    assert values(unit, "Restart") == ["on-failure"]  # so not after 0
    (prevented,) = values(unit, "RestartPreventExitStatus")
    assert {Exit(int(code)) for code in prevented.split()} == {*Exit} - {Exit.DONE, Exit.FAILED}
    assert {*FINAL} == {*Exit} - {Exit.DONE, Exit.FAILED}
    assert values(unit, "OOMPolicy") == ["continue"]  # swarmctl handles it
    assert int(values(unit, "TimeoutStopSec")[0]) > 10  # longer than swarmctl needs to stop


def test_the_property_list_has_launchds_keys_and_types(
    node: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    agent = plistlib.loads(printed_as("launchd", node, capsys, "--key", f"openai={key}").encode())
    assert {name: type(value) for name, value in agent.items()} == KEYS
    assert all(isinstance(word, str) for word in agent["ProgramArguments"])
    assert all(isinstance(value, str) for value in agent["EnvironmentVariables"].values())
    assert os.path.isabs(agent["ProgramArguments"][0])
    assert agent["ProgramArguments"][-1] == "--zero-if-final"
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["EnvironmentVariables"]["SWARMCTL_OPENAI_API_KEY_FILE"] == str(key)


def composed(node: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(printed_as("compose", node, capsys, *more))
    return found


def test_the_compose_file_follows_its_schema(
    node: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    key.write_text("k")
    gpu = resolve(read(find("demo")), [], {})
    config = gpu.config.model_copy(update={"model": gpu.config.model.model_copy(update={"device": "cuda:1"})})
    found = composed(node, capsys)
    write_last(files_of(node), type(gpu)(**{**_fields(gpu), "config": config}))
    with_gpu = composed(node, capsys, "--key", f"openai={key}")
    schema = compose_schema()
    for file in (found, with_gpu):
        assert errors(schema, file) == []
    assert errors(schema, {"services": {"x": {"image": 7, "restrat": "no"}}}) != []  # it does check
    (service,) = with_gpu["services"].values()
    assert service["command"] == ["service", "run", node, "--zero-if-final"]
    assert service["restart"] == "on-failure"
    assert service["environment"]["SWARMCTL_OPENAI_API_KEY_FILE"] == "/run/secrets/openai"
    assert with_gpu["secrets"] == {"openai": {"file": str(key)}}
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["count"] == "all"
    mounted = {each["target"]: each["source"] for each in service["volumes"]}
    assert mounted["/data/nodes"] == str(home / "nodes")
    assert "deploy" not in next(iter(found["services"].values()))


def _fields(resolved: Any) -> dict[str, Any]:
    return {name: getattr(resolved, name) for name in resolved.__dataclass_fields__}


def test_a_node_that_never_ran_has_no_settings_for_a_service(capsys: pytest.CaptureFixture[str]) -> None:
    bare_node("fresh")
    assert cli.run(["service", "install", "fresh", "--print", "systemd"]) == Exit.CONFIGURATION
    assert "node fresh has not run yet" in capsys.readouterr().err


def test_a_key_that_a_service_would_lack_is_said(
    node: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    offloaded = Config.model_validate({"node": {"name": node}, "offload": {"provider": "openai"}})
    made = resolve(read(find("demo")), [], {})
    write_last(files_of(node), type(made)(**{**_fields(made), "config": offloaded}))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-proj-" + "a1B2" * 10)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy:3128")
    assert cli.run(["service", "install", node, "--print", "systemd"]) == Exit.DONE
    out, err = capsys.readouterr()
    assert "a service does not have $OPENAI_API_KEY, so it has no key for openai" in err
    assert "$HTTPS_PROXY may contain a password" in err
    assert "secret" not in out
    assert "a1B2" not in out + err


@pytest.mark.parametrize("more", [["--key", "openai"], ["--print", "upstart"], ["--key", "openai=/no/such/file"]])
def test_wrong_options(node: str, more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["service", "install", node, *more]) in (Exit.USAGE, Exit.CONFIGURATION)
    assert "  try: " in capsys.readouterr().err


class FakeSystemctl:
    """A ``systemctl`` on PATH that records how it is called and knows whether a unit is enabled."""

    def __init__(self, directory: Path) -> None:
        self.calls = directory / "calls"
        self.program = directory / "systemctl"
        self.program.write_text(
            f"""#!/bin/sh
echo "$@" >> {self.calls}
case "$*" in
*refused*) echo "Failed to connect to bus: No medium found" >&2; exit 1;;
*enable*--now*) touch {directory}/on;;
*disable*) rm -f {directory}/on;;
*show*) [ -e {directory}/on ] && echo LoadState=loaded || echo LoadState=not-found
        echo ActiveState=active; echo SubState=running;;
esac
"""
        )
        self.program.chmod(0o755)


@pytest.fixture
def systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSystemctl:
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(command.sys, "platform", "linux")
    return FakeSystemctl(directory)


def test_install_status_and_uninstall(
    node: str, systemctl: FakeSystemctl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*arguments: str) -> Any:
        assert cli.run(["service", *arguments, "--json"]) == Exit.DONE
        return json.loads(capsys.readouterr().out)

    unit = tmp_path / f"config/systemd/user/swarmctl-{node}.service"
    assert asked("status")["services"] == [{"node": node, "installed": False, "state": None, "file": None}]
    assert cli.run(["service", "status"]) == Exit.DONE
    assert "No node runs as a service." in capsys.readouterr().out
    made = asked("install", node)
    assert (made["node"], made["manager"], made["file"]) == (node, "systemd", str(unit))
    assert stat.S_IMODE(unit.stat().st_mode) == 0o600
    assert "--user daemon-reload\n" in systemctl.calls.read_text()
    assert f"--user enable --now swarmctl-{node}.service\n" in systemctl.calls.read_text()
    (row,) = asked("status", node)["services"]
    assert (row["installed"], row["state"]) == (True, "active (running)")
    assert cli.run(["service", "install", node]) == Exit.DONE  # again: it is replaced
    told = capsys.readouterr().out
    assert "now runs as a service of systemd, also after a reboot" in told
    assert "sudo loginctl enable-linger" in told
    assert asked("uninstall", node)["file"] == str(unit)
    assert not unit.exists()
    assert f"--user disable --now swarmctl-{node}.service\n" in systemctl.calls.read_text()
    assert cli.run(["service", "uninstall", node]) == Exit.CONFIGURATION
    assert f"node {node} has no service" in capsys.readouterr().err
    asked("install", node)
    shutil.rmtree(files_of(node).root)
    assert asked("uninstall", node)["file"] == str(unit)  # of a node that was deleted
    assert cli.run(["service", "uninstall", node]) == Exit.CONFIGURATION
    assert "unknown node" in capsys.readouterr().err


def test_a_system_that_refuses_leaves_no_file(
    systemctl: FakeSystemctl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare_node("refused")
    write_last(files_of("refused"), resolve(read(find("demo")), [], {}))
    assert cli.run(["service", "install", "refused"]) == Exit.FAILED
    told = capsys.readouterr().err
    assert "Failed to connect to bus" in told
    assert "service install refused --print systemd" in told
    assert list((tmp_path / "config/systemd/user").iterdir()) == []


def test_lingering_is_read_from_the_system(tmp_path: Path) -> None:
    assert not systemd.lingers("me", tmp_path)
    (tmp_path / "me").touch()
    assert systemd.lingers("me", tmp_path)


def test_words_are_quoted_for_systemd() -> None:
    service = Service("a", Path("/n"), ("/opt/50% $x/swarmctl",), {}, {}, "auto")
    assert values(systemd.text(service), "ExecStart") == ['"/opt/50%% $$x/swarmctl" "service" "run" "a"']


@pytest.mark.slow
def test_a_service_ends_with_0_where_a_restart_would_not_help(stand_in: Cli, home: Path) -> None:
    assert stand_in("service", "run", "nobody").returncode == Exit.CONFIGURATION  # and creates nothing
    assert not (home / "nodes/nobody").exists()
    assert stand_in("run", "-p", "demo", "--rounds", "2", act="limit").returncode == Exit.LIMIT
    for act, code in (("refused", Exit.CONFIGURATION), ("limit", Exit.LIMIT)):
        done = stand_in("service", "run", "demo", act=act)
        assert done.returncode == code, done.stderr
    done = stand_in("service", "run", "demo", "--zero-if-final", act="refused")
    assert done.returncode == Exit.DONE, done.stderr
    assert "error: no such device" in done.stderr
    assert stand_in("service", "run", "demo", "--zero-if-final", act="limit").returncode == Exit.DONE


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in's terminal")
def test_over_ssh_a_run_in_the_foreground_says_how_it_ends(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "203.0.113.7 50000 203.0.113.8 22")
    for name in ("TMUX", "STY"):
        monkeypatch.delenv(name, raising=False)
    run = [*STAND_IN, "run", "-p", "demo", "--rounds", "1", "--plain"]
    told = rest_of(spawn(run))
    assert "This run ends with the SSH session." in told
    assert "run --profile demo --rounds 1 --detach" in told
    monkeypatch.setenv("TMUX", "/tmp/tmux")
    told = rest_of(spawn([*run, "--fresh", "--yes"]))
    assert "SSH session" not in told


def test_a_node_that_gave_up_is_not_started_again() -> None:
    from hivemind_exp.errors import GaveUp

    assert exit_code(GaveUp("it failed again")) in FINAL
