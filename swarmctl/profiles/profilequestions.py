"""The few questions of ``profiles new`` on a terminal; a wrong answer is asked for again, with what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path as File

from hivemind_exp.errors import NodeError
from hivemind_exp.tasks.registry import check_tasks
from swarmctl.profiles.profiletext import TASKS
from swarmctl.settings.profile_files import Profile
from swarmctl.settings.resolve import Override, anchored, problems_of, resolve
from swarmctl.settings.schema import Path, dotted, parse
from swarmctl.terminal.safe_text import clean, looks_like_key
from swarmctl.terminal.views import Writer

QUESTIONS: tuple[tuple[Path, str], ...] = (
    (("model", "name"), "Model (an id on the hub, or a directory)"),
    (TASKS, "Tasks (separated by commas)"),
    (("model", "device"), "Device (auto, cpu, cuda, cuda:1, mps, xpu)"),
    (("game", "rounds"), "Rounds (0: until stopped)"),
)


def answers(base: Profile) -> list[tuple[str, str]]:
    """Ask on stderr and return (setting, text); an empty answer keeps what the base says."""
    config = resolve(base, (), {}).config
    now = {
        ("model", "name"): config.model.name,
        TASKS: ",".join(task.name for task in config.tasks),
        ("model", "device"): config.model.device,
        ("game", "rounds"): str(config.game.rounds),
    }
    say = Writer(sys.stderr)
    given: list[tuple[str, str]] = []
    for path, question in QUESTIONS:
        while text := _ask(say.folded(f"{question} [{clean(now[path])}]:")):
            problem = _problem(base, path, text)
            if problem is None:
                given.append((dotted(path), text))
                break
            say(problem)
    return given


def _ask(question: str) -> str:
    sys.stderr.write(f"{question} ")
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise NodeError("the input ended before the last question", next="swarmctl profiles new --help")
    return line.strip()


def _problem(base: Profile, path: Path, text: str) -> str | None:
    """Say what is wrong with an answer; None where nothing is."""
    if looks_like_key(text):
        return "That looks like a key, and a profile is no place for one."
    value = anchored(path, parse(text, path), File.cwd())
    resolved, problems = problems_of(base, [Override(path, value, "--set")])
    if resolved is None:
        return _sentence(problems)
    try:
        check_tasks(resolved.config.tasks)
    except NodeError as error:
        return _sentence([error.message])
    return None


def _sentence(problems: Sequence[object]) -> str:
    return "; ".join(str(problem).rstrip(".") for problem in problems) + "."
