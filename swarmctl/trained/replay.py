"""``swarmctl replay``: repeat a step from its checkpoint and its rows, and compare the result with the recorded one.

Users count steps and rounds from 1: checkpoint 80 is the model after step 80. The journal counts them from 0.
"""

import math
import shlex
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from hivemind_exp.errors import CheckpointError, ConfigurationError, FileProblem
from hivemind_exp.foreign_text import foreign
from hivemind_exp.journal.audit import StepLog
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.resuming import resume_command
from hivemind_exp.trainer.checkpoints import damage
from swarmctl.errors import Exit
from swarmctl.nodes.lookup import files_of, readable
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer
from swarmctl.trained.process import model_process
from swarmctl.trained.target import ModelOptions, trained_node


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """How a step is repeated."""

    step: int
    """Counted from 0."""
    start: int | None
    """The checkpoint to start from; None: the model before training."""
    unfinished: bool = False
    """Whether the node was stopped while it took this step."""


def replay(name: str, *, step: int | None, device: str | None, as_json: bool) -> Exit:
    """Repeat a step, and print whether it gives the recorded result.

    ``step``: counted from 1; None means the newest.

    Returns ``CHECK_FAILED`` if it does not. Raises CheckpointError if the step cannot be repeated, FileProblem if its
    rows are damaged.
    """
    files = readable(name)
    plan = _plan(files, None if step is None else step - 1)
    node = trained_node(ModelOptions(name, plan.start, plan.start is None, device=device, command="replay"))
    with model_process("replay", node, quiet=as_json, whole=True, step=plan.step) as process:
        if as_json:
            steps = [_finite(_counted(event)) for event in process.events()]
            same = _verdict(steps)
            print_json(node=name, step=plan.step + 1, checkpoint=node.at(), same=same, steps=steps)
        else:
            steps = list(_print_steps(process.events()))
            same = _verdict(steps)
            _print(name, steps, plan, same)
    return Exit.CHECK_FAILED if same is False else Exit.DONE


def _verdict(steps: list[dict[str, Any]]) -> bool | None:
    """Return whether all steps gave the recorded result; None if that of the last is not recorded."""
    if any(each["same"] is False for each in steps):
        return False
    return steps[-1]["same"] if steps else None


def _plan(files: NodeFiles, wanted: int | None) -> ReplayPlan:
    name = files.root.name
    if not files.journal.exists():
        raise ConfigurationError(f"node {name} has taken no step yet", next=f"swarmctl run --node {shlex.quote(name)}")
    with closing(StepLog(files.journal)) as log:
        taken, kept = log.taken(), frozenset(log.kept())
        saved = {int(path.name): path for path in files.checkpoints.glob("[0-9]*") if path.name.isdigit()}
        possible_starts = sorted({0, *saved}, reverse=True)
        step = _newest(log, kept, possible_starts, taken - 1) if wanted is None else wanted
        if not taken or step >= taken:
            numbered = f"; they are numbered from 1 to {taken}" if taken else ""
            message = f"node {name} has taken {several(taken, 'step')} so far{numbered}"
            raise ConfigurationError(message, next=_again(name, taken - 1) if taken else "swarmctl status")
        complete = _complete(log, kept, possible_starts, step)
        if not complete:
            reason = "its rows, or the checkpoint before it, have been deleted"
            raise _impossible(name, step, reason, _repeatable(log, kept, {0, *saved}))
        try:
            for each in range(complete[0], step + 1):
                log.manifest(each)
        except FileProblem as error:
            possible = _repeatable(log, kept, {0, *saved})
            raise FileProblem(f"{error.message}. {_which(possible)}", next=_follow(name, step, possible)) from error
        for start in complete:
            problem = damage(saved[start]) if start in saved else None
            if problem is None:
                return ReplayPlan(step, start if start in saved else None, _is_unfinished(log, step, taken))
            Writer(sys.stderr)(f"warning: checkpoint {start} is damaged ({problem}); trying an earlier one.")
        raise _impossible(name, step, "every checkpoint before it is damaged", [])


def _complete(log: StepLog, kept: frozenset[int], starts: list[int], step: int) -> list[int]:
    """Return the starts from which the rows of all steps up to ``step`` exist, and follow from each other."""
    paths = {start: range(start, step + 1) for start in starts if start <= step}
    return [start for start, path in paths.items() if kept.issuperset(path) and log.restored().isdisjoint(path[1:])]


def _newest(log: StepLog, kept: frozenset[int], starts: list[int], last: int) -> int:
    """Return the newest step that can be replayed unless its data is damaged; ``last`` if there is none.

    A step without a recorded result is returned only if no other can be replayed.
    """
    possible = [step for step in sorted(kept, reverse=True) if _complete(log, kept, starts, step)]
    return next((step for step in possible if log.outcome(step) is not None), next(iter(possible), last))


