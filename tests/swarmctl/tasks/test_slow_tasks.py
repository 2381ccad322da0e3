"""A task that takes long to load: the commands that load it show that they are still waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarmctl.errors import Exit
from tests.support.command_line import write_profile
from tests.support.forked_swarmctl import swarmctl

SLOW = """
import time

time.sleep(3)


def questions(seed):
    return {"question": f"{seed}?", "answer": seed}


def score(answer, question):
    return answer == str(question["answer"])
"""


def often() -> None:
    """Write a line after every half second of silence."""
    from swarmctl.terminal import waiting

    waiting.interval = lambda _: 0.5  # in the command's own process


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("tasks show TASK -n 1", "Still loading the task, after"),
        ("tasks try TASK --answer 1", "Still loading the task, after"),
        ("run --task TASK --model tiny --dry-run", "Still checking the settings and tasks, after"),
        ("profiles validate PROFILE", "Still checking slow.toml, after"),
    ],
)
def test_loading_a_slow_task_is_not_silent(words: str, line: str, tmp_path: Path) -> None:
    task = tmp_path / "slow.py"
    task.write_text(SLOW)
    profile = write_profile(tmp_path, "slow", f"tasks = ['{task}']\n[model]\nname = 'tiny'")
    done = swarmctl(
        *(word.replace("TASK", str(task)).replace("PROFILE", str(profile)) for word in words.split()), before=often
    )
    assert done.returncode == Exit.DONE, done.stderr
    assert line in done.stderr
