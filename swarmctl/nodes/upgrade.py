"""``swarmctl upgrade``: show or take the steps that bring a node to the current format."""

import sys

from hivemind_exp.formats import NODE_FORMAT
from swarmctl.nodes.directory import check_formats
from swarmctl.nodes.lookup import existing
from swarmctl.nodes.migrations import Upgrade, plan
from swarmctl.nodes.rename import at_rest
from swarmctl.paths import shown
from swarmctl.terminal.command_line import command
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer


def upgrade(name: str, *, dry_run: bool, as_json: bool) -> None:
    """Upgrade a node's files. Raises NodeConflict if it is running and ``dry_run`` is not set."""
    files = existing(name)
    check_formats(files)
    if dry_run:
        planned = plan(files)
    else:
        with at_rest(files):
            planned = plan(files)
            planned.apply()
    if as_json:
        steps = [
            {
                "number": step.number,
                "title": step.title,
                "changes": [{"file": each.file.name, "change": each.what} for each in changes],
            }
            for step, changes in planned.steps
        ]
        copy = str(planned.copy) if planned.changes else None
        formats = {"before": planned.before, "after": planned.before if dry_run else NODE_FORMAT}
        print_json(node=name, **formats, newest=NODE_FORMAT, steps=steps, copy=copy)
        return
    _print(name, planned, dry_run=dry_run)


def _print(name: str, planned: Upgrade, *, dry_run: bool) -> None:
    say = Writer(sys.stdout)
    if not planned.steps:
        say(f"Node {name} is up to date (format {NODE_FORMAT}).")
        return
    will = "would be" if dry_run else "was"
    say(f"Node {name} {will} upgraded from format {planned.before} to {NODE_FORMAT}:")
    for step, changes in planned.steps:
        say(f"  step {step.number}: {step.title}", indent="    ")
        for each in changes:
            say(f"    {each.file.name} {each.what}", indent="      ")
        if not changes:
            say("    nothing to change")
    if planned.changes:
        say(f"A copy of the previous files {'would be' if dry_run else 'is'} kept in {shown(planned.copy)}")
    if dry_run:
        say("Nothing was changed. The node's next run upgrades it, and so does:")
        say("  " + command(["upgrade", name]))
