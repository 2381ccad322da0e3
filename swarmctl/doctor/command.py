"""Run ``swarmctl doctor`` with its parsed arguments."""

import os
import shlex
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign
from swarmctl.doctor import registry
from swarmctl.doctor.check import Check, Context, Finding, Outcome, Status, end_programs, failed, skipped, unknown
from swarmctl.doctor.checks.api.checks import notice
from swarmctl.doctor.report import as_markdown, conclusion, print_as_json, print_findings
from swarmctl.errors import Exit
from swarmctl.keys.http_client import timed_out
from swarmctl.nodes.lookup import all_nodes, latest
from swarmctl.paths import nodes_directory
from swarmctl.run.outcome import completed
from swarmctl.settings.options import DoctorOptions, RunOptions
from swarmctl.settings.profile_files import user_chose
from swarmctl.terminal.safe_text import encodable
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting


def doctor_command(options: DoctorOptions) -> Exit:
    """Run the checks, apply fixes if requested, and report. Raises UsageError for an unknown check."""
    context = make_context(options)
    _say_what_is_checked(options, context)
    checks = registry.select(options.checks, context)
    if context.problem is not None and registry.PROFILE not in {check.key for check in checks}:
        checks = [*registry.select([registry.PROFILE], context), *checks]
    _announce(checks, context)
    found = run_checks(checks, context)
    at_once = options.fix or options.as_json or options.report
    outcomes = list(found) if at_once else print_findings(found)
    fixed = _cure(outcomes, context) if options.fix else None
    if options.as_json:
        print_as_json(outcomes, fixed)
    elif options.report:
        # Not wrapped to the terminal's width: a table row must stay on one line.
        for line in as_markdown(outcomes, context):
            print(encodable(line, sys.stdout.encoding))
    else:
        if at_once:
            print_findings(outcomes)
        write = Writer(sys.stdout)
        for line in conclusion(outcomes, fixed, context, whole=not options.checks):
            write(line)
    return Exit.CHECK_FAILED if any(each.finding.status is Status.FAILED for each in outcomes) else Exit.DONE


def run_checks(checks: Sequence[Check], context: Context) -> Iterator[Outcome]:
    """Run the checks like ``make``, and show which one is awaited until it is known."""
    say = Writer(sys.stderr)
    with closing(make(checks, context)) as outcomes:
        for check in checks:
            with waiting(say, f"checking {check.key}"):
                outcome = next(outcomes)
            yield outcome


def make(checks: Sequence[Check], context: Context) -> Generator[Outcome]:
    """Run all checks at once; yield each outcome as soon as it and those before it are known.

    Waits for each check up to its limit.
    """
    began = time.monotonic()
    done: dict[Check, Outcome] = {}

    def run(check: Check) -> None:
        done[check] = Outcome(check, look(check, context), time.monotonic() - began)

    # Daemon threads, which executors lack: a thread that hangs in a system call must not keep the program alive.
    threads = [threading.Thread(target=run, args=[check], name=check.key, daemon=True) for check in checks]
    try:
        for thread in threads:
            thread.start()
        for check, thread in zip(checks, threads, strict=True):
            thread.join(max(0.0, began + check.limit - time.monotonic()))
            yield done.get(check) or _late(check, context, time.monotonic() - began)
    finally:
        end_programs()  # the threads that would kill them may not live that long


def _late(check: Check, context: Context, seconds: float) -> Outcome:
    return Outcome(check, unknown(f"no result after {check.limit:g} s", context.again(check.group)), seconds)


def look(check: Check, context: Context) -> Finding:
    """Run one check in this thread. Any exception becomes a finding; a NodeError also provides the remedy."""
    if check.deep and not context.deep:
        return skipped("runs only with --deep")
    if check.profile and context.resolved is None:
        return skipped("needs a valid profile")
    try:
        finding = check.look(context)
    except NodeError as error:
        finding = (unknown if timed_out(error) else failed)(error.message, error.next)
    except Exception as error:  # noqa: BLE001 - a broken check is reported, and the others still run
        return failed(f"the check itself failed: {type(error).__name__}: {foreign(error)}")
    return replace(finding, remedy=_completed(finding.remedy, context)) if finding.remedy else finding


def _completed(remedy: str, context: Context) -> str:
    """Return a command with the arguments that ``doctor`` was given, as far as it needs them."""
    match shlex.split(remedy):
        case ["swarmctl", "models", provider]:
            return context.models(provider)
    return completed(remedy, context.run)


def _announce(checks: Sequence[Check], context: Context) -> None:
    """Print a notice about slow or paid checks before they begin."""
    deep = [check for check in checks if check.deep and context.deep]
    if sys.stderr.isatty() and any(check.group != "api" for check in deep):
        Writer(sys.stderr)("Deep checks load PyTorch and run a training step. This takes up to 2 minutes.")
    cost = notice(context) if any(check.group == "api" for check in deep) else None
    if cost is not None:
        Writer(sys.stderr)(cost)


def make_context(options: DoctorOptions) -> Context:
    """Return the context for the checks. An invalid profile is a finding, not an error.

    If the user chose neither a node nor a profile, it is the node that ran last. Without one, only the machine is
    checked, unless the user names checks: these are made for the profile of ``run``.
    """
    from swarmctl.settings.command_line import resolved_options
    from swarmctl.settings.correction import corrected

    node = options.node if _names_a_run(options) else _last_node()
    resolved, problem = None, None
    if node is not None or options.checks or _names_a_run(options):
        try:
            resolved = resolved_options(RunOptions(options.profile, node=node, assignments=options.assignments))
        except NodeError as error:
            problem = error
    given = [("--profile", options.profile), ("--node", node)]
    given += [("--set", each) for each in options.assignments]
    arguments = tuple(word for flag, value in given if value is not None for word in (flag, value))
    if problem is not None:
        problem.next = corrected(problem, ["doctor", *options.checks, *arguments], os.environ) or problem.next
    return Context(resolved, problem, arguments, options.deep, options.offline, nodes=nodes_directory())


def _names_a_run(options: DoctorOptions) -> bool:
    """Whether the command line, the environment or the user's own default profile says which run is meant."""
    return bool(options.profile or options.node or options.assignments or user_chose())


def _last_node() -> str | None:
    """Return the name of the node that ran last, or runs; None if none has run yet."""
    nodes = [files for files in all_nodes() if files.config.exists()]
    return latest(nodes).root.name if nodes else None


def _say_what_is_checked(options: DoctorOptions, context: Context) -> None:
    """Print which node is checked if the user did not choose, and how to choose another."""
    if _names_a_run(options):
        return
    write = Writer(sys.stderr)
    if context.machine_only:
        write("Checking this machine. No node has run yet; to check a profile, too, add --profile NAME.")
    elif context.arguments:
        write(f"Checking for node {context.arguments[1]}, the latest. To choose: --node NAME or --profile NAME.")


def _cure(outcomes: list[Outcome], context: Context) -> list[str]:
    """Fix what is safe to fix, repeat those checks and replace their outcomes. Returns what was done."""
    done = []
    for place, outcome in enumerate(outcomes):
        if outcome.finding.fix is not None:
            try:
                done.append(outcome.finding.fix())
            except OSError as error:
                done.append(f"could not fix {outcome.check.key}: {error}")
            outcomes[place] = next(make([outcome.check], context))
    return done
