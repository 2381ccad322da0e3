"""What ``swarmctl doctor`` does, once its arguments are parsed."""

import sys
from collections.abc import Sequence

from hivemind_exp.errors import NodeError
from swarmctl.doctor import registry, runner
from swarmctl.doctor.check import Check, Context, Outcome, Status
from swarmctl.doctor.checks.api.checks import notice
from swarmctl.doctor.report import as_json, as_markdown, as_text
from swarmctl.errors import Exit
from swarmctl.paths import nodes_directory
from swarmctl.settings.options import DoctorOptions, RunOptions
from swarmctl.terminal.safe_text import encodable
from swarmctl.terminal.views import Writer


def doctor_command(options: DoctorOptions) -> Exit:
    """Make the checks, fix what may be fixed, and tell. Raises UsageError for a check that does not exist."""
    context = make_context(options)
    checks = registry.select(options.checks, context)
    if context.problem is not None and registry.PROFILE not in {check.key for check in checks}:
        checks = [*registry.select([registry.PROFILE], context), *checks]
    _announce(checks, context)
    outcomes = runner.make(checks, context)
    fixed = _cure(outcomes, context) if options.fix else None
    if options.as_json:
        print(as_json(outcomes, fixed))
    elif options.report:
        # Not broken into lines of the terminal's width: a row of a table is one line.
        for line in as_markdown(outcomes, context):
            print(encodable(line, sys.stdout.encoding))
    else:
        write = Writer(sys.stdout)
        for line in as_text(outcomes, fixed, context, whole=not options.checks):
            write(line)
    return Exit.CHECK_FAILED if any(each.finding.status is Status.FAILED for each in outcomes) else Exit.DONE


def _announce(checks: Sequence[Check], context: Context) -> None:
    """Say what takes long, and what costs money, before it begins."""
    deep = [check for check in checks if check.deep and context.deep]
    if sys.stderr.isatty() and any(check.group != "api" for check in deep):
        Writer(sys.stderr)("Deep checks import torch and compute; that takes up to two minutes.")
    cost = notice(context) if any(check.group == "api" for check in deep) else None
    if cost is not None:
        Writer(sys.stderr)(cost)


def make_context(options: DoctorOptions) -> Context:
    """Return what the checks look at. A profile that cannot be used is a finding, not an error."""
    from swarmctl.settings.command_line import resolved_options

    resolved, problem = None, None
    wanted = RunOptions(profile=options.profile, node=options.node, assignments=options.assignments)
    try:
        resolved = resolved_options(wanted)
    except NodeError as error:
        problem = error
    given = [("--profile", options.profile), ("--node", options.node)]
    given += [("--set", each) for each in options.assignments]
    arguments = tuple(word for flag, value in given if value is not None for word in (flag, value))
    return Context(resolved, problem, arguments, options.deep, options.offline, nodes=nodes_directory())


def _cure(outcomes: list[Outcome], context: Context) -> list[str]:
    """Fix what is safe to fix, look again and put the new outcomes in place. Returns what was done."""
    done = []
    for place, outcome in enumerate(outcomes):
        if outcome.finding.fix is not None:
            try:
                done.append(outcome.finding.fix())
            except OSError as error:
                done.append(f"{outcome.check.key} could not be fixed: {error}")
            outcomes[place] = runner.make([outcome.check], context)[0]
    return done
