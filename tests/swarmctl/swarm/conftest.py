"""Run commands in this process, with the stand-in as the trainer, and found a swarm."""

from __future__ import annotations

import subprocess
from functools import partial
from pathlib import Path

import pytest

from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.run import command as running
from swarmctl.run import trainer_process
from tests.support.command_line import Cli, write_profile
from tests.support.forked_swarmctl import spawn_stand_in
from tests.support.invitations import SMALL, invitation


@pytest.fixture
def here(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command in this process, with the trainer's stand-in as a fork of it, and a short default profile."""
    write_profile(home, "default", SMALL)
    monkeypatch.setattr(trainer_process, "spawn", spawn_stand_in)
    monkeypatch.setattr(running, "run_command", partial(running.run_command, module="tests.support.fake_trainer"))

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = cli.run(arguments)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    return run


@pytest.fixture
def tea(here: Cli) -> str:
    """Create the swarm "tea"; return its invitation."""
    done = here("swarm", "new", "tea")
    assert done.returncode == Exit.DONE, done.stderr
    return invitation(done.stdout)
