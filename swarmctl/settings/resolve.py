"""Resolve profile, environment and flags to one configuration, and record where each value comes from."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hivemind_exp.config import Config
from swarmctl.errors import UsageError
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.correction import Correction
from swarmctl.settings.options import FLAGS
from swarmctl.settings.problems import Problem, explain, refused
from swarmctl.settings.profile_files import DEFAULT, Profile
from swarmctl.settings.retired import drop_retired
from swarmctl.settings.schema import dotted, parse, settings
from swarmctl.settings.sources import NAME, Override, Settings, anchored, gather, origins_of
from swarmctl.terminal.safe_text import without_keys


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration and the origins of its values."""

    config: Config
    origins: Mapping[str, str]
    """Origin of each setting (dotted) that is not a default."""
    profile: Profile
    overrides: tuple[Override, ...]
    names_profile: bool = True
    """Whether the command line names the profile. Otherwise the same command finds it again."""

    def origin(self, key: str) -> str:
        """Return where the value of a dotted key comes from: its own origin, or that of the table that contains it."""
        while key and key not in self.origins:
            key = key.rpartition(".")[0]
        return self.origins.get(key, "default")

    def as_json(self) -> dict[str, Any]:
        """Return the configuration and the origin of each setting; values that look like a key are hidden."""
        keys = map(dotted, settings())
        config = without_keys(self.config.model_dump(mode="json"))
        return {"config": config, "origins": {key: self.origin(key) for key in keys}}


def override(assignment: str) -> Override:
    """Parse ``KEY=VALUE``. Raises UsageError if there is no ``=``."""
    key, equals, text = assignment.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise UsageError("--set needs KEY=VALUE, such as --set train.learning_rate=1e-5", next="swarmctl profiles show")
    return given("--set", key.strip(), text.strip())


def given(flag: str, key: str, text: str) -> Override:
    """Return the override that sets ``key`` (dotted) to the value written as ``text``."""
    path = tuple(key.split("."))
    return Override(path, parse(text, path), flag)


def problems_of(
    profile: Profile, overrides: Sequence[Override] = (), environment: Mapping[str, str] | None = None
) -> tuple[Resolved | None, list[Problem]]:
    """Return the configuration, or None and every problem. Raises ConfigurationError if ``extends`` is wrong."""
    overrides = tuple(replace(each, value=anchored(each.path, each.value, Path.cwd())) for each in overrides)
    layers = gather(profile, overrides, environment or {})
    retired = drop_retired(layers)
    try:
        gathered = Settings(layers)
    except ValidationError as error:
        # pydantic reports an error for each type of a union; all of them become the same problem.
        wrong = (explain(detail, layers, profile.label) for detail in error.errors())
        return None, list(dict.fromkeys([*retired, *wrong]))
    if retired:
        return None, retired
    config = Config.model_construct(gathered.model_fields_set, **dict(gathered))
    origins = {dotted(path): origin for path, origin in origins_of(layers).items()}
    return Resolved(config, origins, profile, overrides), []


def resolve(profile: Profile, overrides: Sequence[Override], environment: Mapping[str, str]) -> Resolved:
    """Return the configuration. Raises the error that lists every problem (``refused``), with corrections that work."""
    resolved, problems = problems_of(profile, overrides, environment)
    if resolved is None:
        error = refused(problems, _next(problems[0], profile))
        error.corrections = working_corrections(problems, profile, overrides, environment)
        raise error
    return resolved


def working_corrections(
    problems: Sequence[Problem], profile: Profile, overrides: Sequence[Override], environment: Mapping[str, str]
) -> tuple[Correction, ...]:
    """Return a correction for each problem; empty if some problem has none, or if they do not solve all problems."""
    found = tuple(each.correction for each in problems if each.correction is not None)
    if len(found) < len(problems):
        return ()
    typed, variables = list(overrides), dict(environment)
    for each in found:
        if each.origin.startswith("$"):
            value = variables.pop(each.origin[1:])
            variables[each.name] = value if each.value is None else each.value
            continue
        wrong, right = tuple(each.typed.split(".")), tuple(each.name.split("."))
        typed = [
            replace(given, path=right, value=given.value if each.value is None else parse(each.value, right))
            if (given.path, given.origin) == (wrong, each.origin)
            else given
            for given in typed
        ]
    return () if problems_of(profile, typed, variables)[1] else found


def _next(problem: Problem, profile: Profile) -> str:
    name = shlex.quote(profile.reference)
    if problem.key == dotted(NAME):
        named = "" if profile.reference == DEFAULT else f" --profile {name}"
        return f"swarmctl run{named} --node my-node"
    if problem.origin.startswith("$"):
        return f"unset {problem.origin[1:]}"
    if problem.origin in FLAGS:
        return "swarmctl run --help"
    if problem.origin and not problem.origin.startswith("--"):
        wrong = next((each for each in profiles.family(profile) if each.label == problem.origin), profile)
        return f"swarmctl profiles edit {shlex.quote(wrong.reference)}"
    return f"swarmctl profiles show {name} --origin"
