"""Turn the end of a trainer into an exit code, or into the error to print with the command to try next."""

import json
import math
import os
import re
import resource
import shlex
import signal
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hivemind_exp.config import Config
from hivemind_exp.errors import CheckpointError, Hung, NodeError, OutOfMemory
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models.memory import AUTO_BATCH, AUTO_MICRO_BATCH
from hivemind_exp.models.smollm2 import NAME as SMOLLM2
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import read_record, write_record
from swarmctl.errors import Exit, exit_code
from swarmctl.nodes.history import has_begun, rounds_finished
from swarmctl.nodes.lookup import files_of, other_name
from swarmctl.paths import shown
from swarmctl.run import trainer_process as trainer
from swarmctl.run.supervisor import TrainerExit
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.command_line import models_arguments, rerun, settings_arguments
from swarmctl.settings.offload_target import OFFLOAD, is_address, provider_name, split_target
from swarmctl.settings.options import FLAGS
from swarmctl.settings.resolve import Resolved, resolve
from swarmctl.settings.schema import SettingPath, dotted, flatten
from swarmctl.storage.disk_errors import FULL, explained
from swarmctl.terminal.progress import RunView

DRY = "--dry-run"
_RUN = re.compile(r"(?:^|\s)swarmctl run(?:\s|$)")
_FIXED = ("model.name", "model.revision", "model.lora", "tasks", "node.seed")
"""Settings that a node keeps from its first start on (``swarmctl.nodes.directory``)."""
_EXIT_OF_REASON = {"done": Exit.DONE, "signal": Exit.DONE, "limit": Exit.LIMIT}


def continuation(node: str) -> str:
    """Return the command that resumes ``node`` with the settings of its last run."""
    return shlex.join(["swarmctl", "run", "--node", node])


def completed(following: str | None, same: str) -> str:
    """Return the command that the trainer suggests, or ``same``, the command of this run, if it suggests none.

    The trainer knows neither the profile nor the flags of this run. If it suggests ``swarmctl run --FLAG …``, the flags
    are added to ``same``.
    """
    if following is None:
        return same
    words = shlex.split(following)
    if words[:2] != ["swarmctl", "run"] or not {"--node", "--profile", "-p"}.isdisjoint(words):
        return following
    advice = words[2:]
    replaced = _settings(advice)
    typed = shlex.split(same)
    if OFFLOAD in advice:  # names the model, too
        replaced.add("offload.model")
        _keep_address(advice, typed)
    return shlex.join([*_without(typed, replaced), *advice])


def _settings(words: Sequence[str]) -> set[str]:
    """Return the settings that flags and assignments set."""
    return {FLAGS.get(flag, value.partition("=")[0]) for flag, value in pairwise(words)}


def _needs_another_node(following: str | None, files: NodeFiles) -> bool:
    """Return whether a suggested run changes a setting that this node keeps."""
    words = shlex.split(following or "")
    changed = _settings(words[2:]) if words[:2] == ["swarmctl", "run"] else ()
    return has_begun(files) and any(each == kept or each.startswith(f"{kept}.") for each in changed for kept in _FIXED)


def changes_nothing(following: str | None, config: Config) -> bool:
    """Return whether a suggested run has only settings that ``config`` has, so that it would fail in the same way.

    For example, the model that errors suggest instead of an unusable one may be the unusable one.
    """
    words = shlex.split(following or "")
    if words[:2] != ["swarmctl", "run"] or not (FLAGS.keys() | {"--set"}) & {*words}:
        return False
    values, rest = {dotted(path): value for path, value in flatten(config.model_dump(mode="json"))}, iter(words[2:])
    return all(_has(values, flag, next(rest, "")) for flag in rest)


def _has(values: Mapping[str, Any], flag: str, text: str) -> bool:
    setting, _, wanted = text.partition("=") if flag == "--set" else (FLAGS.get(flag, ""), "", text)
    setting = "node.name" if flag == "--node" else setting
    return setting in values and str(values[setting]).lower() == wanted.lower()


def _keep_address(advice: list[str], typed: Sequence[str]) -> None:
    """Replace the name of a provider in ``advice`` with its address, if it was typed: nothing else has the address."""
    if OFFLOAD not in typed[:-1]:
        return
    address, _ = split_target(typed[typed.index(OFFLOAD) + 1])
    place = advice.index(OFFLOAD) + 1
    name, model = split_target(advice[place])
    if is_address(address) and name == provider_name(address):
        advice[place] = f"{address}:{model}" if model else address


