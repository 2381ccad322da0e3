"""Run ``swarmctl init``: questions, checks, profile, key, plan, start."""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from hivemind_exp.errors import KeyProblem, NodeError
from hivemind_exp.money import digits
from swarmctl.doctor import registry
from swarmctl.doctor.check import Check, Context, Outcome, Status
from swarmctl.doctor.command import make_context, run_checks
from swarmctl.doctor.report import failures, print_findings
from swarmctl.errors import Exit, UsageError, exit_code, print_error
from swarmctl.init.questions import Choices, ask, ask_name, check_name
from swarmctl.keys.for_run import ask_for_key, located_keys, missing_keys
from swarmctl.keys.key_text import dotted_tail
from swarmctl.keys.set import KeyRefused
from swarmctl.paths import shown
from swarmctl.profiles.new import new_path, profile_text, write
from swarmctl.run import command as running
from swarmctl.run.offload_plan import Plan
from swarmctl.settings.command_line import resolved_options
from swarmctl.settings.options import DoctorOptions, RunOptions
from swarmctl.settings.resolve import override
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.prompter import Cancelled, Prompter, sentence
from swarmctl.terminal.sentences import several

_API = "api"
"""The group of checks that need the API's key."""
_CAP_FLAG, _CAP = "--max-usd", "offload.limits.usd"


def init_command(*, no_input: bool) -> Exit:
    """Ask, check, write the profile, and start its node if the user agrees. Raises NodeError as these commands do."""
    prompter = Prompter(silent=no_input)
    if not (prompter.can_ask and sys.stdout.isatty()):
        new, run = typed("swarmctl profiles new NAME"), typed("swarmctl run --profile NAME")
        raise UsageError(
            f"cannot ask questions here (no terminal, or --no-input); use `{new}` and `{run}` instead",
            next="swarmctl profiles new --help",
        )
    try:
        chosen = ask(prompter)
        if not _is_ready(chosen, prompter):
            return Exit.CHECK_FAILED
        path = _written(chosen, prompter)
    except (KeyboardInterrupt, typer.Abort) as error:
        _end_line(error)
        raise Cancelled("Cancelled. Nothing was changed.") from error
    code: Exit | RunOptions
    try:
        code = _prepared(path, prompter)
    except (KeyboardInterrupt, typer.Abort, Cancelled) as error:
        _end_line(error)
        prompter.say("Cancelled. Nothing was started.")
        code = Exit.INTERRUPTED
    except NodeError as error:
        print_error(error, as_json=False)
        code = exit_code(error)
    if isinstance(code, RunOptions):
        return running.run_command(code)
    done = code in (Exit.DONE, Exit.INTERRUPTED)
    prompter.say("To start the node later:" if done else "To start the node when this is fixed:")
    for line in _commands_to_start(path):
        prompter.say(f"  {typed(line)}")
    return code


def _end_line(error: BaseException) -> None:
    """End the line of a question that Ctrl-C has interrupted."""
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("\n")


def _commands_to_start(path: Path) -> list[str]:
    """Return the commands that save a missing key and start the node of a profile."""
    missing = missing_keys(resolved_options(RunOptions(profile=path.stem)).config, os.environ)
    return [*missing.values(), shlex.join(["swarmctl", "run", "--profile", path.stem])]


def _is_ready(chosen: Choices, prompter: Prompter) -> bool:
    """Run doctor's checks, except those that need a key that is not saved yet. Return whether to go on."""
    context = make_context(DoctorOptions(profile=chosen.base.reference, node=chosen.name, assignments=chosen.settings))
    checks = registry.select([], context)
    if context.resolved is not None and missing_keys(context.config, os.environ):
        checks = [check for check in checks if check.group != _API]
    prompter.say("")
    prompter.say("Checking this machine:")
    if _passes(checks, context, prompter, "Nothing was changed."):
        return True
    prompter.say("Nothing was changed. After fixing it, run this again:")
    prompter.say(f"  {typed('swarmctl init')}")
    return False


