"""Questions about a profile's main settings, and the check of each answer."""

from collections.abc import Sequence

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.tasks.installed import installed_tasks
from hivemind_exp.tasks.registry import names
from swarmctl.profiles.suitable import suitable_builtin
from swarmctl.profiles.validate import profile_problems
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.options import tasks_text
from swarmctl.settings.profile_files import Profile
from swarmctl.settings.resolve import given, resolve
from swarmctl.settings.schema import dotted, flatten
from swarmctl.settings.sources import Override
from swarmctl.terminal.prompter import ON_SCREEN, Prompter
from swarmctl.terminal.safe_text import is_revision, looks_like_key

_QUESTIONS = {
    "model.name": "Model (a Hugging Face id or a directory)",
    "tasks": "Tasks (separated by commas)",
    "model.device": "Device (auto, cpu, cuda, cuda:1, mps, xpu)",
    "game.rounds": "Total rounds (0: until you stop it)",
}


def answers(base: Profile, prompter: Prompter) -> list[str]:
    """Prompt and return ``KEY=VALUE`` for each answer that differs from the base's value."""
    config = resolve(base, (), {}).config
    now = {dotted(path): str(value) for path, value in flatten(config.model_dump())} | {"tasks": task_names(base)}
    told = []
    for key, question in _QUESTIONS.items():

        def check(text: str, key: str = key) -> None:
            check_answer(base, key, text)

        text = prompter.answer(question, check, default=now[key], words=words_of(key))
        if text != now[key]:
            told.append(assignment(key, text))
    return told


def builtin_profile(prompter: Prompter) -> str:
    """Prompt for a built-in profile. The default suits this machine."""
    known = sorted(profiles.builtin_names())
    question = f"Built-in profile to start from ({', '.join(known)})"
    return prompter.answer(question, profiles.find_builtin, default=suitable_builtin(), words=known)


def task_names(base: Profile) -> str:
    """Return the names of a profile's tasks, separated by commas."""
    return ",".join(task.name for task in resolve(base, (), {}).config.tasks)


def words_of(key: str) -> Sequence[str]:
    """Return what Tab completes in an answer."""
    return [*names(), *sorted(installed_tasks())] if key == "tasks" else ()


def assignment(key: str, text: str) -> str:
    """Return an answer as ``KEY=VALUE``. Task names are split as ``--task`` splits them."""
    return f"{key}={tasks_text([text]) if key == 'tasks' else text}"


def check_answer(base: Profile, key: str, text: str, others: Sequence[Override] = ()) -> None:
    """Raise ConfigurationError if the answer is wrong, or wrong together with ``others``, the earlier answers."""
    refuse_key(key, text)
    override = given("--set", key, assignment(key, text).partition("=")[2])
    said = [
        str(problem).removeprefix(f"{key}: ").rstrip(".") for problem in profile_problems(base, [*others, override])
    ]
    if said:
        raise ConfigurationError("; ".join(said))


def refuse_key(key: str, text: str) -> None:
    """Raise ConfigurationError if the answer looks like an API key."""
    if looks_like_key(text) and not is_revision(key, text):
        raise ConfigurationError(f"this looks like an API key, which does not belong in a profile. {ON_SCREEN}")