def _advice(following: str | None, same: str, resolved: Resolved) -> str:
    """Return the command to suggest after an error: ``completed``, but a node that joins a swarm still joins it.

    Until its first start, a node may change its profile and its model. ``doctor`` checks the same configuration. It is
    suggested instead of a run that would change nothing. ``models`` gets what one of your own providers needs.
    """
    words = shlex.split(following or "")
    if changes_nothing(following, resolved.config):
        words = ["swarmctl", "doctor"]
    if words[:2] == ["swarmctl", "doctor"] and {"--node", "--profile"}.isdisjoint(words):
        started = ["--node", resolved.config.node.name]  # with its settings, which it has stored
        return shlex.join([*words, *(started if same == continuation(started[1]) else settings_arguments(resolved))])
    if words[:2] == ["swarmctl", "models"] and len(words) > 2 and (own := models_arguments(resolved, words[2])):
        return shlex.join([*words[:3], *own])
    joins = resolved.config.swarm.charter is not None and not has_begun(files_of(resolved.config.node.name))
    if not joins or words[:3] != ["swarmctl", "run", "--profile"] or len(words) != 4:
        return completed(following, same)
    other = resolve(profiles.read(profiles.find(words[3])), [], {})
    supported = {task.name for task in other.config.tasks}
    if other.config.warmup.steps and not {task.name for task in resolved.config.tasks} <= supported:
        # The warm-up does not support the swarm's tasks. This model needs no hub.
        return completed(f"swarmctl run --model {SMOLLM2}", rerun(resolved))
    model = {override.path for override in resolved.overrides if override.path[0] == "model"}
    return rerun(replace(resolved, profile=other.profile, names_profile=True), without=model)


@contextmanager
def retry_hint(resolved: Resolved) -> Iterator[None]:
    """Add the flags that an error suggests to the command that failed."""
    try:
        yield
    except NodeError as error:
        error.next = _advice(error.next, rerun(resolved), resolved) if error.next else None
        raise


@contextmanager
def dry_hint() -> Iterator[None]:
    """Add ``--dry-run`` to the run that an error suggests, so that a dry run never leads to a real one."""
    try:
        yield
    except NodeError as error:
        if error.next and _RUN.search(error.next) and DRY not in shlex.split(error.next):
            error.next += f" {DRY}"
        raise


def _without(words: Sequence[str], settings: Set[str]) -> Iterator[str]:
    """Yield the words of a command without the flags and assignments that set ``settings``."""
    rest = iter(words)
    for word in rest:
        if word != "--set" and word not in FLAGS:
            yield word
            continue
        value = next(rest)
        setting = FLAGS.get(word, value.partition("=")[0])
        if word == OFFLOAD and "offload.model" in settings and setting not in settings:
            target, _ = split_target(value)
            # The flag would reset the model, unless --set gives another.
            yield from (word, target) if is_address(target) else ("--set", f"{setting}={target}")
        elif setting not in settings:
            yield from (word, value)


def exit_code_for(
    ending: TrainerExit,
    progress: RunView,
    files: NodeFiles,
    resolved: Resolved,
    gave_up: NodeError | None = None,
) -> Exit:
    """Return the exit code. Raises the NodeError to print if the trainer failed: ``gave_up``, if it is one."""
    if gave_up is None and (code := planned_exit(ending, progress)) is not None:
        if progress.stop is None and has_begun(files):  # killed, so it could not record that itself
            record_stop(files, progress)
        return code
    error = gave_up or failure(ending, progress, files, resolved.config)
    if progress.error is None or gave_up is not None:
        _store(error, files)
    if error.next is None and not files.root.is_dir():  # nothing of the last run is left for the node's name to resume
        error.next = rerun(resolved, files.root.name)
    if error.next is None and exit_code(error) is Exit.CONFIGURATION:  # repeating the command would fail again
        name = files.root.name
        other, check = rerun(resolved, other_name(name)), shlex.join(["swarmctl", "doctor", "--node", name])
        error.next = other if isinstance(error, CheckpointError) else check
    another = _needs_another_node(error.next, files)
    same = rerun(resolved, other_name(files.root.name)) if another else continuation(files.root.name)
    error.next = _advice(error.next, same, resolved)
    _store_advice(error.next, files)
    raise error


def planned_exit(ending: TrainerExit, progress: RunView) -> Exit | None:
    """Return the exit code of a trainer that was stopped or is done; None if it failed."""
    if ending.asked is not None and (ending.killed or ending.returncode in (0, -signal.SIGTERM)):
        return Exit.INTERRUPTED if ending.asked is signal.SIGINT else Exit.DONE
    return _EXIT_OF_REASON.get((progress.stop or {}).get("reason", "")) if ending.returncode == 0 else None


def record_stop(files: NodeFiles, progress: RunView) -> None:
    """Record that the node was stopped on request, when its trainer could not do so or did not run."""
    from hivemind_exp.event_log import EventLog
    from hivemind_exp.events import StopEvent  # imports pydantic, which is slow

    event = StopEvent(reason="signal", round=rounds_finished(files), steps=progress.steps)
    stop = {"t": round(time.time(), 3), "event": event.event_name(), **event.model_dump(mode="json")}
    progress.error = None
    progress.apply(stop)
    record = read_record(files.run)
    with suppress(OSError):
        if record is not None:
            write_record(files.run, replace(record, error=None, stop=stop))
        with closing(EventLog(files.events)) as emit:
            emit(event)