def _passes(checks: Sequence[Check], context: Context, prompter: Prompter, unchanged: str) -> bool:
    """Run checks and print what is wrong. Return whether none failed; warnings are left to the user.

    Raises Cancelled, with ``unchanged``, if the user does not want to go on.
    """
    outcomes = print_findings(run_checks(checks, context), _is_news)
    found = [outcome.finding.status for outcome in outcomes]
    passed = several(found.count(Status.OK), "check")
    prompter.say(f"{passed} passed. To see every result:")
    prompter.say(f"  {typed(context.again())}")
    if Status.FAILED in found:
        for line in failures(outcomes):
            prompter.say(line)
        return False
    warnings = found.count(Status.WARNING)
    if warnings and not prompter.agrees(f"Continue despite {several(warnings, 'warning')}?", default=True):
        raise Cancelled(f"Cancelled. {unchanged}")
    return True


def _is_news(outcome: Outcome) -> bool:
    """Return whether to show a result: every problem, and what an API has answered."""
    good = (Status.SKIPPED,) if outcome.check.group == _API else (Status.SKIPPED, Status.OK)
    return outcome.finding.status not in good


def _written(chosen: Choices, prompter: Prompter) -> Path:
    """Write the profile and return its path. Asks for another name if the chosen one was taken meanwhile."""
    name = chosen.name
    while (problem := _problem(name)) is not None:
        prompter.say(problem)
        name = ask_name(prompter, name)
    path = new_path(name, yes=False, again="")
    overrides = [override(text) for text in chosen.settings]
    write(path, profile_text(path, chosen.base, overrides, by="swarmctl init"))
    prompter.say("")
    prompter.say(f"Wrote {shown(path)}.")
    return path


def _problem(name: str) -> str | None:
    try:
        check_name(name)
    except NodeError as error:
        return sentence(error.message)
    return None


def _prepared(path: Path, prompter: Prompter) -> Exit | RunOptions:
    """Save a missing key, show the plan and ask whether to start. Return how to run the node, or else the exit code."""
    context = make_context(DoctorOptions(profile=path.stem))
    checked = not missing_keys(context.config, os.environ)
    if not _has_keys(context, prompter):
        return Exit.DONE
    if not checked:
        prompter.say("")
        prompter.say("Checking the API:")
        if not _passes(registry.select([_API], context), context, prompter, "Nothing was started."):
            return Exit.CHECK_FAILED
    return _agreed(path, prompter) or Exit.DONE


def _has_keys(context: Context, prompter: Prompter) -> bool:
    """Return whether there is a key for each API that needs one. Offers to save a missing one."""
    for endpoint, spot in located_keys(context.config, os.environ):
        if spot is not None:
            prompter.say(f"Key {endpoint.name}: {dotted_tail(spot.last_four)} from {spot.where}.")
            continue
        question = f"No key for {endpoint.name} yet. Save one now?"
        while prompter.agrees(question, default=True):
            try:
                ask_for_key(endpoint)
                break
            except (KeyProblem, KeyRefused) as error:
                if (error.next or "").startswith("swarmctl keys set"):
                    error.next = None  # which is what the next question offers
                print_error(error, as_json=False)
            except Cancelled as choice:
                prompter.say(choice.message)
            question = "Try again?"
        else:
            return False
    return True


def _agreed(path: Path, prompter: Prompter) -> RunOptions | None:
    """Show the plan, and ask whether to start; return how to run the node, or None. Spending needs a typed yes."""
    options = RunOptions(profile=path.stem)
    made_plan = running.plan_of(options)
    prompter.say("")
    prompter.say("The plan:")
    made_plan.print_plan()
    prompter.say("")
    start = f"Start node {made_plan.resolved.config.node.name} now"
    if made_plan.offload is None or not made_plan.offload.paid:
        return options if prompter.agrees(f"{start}?", default=True) else None
    if not prompter.agrees(f"{start}, and {_spend(made_plan.offload)}?", default=False):
        return None
    if _CAP in made_plan.resolved.origins:
        return options
    # The run would ask the same again, unless its command line sets the cap.
    return replace(options, flags=((_CAP_FLAG, _CAP, f"{made_plan.resolved.config.offload.limits.usd}"),))


def _spend(plan: Plan) -> str:
    cap, names = plan.limits.usd, " and ".join(dict.fromkeys(each.name for each in plan.paid))
    return f"let it spend {'without a limit' if isinstance(cap, str) else f'up to {digits(cap)} USD'} at {names}"
