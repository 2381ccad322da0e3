"""The ``doctor`` command: its output, its exit codes, and how it handles broken checks."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command

from hivemind_exp.run_record import RunRecord, write_record
from swarmctl import cli
from swarmctl.doctor import command, registry
from swarmctl.doctor.check import Check, Context, Finding, Outcome, Status, ok, warning
from swarmctl.doctor.report import conclusion, print_findings, redacted
from swarmctl.errors import Exit
from swarmctl.nodes import lookup
from swarmctl.nodes.directory import opened
from swarmctl.settings.command_line import resolved_options, write_last
from swarmctl.settings.options import DoctorOptions, RunOptions
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.safe_text import masked
from tests.support.command_line import ROOT, SWARMCTL, write_profile
from tests.support.doctor import DEAD, age, make
from tests.support.terminals import printed
from tests.support.waiting import until

PROGRAM = [*SWARMCTL, "doctor"]
ALWAYS = [check.key for check in registry.CHECKS if check.key != "fit.server"]
"""The checks of a profile that starts no server."""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", DEAD)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "DBUS_SESSION_BUS_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.slow
def test_without_a_node_or_a_profile_only_the_machine_is_checked(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.run(["doctor", "--offline"]) == Exit.DONE
    shown = capsys.readouterr()
    assert shown.err.startswith("Checking this machine. No node has run yet; to check a profile, too, add --profile")
    assert "  ok       disk: " in shown.out
    assert "profile" not in "".join(shown.out.splitlines()[:-3])
    first, second = (shlex.split(line) for line in shown.out.splitlines()[-2:])
    assert first[1:3] == ["doctor", "--profile"]
    assert first[3] in ("cpu", "default", "mac")
    assert second[1:] == ["init"]
    assert cli.run(["doctor", "--offline", "--report"]) == Exit.DONE
    assert "profile: none" in capsys.readouterr().out
    # What names a profile, or asks about one, is checked for the profile that run would use.
    for arguments in (["fit.profile"], ["fit.profile", "--set", "game.rounds=3"]):
        assert cli.run(["doctor", *arguments]) == Exit.DONE
        assert "built-in default: node default" in capsys.readouterr().out
    write_profile(home, "default", 'extends = "demo"\n[node]\nname = "mine"\n')
    assert cli.run(["doctor", "fit", "hub.model", "--offline"]) == Exit.DONE
    assert "node mine" in capsys.readouterr().out
    monkeypatch.setenv("SWARMCTL_PROFILE", "demo")
    assert cli.run(["doctor", "--offline"]) == Exit.DONE
    assert "built-in demo: node demo" in capsys.readouterr().out


@pytest.mark.slow
def test_without_a_profile_the_node_that_ran_last_is_checked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rounds in (("older", 3), ("newer", 4)):
        files = lookup.files_of(name)
        resolved = resolved_options(RunOptions(profile="demo", node=name, assignments=(f"game.rounds={rounds}",)))
        with opened(resolved.config, str):
            write_last(files, resolved)
            files.events.write_text("{}\n")
        if name == "older":
            age(files.events)
    never = resolved_options(RunOptions(profile="demo", node="never-ran"))
    with opened(never.config, str):
        pass
    assert cli.run(["doctor", "--offline"]) == Exit.DONE
    shown = capsys.readouterr()
    assert shown.err == "Checking for node newer, the latest. To choose: --node NAME or --profile NAME.\n"
    assert "built-in demo: node newer, tiny on spell_backward" in shown.out
    assert shown.out.splitlines()[-1].endswith("run --node newer")
    for chosen in (["--node", "older"], ["--profile", "demo"], ["--set", "model.name=tiny"]):
        cli.run(["doctor", "fit.profile", *chosen])
        shown = capsys.readouterr()
        assert "newer" not in shown.out + shown.err


@pytest.mark.slow
def test_doctor_reports_ready_on_a_working_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "-p", "demo", "--offline"]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in registry.groups()] == registry.groups()
    assert lines[-2].startswith("Ready to run")
    assert lines[-1].startswith("  try: ")
    assert lines[-1].endswith("run --profile demo")


def test_the_help_and_the_page_name_every_group() -> None:
    page = (ROOT / "docs/doctor.md").read_text(encoding="utf-8").partition("## What it checks")[2]
    listed = re.findall(r"^\| (\w+) \|", page.partition("\n## ")[0], re.MULTILINE)
    assert listed == ["group", *registry.groups()]
    told = " ".join(get_command(cli.app).commands["doctor"].help.split())
    assert f"Groups: {', '.join(registry.groups())}." in told


def test_the_last_line_is_the_run_that_a_warning_suggests() -> None:
    context = command.make_context(DoctorOptions(profile="demo"))
    found = [ok("fine"), warning("slow here", "swarmctl run --profile cpu"), warning("old", "swarmctl run --profile x")]
    outcomes = [Outcome(Check("fit", str(place), lambda _: ok("")), each, 0.0) for place, each in enumerate(found)]
    *_, last = conclusion(outcomes, None, context, whole=True)
    assert last.endswith("run --profile cpu")
    *_, last = conclusion(outcomes[:1], None, context, whole=True)
    assert last.endswith("run --profile demo")


@pytest.mark.usefixtures("home")
def test_a_finished_node_is_not_told_to_run_as_before() -> None:
    context = command.make_context(DoctorOptions(profile="demo"))
    context.files.root.mkdir(parents=True)
    stop = {"event": "stop", "reason": "done", "round": context.config.game.rounds}
    write_record(context.files.run, RunRecord(begun=True, start={}, stop=stop))
    outcomes = [Outcome(Check("fit", "x", lambda _: ok("")), ok("fine"), 0.0)]
    *_, told, last = conclusion(outcomes, None, context, whole=True)
    assert told.endswith("Node demo has finished all its rounds. To continue it:")
    assert last.endswith(f"run --node demo --rounds {2 * context.config.game.rounds}")


@pytest.mark.slow
def test_json_has_every_check_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "-p", "demo", "--json"]) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert report.keys() == {"schema", "ok", "checks"}
    assert (report["schema"], report["ok"]) == (1, True)
    rows = report["checks"]
    assert [f"{row['group']}.{row['name']}" for row in rows] == ALWAYS
    assert all(row.keys() == {"group", "name", "status", "finding", "remedy", "seconds"} for row in rows)
    assert {row["status"] for row in rows} <= {"ok", "warning", "failed", "skipped"}
    assert all(row["finding"] and "\n" not in row["finding"] for row in rows)
    assert sum(row["seconds"] for row in rows) > 0


def test_failed_check_exits_4_and_names_the_first_thing_to_fix(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "hub", "fit", "--set", "tasks=nonsense"]) == Exit.CHECK_FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "2 checks failed. Start with fit.profile:"
    assert lines[-1].startswith("  ")
    assert cli.run(["doctor", "hub.model", "--json"]) == Exit.CHECK_FAILED
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert [row["name"] for row in report["checks"]] == ["model"]


def test_remedy_works_when_pasted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "hub.model", "--json", "--node", "x"]) == Exit.CHECK_FAILED
    remedy = json.loads(capsys.readouterr().out)["checks"][0]["remedy"]
    done = subprocess.run(f"{remedy} --help", shell=True, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0


def test_unknown_check_is_a_usage_error_that_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "machin"]) == Exit.USAGE
    assert "did you mean machine?" in capsys.readouterr().err
    assert cli.run(["doctor", "hub.modle", "--json"]) == Exit.USAGE
    assert "hub.model" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_provider_or_a_node_that_is_no_check_leads_to_the_right_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "api.openai", "-p", "demo", "--json"]) == Exit.USAGE
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["message"] == "this profile does not use openai, so it has no check api.openai"
    words = shlex.split(error["next"])
    assert words[-6:] == ["doctor", "api.openai", "--set", "offload.provider=openai", "--profile", "demo"]
    cli.run([*words[-6:], "--offline", "--json"])
    assert "openai.key" in [row["name"] for row in json.loads(capsys.readouterr().out)["checks"]]
    assert cli.run(["doctor", "demo"]) == Exit.USAGE
    assert "unknown check 'demo'; did you mean --profile demo?" in capsys.readouterr().err


@pytest.mark.slow
def test_the_last_lines_fit_what_was_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "hub.model", "-p", "demo"]) == Exit.DONE
    *_, why, following = capsys.readouterr().out.splitlines()
    assert why == "No problems found. To check everything else, too:"
    assert following == f"  {typed('swarmctl doctor --profile demo')}"
    config = make().config
    with opened(config, lambda name: name):
        assert cli.run(["doctor", "-p", "demo", "--offline"]) == Exit.DONE
    *_, why, following = capsys.readouterr().out.splitlines()
    assert why.startswith("No failures")
    assert why.endswith("Node demo is running.")
    assert following.endswith("swarmctl status demo")


def test_what_cannot_be_computed_is_skipped(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["doctor", "machine", "--offline", "--json"])
    rows = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)["checks"]}
    assert (rows["memory"], rows["disk"]) == ("skipped", "skipped")


def test_invalid_profile_is_a_finding(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_profile(home, "bad", "[train]\nmicro_bach = 3\n")
    assert cli.run(["doctor", "machine", "-p", "bad"]) == Exit.CHECK_FAILED
    out = capsys.readouterr().out
    assert "did you mean train.micro_batch?" in out
    assert "memory: " in out
    assert cli.run(["doctor", "fit", "-p", "dmo"]) == Exit.CHECK_FAILED
    assert "did you mean demo?" in capsys.readouterr().out


@pytest.mark.slow
def test_suggested_commands_refer_to_the_same_node(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["doctor", "-p", "demo", "--node", "n", "--set", "game.rounds=3", "--offline"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith("swarmctl run --profile demo --node n --set game.rounds=3")


def test_hanging_check_times_out_and_broken_check_is_reported() -> None:
    def hang(_: Context) -> Finding:
        time.sleep(60)
        return ok("never")

    def broken(_: Context) -> Finding:
        raise ZeroDivisionError("by zero")

    checks = [
        Check("x", "hangs", hang, limit=0.3),
        Check("x", "broken", broken),
        Check("x", "fine", lambda _: ok("yes")),
    ]
    outcomes = list(command.make(checks, make()))
    assert [outcome.check.name for outcome in outcomes] == ["hangs", "broken", "fine"]
    assert [outcome.finding.status for outcome in outcomes] == [Status.UNKNOWN, Status.FAILED, Status.OK]
    assert outcomes[0].finding.text == "no result after 0.3 s"
    assert 'ZeroDivisionError: "by zero"' in outcomes[1].finding.text


def test_results_are_printed_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    printed_before: list[str] = []

    def last(_: Context) -> Finding:
        # Waits until the earlier result is on the screen: this fails if all results are printed at the end.
        until(
            lambda: printed_before.append(capsys.readouterr().out) is None and "early: yes" in "".join(printed_before)
        )
        return ok("done")

    checks = [Check("x", "early", lambda _: ok("yes")), Check("x", "late", last)]
    outcomes = print_findings(command.run_checks(checks, make()))
    assert [outcome.finding.text for outcome in outcomes] == ["yes", "done"]
    assert "".join(printed_before).splitlines() == ["x", "  ok       early: yes"]
    assert capsys.readouterr().out.splitlines() == ["  ok       late: done"]


@pytest.mark.slow
def test_hanging_check_does_not_keep_the_program_running() -> None:
    code = (
        "import sys, time, swarmctl.cli; from swarmctl.doctor import registry\n"
        "from swarmctl.doctor.check import Check\n"
        "registry.CHECKS += (Check('x', 'hangs', lambda _: time.sleep(60), limit=0.2),)\n"
        "sys.exit(swarmctl.cli.run(['doctor', 'x', '-p', 'demo']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.DONE
    assert "If this machine is busy, try again later." in done.stdout
    assert "no result after 0.2 s" in done.stdout


@pytest.mark.slow
def test_doctor_prints_ascii_on_an_ascii_stream(home: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "HF_TOKEN": "hf_" + "a" * 30 + "WXYZ"}
    done = subprocess.run(
        [*PROGRAM, "-p", "demo", "--offline"], cwd=ROOT, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("ascii").splitlines()[-2].startswith("Ready to run")


@pytest.mark.slow
def test_a_terminal_of_40_columns_is_enough(home: Path) -> None:
    code, text = printed([*PROGRAM, "fit", "hub", "-p", "demo", "--set", "tasks=nonsense"], columns=40)
    assert code == Exit.CHECK_FAILED
    lines = text.splitlines()
    commands = [line for line in lines if "swarmctl" in line]
    assert commands
    assert all(len(line) <= 40 for line in lines if line not in commands)


@pytest.mark.slow
def test_keys_are_never_printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    key = "hf_PLANTEDplantedPLANTEDplanted1234"
    monkeypatch.setenv("HF_TOKEN", key)
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2)
    for extra in ([], ["--json"], ["--report"]):
        cli.run(["doctor", "keys", "hub", "--set", 'report.to=["wandb"]', *extra])
        out, err = capfd.readouterr()
        assert "1234 from $HF_TOKEN" in out or extra == ["--report"]
        assert "PLANTED" not in out + err
        assert "0123456789abcdef" not in out + err
        assert extra != ["--report"] or "1234" not in out


def test_key_passed_as_a_setting_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for extra in ([], ["--json"], ["--report"]):
        cli.run(["doctor", "hub", "fit", "--set", "model.name=hf_PLANTEDplantedPLANTED", *extra])
        out = capsys.readouterr().out
        assert "PLANTED" not in out
        assert "looks like a key" in out
    commit = "0123456789abcdef0123456789abcdef01234567"
    assert masked(f"run --set model.revision={commit}") == f"run --set model.revision={commit}"


def test_report_hides_invitations() -> None:
    peer = "12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm"
    line = f"run --set 'swarm.join=swarm1:{'0f' * 32}@/ip4/203.0.113.7/tcp/4001/p2p/{peer}' -d"
    assert masked(line) == "run --set 'swarm.join=(hidden: an invitation)' -d"
    assert masked(f"peer {peer} is alive") == f"peer {peer} is alive"


@pytest.mark.slow
def test_report_reveals_nothing_about_its_author(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOGNAME", "jdoe")
    monkeypatch.setenv("HOME", "/home/jdoe")
    monkeypatch.setattr("platform.node", lambda: "jdoe-laptop.lan")
    assert redacted("/home/jdoe/x of jdoe on jdoe-laptop.lan: ····wxyz, /home/jdoes") == (
        "~/x of USER on HOST: ····, /home/jdoes"
    )
    model = "/home/jdoe/models/mine"
    assert cli.run(["doctor", "--report", "--offline", "--set", f"model.name={model}"]) == Exit.CHECK_FAILED
    out = capsys.readouterr().out
    assert out.startswith("### swarmctl doctor\n")
    assert "| hub.model | failed | ~/models/mine is not a model directory" in out
    assert "jdoe" not in out
    rows = [line for line in out.splitlines() if line.startswith("| ")]
    assert len(rows) == len(ALWAYS) + 1
    assert all(line.replace("\\|", "").count("|") == 6 for line in rows)


@pytest.mark.slow
def test_fix_reports_what_it_did(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "swarm", "-p", "demo", "--fix"]) == Exit.DONE
    assert f"Fix: created {home / 'nodes'}" in capsys.readouterr().out
    assert (home / "nodes").stat().st_mode & 0o777 == 0o700
    assert cli.run(["doctor", "swarm", "-p", "demo", "--fix", "--json"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["fixed"] == []


@pytest.mark.slow
def test_the_list_of_models_is_of_the_same_provider() -> None:
    box = "providers.box.base_url=http://127.0.0.1:9/v1"
    options = DoctorOptions(profile="demo", node="maths", assignments=(box,))
    assert command.make_context(options).models("box") == f"swarmctl models box --profile demo --set {box}"


def test_without_fix_nothing_is_changed(home: Path) -> None:
    cli.run(["doctor", "-p", "demo"])
    assert not home.exists()


@pytest.mark.slow
def test_loading_the_checks_imports_nothing_heavy() -> None:
    code = (
        "import sys, swarmctl.doctor.registry; heavy = {'torch', 'transformers', 'hivemind', 'pydantic', 'psutil', "
        "'keyring', 'pynvml', 'httpx2'}; print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_commands_are_quoted() -> None:
    context = make("default", "model.name=./a b")
    assert context.resolved is not None
    assert shlex.split(context.changed(train__micro_batch=3))[-1] == "train.micro_batch=3"
    assert any(word.endswith("/a b") for word in shlex.split(context.changed(train__micro_batch=3)))