def _store(error: NodeError, files: NodeFiles) -> None:
    """Store why the trainer ended for ``status`` and ``logs``, since it could not do so itself."""
    from hivemind_exp.event_log import EventLog
    from hivemind_exp.events import ErrorEvent  # imports pydantic, which is slow

    event = ErrorEvent(code=error.code, message=error.message, next=error.next)
    record = read_record(files.run)
    with suppress(OSError):
        if record is not None:
            write_record(files.run, replace(record, error={"event": event.event_name(), **event.model_dump()}))
        if files.root.is_dir():
            with closing(EventLog(files.events)) as emit:
                emit(event)


def _store_advice(following: str, files: NodeFiles) -> None:
    """Store the command to try for ``status``: the trainer's own does not know what was typed."""
    record = read_record(files.run)
    if record is not None and record.error is not None:
        with suppress(OSError):
            write_record(files.run, replace(record, error={**record.error, "next": following}))


def failure(ending: TrainerExit, progress: RunView, files: NodeFiles, config: Config) -> NodeError:
    """Return why the trainer failed: from its error event, its exit status or signal, or the last line of its log.

    On a full disk there may be no error event, because ``events.jsonl`` is on the same disk.
    """
    if progress.error is not None:
        return trainer.reported(progress.error)
    if not files.root.is_dir():
        return NodeError(f"the node's directory was deleted while it ran: {shown(files.root)}")
    if ending.returncode in FULL:
        return explained(OSError(ending.returncode, os.strerror(ending.returncode)), files.root, "write")
    return _unexplained(ending, files, config)


def _unexplained(ending: TrainerExit, files: NodeFiles, config: Config) -> NodeError:
    """Return what is known about a trainer that ended without saying why."""
    log = f"(log: {shown(files.log)})"
    if ending.hung is not None:
        return Hung(f"the trainer hung: {ending.hung}. Its threads' stacks are in {shown(files.log)}")
    if (limit := _cpu_limit(ending)) is not None:
        text = f"the trainer was killed because it had used the CPU time that this shell allows ({limit} s, ulimit -t)"
        return NodeError(f"{text}. Start swarmctl in a shell without that limit {log}", next="ulimit -Ht")
    if ending.returncode == -signal.SIGKILL:
        return _killed(ending, config, log)
    if ending.returncode < 0:
        return NodeError(f"the trainer crashed with {signal.Signals(-ending.returncode).name} {log}")
    lines = ending.output.decode(errors="replace").strip().splitlines()
    said = foreign(lines[-1]) if lines else f"exit code {ending.returncode} and no output"
    return NodeError(f"the trainer failed: {said} {log}")


def _cpu_limit(ending: TrainerExit) -> int | None:
    """Return the limit of CPU time for which the kernel ended the trainer, in seconds; None if it ended otherwise."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if ending.returncode == -signal.SIGXCPU:
        return soft
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = ending.returncode == -signal.SIGKILL and hard != resource.RLIM_INFINITY
    return hard if out and math.ceil(used.ru_utime + used.ru_stime) >= hard else None


def _killed(ending: TrainerExit, config: Config, log: str) -> NodeError:
    """Return why a trainer was killed (SIGKILL). The kernel does this if memory runs out."""
    if ending.out_of_memory is False:
        return NodeError(f"the trainer was killed from outside (SIGKILL); the kernel did not run out of memory {log}")
    used = f", with {ending.memory} in use" if ending.memory else ""
    how = "by the kernel" if ending.out_of_memory else "(SIGKILL), probably"
    return OutOfMemory(
        f"the trainer was killed {how} because memory ran out{used} {log}",
        next=shlex.join(["swarmctl", "run", *_assigned(smaller(config))]),
    )


def _assigned(settings: Mapping[SettingPath, Any]) -> Iterator[str]:
    for path, value in settings.items():
        yield from ("--set", f"{dotted(path)}={json.dumps(value)}")


def smaller(config: Config) -> dict[SettingPath, Any]:
    """Return settings that need less memory: half of each batch size, or recomputed activations."""
    halved: dict[SettingPath, Any] = {path: size // 2 for path, size in batches(config).items() if size > 1}
    return halved or {("model", "gradient_checkpointing"): True}


def batches(config: Config) -> dict[SettingPath, int]:
    """Return the sizes of batches, on a CPU where they are "auto": only there do they fill the memory of this machine.

    If a GPU's memory runs out, the trainer itself uses less.
    """
    train, generation = config.train.micro_batch, config.generation.batch
    return {
        ("train", "micro_batch"): AUTO_MICRO_BATCH if train == "auto" else train,
        ("generation", "batch"): AUTO_BATCH if generation == "auto" else generation,
    }
