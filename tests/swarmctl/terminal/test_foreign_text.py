"""External text is planted wherever swarmctl shows any. No printed line may begin with it."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from hivemind_exp.errors import NodeError, TaskError
from hivemind_exp.events import Event
from hivemind_exp.hub.pusher import HubPusher
from hivemind_exp.offload.answers import BilledClient
from hivemind_exp.offload.api.batch import read_report
from hivemind_exp.offload.api.chat import ChatAnswer
from hivemind_exp.offload.api.faults import refusal
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families import gsm8k, jsonl, reasoning_gym
from swarmctl import cli
from swarmctl.doctor.check import Check, Outcome, failed
from swarmctl.doctor.report import as_text, conclusion
from swarmctl.errors import print_error
from swarmctl.settings.command_line import shown_value
from swarmctl.terminal import live_view, safe_text
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import PlainView, Writer
from tests.support.doctor import make
from tests.support.fake_services import service
from tests.support.journals import RIGHT, bare_node, books, local, prompt, sent

LURE = "try: pip install evil"
EVIL = f"quite\r\n  {LURE}\n{LURE}\x1b[1A\u2028{LURE}\u202e {LURE} {LURE}"


def assert_harmless(output: str) -> None:
    """Assert that the text is shown, but that no line, as a terminal shows it, begins with it."""
    assert "pip install" in output
    for line in output.splitlines():  # at every character that a terminal or an editor may take for a line break
        assert not line.strip().startswith("try: pip"), output
    assert not {"\x1b", "\u202e", "\u2028", "\r"} & set(output), output


def warned(detail: str) -> str:
    """Return what the plain view, and the live view on a narrow terminal, print for a warning."""
    event = {"event": "warning", "code": "x", "message": f"box:model said {detail}"}
    plain, live = io.StringIO(), io.StringIO()
    PlainView(plain).event(event, RunView())
    view = live_view.LiveView(live)
    view._console = Console(file=live, width=24, highlight=False, markup=False)
    view.event(event, RunView())
    return plain.getvalue() + live.getvalue()


@pytest.mark.parametrize("body", [{"error": {"message": EVIL}}, {"error": EVIL}, {"detail": EVIL}, EVIL])
@pytest.mark.parametrize("status", [400, 401, 402, 403, 429, 500])
def test_error_bodies_of_services(status: int, body: Any) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    assert_harmless(warned(refusal(status, content.encode(), {}).detail))


def test_errors_of_batches() -> None:
    table = {"id": "b", "status": "failed", "errors": {"data": [{"code": "x", "message": EVIL}]}}
    failure = read_report(table).failure
    assert failure is not None
    assert_harmless(warned(failure.detail))


def test_the_model_name_in_a_services_answer() -> None:
    said: list[str] = []
    client: Any = SimpleNamespace(alike=0, _warn=lambda _service, _code, text: said.append(text))
    asked: Any = SimpleNamespace(endpoint=SimpleNamespace(model="mine"))
    BilledClient.look(client, asked, ChatAnswer((), None, EVIL, {}), [])
    assert_harmless(warned(said[0]))


def test_model_names_in_a_services_list(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with service() as server:
        server.act = json.dumps({"data": [{"id": EVIL}]})
        monkeypatch.setattr("sys.stdin", io.StringIO("sk-0123456789abcdef\n"))
        assert cli.run(["keys", "set", "mybox", "--host", server.url, "--no-input", "--insecure-storage"]) == 0
        assert cli.run(["keys", "test", "mybox"]) == 0
    assert_harmless(capsys.readouterr().out)


def test_the_hub_s_reasons() -> None:
    events: list[Event] = []
    hub = SimpleNamespace(repo="me/model")
    pusher: Any = SimpleNamespace(_hub=hub, _without_token=str, _emit=events.append)
    HubPusher._warn(pusher, ValueError(EVIL), None)
    assert_harmless(warned(events[0].model_dump()["message"]))


@pytest.mark.parametrize("family", [reasoning_gym, jsonl, gsm8k])
def test_parameters_and_files_of_tasks(family: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "spell_backward" if family is reasoning_gym else family.__name__.rpartition(".")[2]
    place = tmp_path / EVIL
    place.mkdir()
    (place / "train.jsonl").write_text("{}\n")
    params = {EVIL: 1} if family is reasoning_gym else {}
    spec = TaskSpec(name, family.__name__, name, path=None if params else str(place), params=params)
    with pytest.raises(TaskError) as error:
        (family._read if family is gsm8k else family.check)(spec)
    print_error(error.value, as_json=False)
    assert_harmless(capsys.readouterr().err)


def test_the_labels_of_peers_and_of_answers(capsys: pytest.CaptureFixture[str]) -> None:
    asked = prompt("aa11" + "0" * 60)
    with books(bare_node()) as written:
        written.group(0, asked, {0: local("x")}, {0: RIGHT})
        written.api(0, asked, [sent(1, EVIL, provider=EVIL, model=EVIL)], {2: EVIL})
    for command in ("show", "stats --by model", "stats --by provider"):
        assert cli.run(["rollouts", *command.split()]) == 0
        assert_harmless(capsys.readouterr().out)


def test_names_of_directories(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARMCTL_HOME", str(tmp_path / EVIL))
    for arguments in (["status"], ["profiles", "list"], ["logs"]):
        cli.run(arguments)
        read = capsys.readouterr()
        assert_harmless(read.out + read.err)


def test_names_in_a_configuration_to_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "theirs.yaml"
    file.write_text(json.dumps({EVIL: 1, "training": {LURE: EVIL}}))
    cli.run(["profiles", "import", str(file), "--no-input"])
    read = capsys.readouterr()
    assert_harmless(read.out + read.err)


def test_values_of_charters() -> None:
    shown = f"tasks = {shown_value(EVIL)}, {shown_value([EVIL, {'name': EVIL}])}"
    stream = io.StringIO()
    Writer(stream)(shown)
    assert_harmless(stream.getvalue())


def test_findings_of_doctor() -> None:
    outcome = Outcome(Check("api", "box", lambda _: failed(EVIL)), failed(EVIL, "swarmctl doctor"), 0.1)
    assert_harmless("\n".join([*as_text(outcome), *conclusion([outcome], None, make(), whole=False)]))


def test_defects(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(EVIL)

    monkeypatch.setattr(cli, "tree", lambda: fail)
    assert cli.run(["status"]) == 1
    assert_harmless(capsys.readouterr().err)


def test_an_error_with_unquoted_external_text_is_still_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error(NodeError(EVIL, next=f"swarmctl run --model {shlex.quote(EVIL)}"), as_json=False)
    first, second = capsys.readouterr().err.splitlines()
    assert (first.startswith("error: quite"), second.startswith("  try: ")) == (True, True)


@pytest.mark.parametrize("columns", range(20, 60))
def test_no_wrapped_line_looks_like_a_line_from_swarmctl(columns: int) -> None:
    lines = safe_text.folded(f"warning: the service said {EVIL}, error: {EVIL}", columns)
    assert not [line for line in lines[1:] if line.startswith(("try:", "error:", "warning:"))]


def test_a_suggested_command_is_one_line_and_means_the_same() -> None:
    words = ["printf", "%s.", "it's\nfine \\ é", "\x1b[1m\u202e", "plain", ""]
    line = typed(shlex.join(words))
    assert line.isprintable()
    done = subprocess.run(["bash", "-c", line], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"})
    assert done.stdout.decode() == "".join(f"{word}." for word in words[2:])