def _is_unfinished(log: StepLog, step: int, taken: int) -> bool:
    """Whether a step has no result because it was the node's last. Results of earlier versions are all missing."""
    return step == taken - 1 and log.outcome(step) is None and (step == 0 or log.outcome(step - 1) is not None)


def _repeatable(log: StepLog, kept: frozenset[int], starts: set[int]) -> list[int]:
    """Return the steps that can be repeated: from some start on, the rows of each step exist and are intact."""
    damaged, restored, found, reached = log.damaged(), log.restored(), [], False
    for step in range(min(kept, default=0), max(kept, default=-1) + 1):
        intact = step in kept and step not in damaged
        reached = intact and ((reached and step not in restored) or step in starts)
        if reached:
            found.append(step)
    return found


def _impossible(name: str, step: int, reason: str, possible: list[int]) -> CheckpointError:
    message = f"step {step + 1} of node {name} cannot be replayed: {reason}. {_which(possible)}"
    return CheckpointError(message, next=_follow(name, step, possible))


def _follow(name: str, step: int, possible: list[int]) -> str:
    nearest = min(possible, key=lambda each: abs(each - step), default=None)
    return resume_command(files_of(name)) if nearest is None else _again(name, nearest)


def _which(possible: list[int]) -> str:
    """Return which steps can be replayed, as a sentence without its full stop."""
    if not possible:
        return "No step can be replayed until the node has taken another one"
    ends = [0, *(n + 1 for n, (a, b) in enumerate(pairwise(possible)) if b != a + 1), len(possible)]
    parts = [(possible[start], possible[end - 1]) for start, end in pairwise(ends)]
    ranges = [str(first + 1) if first == last else f"{first + 1} to {last + 1}" for first, last in parts]
    return f"Steps that can be replayed: {', '.join(ranges)}"


def _again(name: str, step: int) -> str:
    return f"swarmctl replay {shlex.quote(name)} --step {step + 1}"


def _counted(event: dict[str, Any]) -> dict[str, Any]:
    """Return a step event's fields, with its step and round counted from 1."""
    fields = {key: value for key, value in event.items() if key != "event"}
    return fields | {"step": event["step"] + 1, "round": event["round"] + 1}


def _finite(value: Any) -> Any:
    """Replace numbers that JSON does not have with null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_steps(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Print a line for each step; yield the steps."""
    say = Writer(sys.stdout)
    for step in map(_counted, events):
        say(f"step {step['step']} (round {step['round']}, {step['stage']}): {_about(step)}")
        yield step


def _about(step: dict[str, Any]) -> str:
    match step["same"]:
        case None:
            return "no recorded result"
        case False:
            return "not the recorded result"
    return "same bits as recorded" if step["exact"] else "as recorded, within the tolerance"


def _print(name: str, steps: list[dict[str, Any]], plan: ReplayPlan, same: bool | None) -> None:
    say = Writer(sys.stdout)
    shown = next((each for each in steps if each["same"] is False), steps[-1])
    recorded = shown["recorded"] or {}
    for key, word in {"loss": "loss", "grad_norm": "gradient norm"}.items():
        say(f"  {word:<14} {shown[key]!r}")
        if key in recorded and recorded[key] != shown[key]:
            say(f"    recorded     {recorded[key]!r}")
    if shown["sources"]:
        learned = ", ".join(
            f"{several(each['completions'], 'completion')} of {_maker(each['source'])}" for each in shown["sources"]
        )
        say(f"  learned from   {learned}", indent=" " * 17)
    start = "the model before training" if plan.start is None else f"checkpoint {plan.start}"
    say(f"  repeated from  {start}, on {_machine(shown['machine'])}", indent=" " * 17)
    if same is None:
        why = "the node was stopped before it finished" if plan.unfinished else "an earlier version of swarmctl took it"
        say(f"Step {plan.step + 1} of node {name} has no recorded result: {why}.")
    elif same:
        close = "to the last bit" if shown["exact"] else f"within {100 * shown['tolerance']:g} % of the gradient norm"
        say(f"Step {plan.step + 1} of node {name} gives the recorded result, {close}.")
    else:
        say(f"Step {shown['step']} of node {name} does not give the recorded result.")
        if shown["recorded_machine"] != shown["machine"]:
            say(f"It was recorded on {_machine(shown['recorded_machine'])}.")
        else:
            say("Machine and settings are the same, so the model's files, or those of its base model, have changed.")


def _machine(about: dict[str, Any] | None) -> str:
    if about is None:
        return "an unknown machine"
    where = about["accelerator"] or f"{about['processor']}, {several(about['threads'], 'thread')}"
    return f"{where}, {about['dtype']}, torch {about['torch']}"


def _maker(source: str) -> str:
    return "this machine" if source == "local" else foreign(source)
