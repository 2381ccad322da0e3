"""Every command that ``swarmctl`` suggests leads on: typed in that state, it is accepted, and the error is another."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.run import command as running
from swarmctl.run import trainer_process
from tests.support.advice import UNKNOWN, Site, reached, sites
from tests.support.advice_of_commands import COMMAND_STATES
from tests.support.advice_of_doctor import DOCTOR_STATES
from tests.support.advice_of_machines import MACHINE_STATES
from tests.support.advice_of_models import MODEL_STATES
from tests.support.advice_of_offload import OFFLOAD_STATES
from tests.support.advice_of_questions import QUESTION_STATES
from tests.support.advice_of_services import SERVICE_STATES
from tests.support.advice_of_stand_ins import STAND_IN_STATES
from tests.support.advice_of_trainers import TRAINER_STATES, run_real
from tests.support.advice_states import STATES
from tests.support.advised import State, Told, follow
from tests.support.command_line import ROOT, STAND_IN
from tests.support.forked_swarmctl import spawn_stand_in

ALL = (
    *(*STATES, *COMMAND_STATES, *DOCTOR_STATES, *TRAINER_STATES, *SERVICE_STATES),
    *(*MODEL_STATES, *OFFLOAD_STATES, *QUESTION_STATES, *MACHINE_STATES, *STAND_IN_STATES),
)
ELSEWHERE = ROOT / "tests/data/advice_elsewhere.txt"
"""The advice that no state here reaches, with the reason."""


@pytest.mark.slow
def test_every_suggestion_leads_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(trainer_process, "spawn", spawn_stand_in)
    monkeypatch.setattr(running, "run_command", partial(running.run_command, module="tests.support.fake_trainer"))
    monkeypatch.setattr(running, "plan_of", partial(running.plan_of, module="tests.support.fake_trainer"))

    def run(arguments: list[str], variables: Mapping[str, str], state: State, typed: str) -> Told:
        capsysbinary.readouterr()
        with monkeypatch.context() as patch, reached() as found:
            patch.setattr(sys, "stdin", io.StringIO(f"{typed}\n"))
            patch.setattr(sys, "argv", [sys.argv[0], *arguments])  # ``restart`` starts the same program again
            patch.setattr(sys, "orig_argv", [*STAND_IN, *arguments])
            patch.setenv("PYTHONPATH", str(ROOT))
            for name, value in variables.items():
                if value:
                    patch.setenv(name, value)
                else:
                    patch.delenv(name, raising=False)
            if state.real:
                place = tmp_path / f"real-{len(list(tmp_path.iterdir()))}"
                return run_real(arguments, place, f"{typed}\n", state.machine, stand_in="STAND_IN" in state.variables)
            code = cli.run(arguments)
        out, err = capsysbinary.readouterr()
        return Told(code, out.decode(errors="replace"), err.decode(errors="replace"), found)

    found: set[Site] = set()
    wrong = []
    for number, state in enumerate(ALL):
        home = tmp_path / str(number) / "home"
        home.parent.mkdir()
        with monkeypatch.context() as patch:
            patch.setenv("SWARMCTL_HOME", str(home))
            patch.setenv("EDITOR", "true")
            patch.setenv("HOME", str(home.parent))
            patch.chdir(home.parent)
            here, problem = follow(state, home, run)
        found |= here
        if problem is not None:
            wrong.append(f"{state.command}: {problem}")
    assert wrong == []
    unknown = {str(site) for site in sites() - found if not site.only_shows}
    elsewhere = {line for line in ELSEWHERE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"}
    assert unknown - elsewhere == set(), "add a state to tests/support/advice_states.py that reaches this advice"
    assert elsewhere - unknown == set(), f"remove what a state reaches, and what no longer exists, from {ELSEWHERE}"


def test_commands_that_only_show_something_never_suggest_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {site.command for site in sites() if site.only_shows and UNKNOWN not in site.command}
    commands = sorted(each for each in shown if each.startswith("swarmctl ") and each.split()[1] != "doctor")
    assert len(commands) > 30
    for command in commands:
        code = cli.run(command.split()[1:])
        said = capsys.readouterr().err
        assert code == Exit.DONE or (" try: " in said and not said.endswith(f"{command[8:]}\n")), (command, said)
