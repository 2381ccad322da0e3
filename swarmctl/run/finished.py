"""``swarmctl run`` of a node that has already finished all its rounds: say so, before anything is loaded or sent."""

import json
import sys

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import read_record
from swarmctl.errors import Exit
from swarmctl.nodes.directory import starts_over
from swarmctl.nodes.history import past_evaluations
from swarmctl.run.join_swarm import CharterMembership
from swarmctl.run.summary import next_steps, reached
from swarmctl.settings.resolve import Resolved
from swarmctl.terminal.progress import RunView, result
from swarmctl.terminal.views import Writer


def has_finished(files: NodeFiles) -> bool:
    """Whether a node's latest run ended after all of its rounds."""
    record = read_record(files.run)
    return ((record and record.stop) or {}).get("reason") == "done"


def finished(files: NodeFiles, resolved: Resolved, membership: CharterMembership | None) -> RunView | None:
    """Return the state of a node that has no rounds left; None if a run has something to do.

    A node with a repository on the hub always runs, because its last push may have failed. So does one that is about to
    join a swarm.
    """
    if membership is not None and not files.charter.exists():
        return None
    config, record = resolved.config, read_record(files.run)
    stop = (record and record.stop) or {}
    if starts_over(files, config) or config.hub.repo or not config.game.rounds or stop.get("reason") != "done":
        return None
    if (stop.get("round") or 0) < config.game.rounds:
        return None
    progress = RunView()
    for event in (*past_evaluations(files), stop):
        progress.apply(event)
    return progress


def say_finished(progress: RunView, resolved: Resolved, *, as_json: bool) -> Exit:
    """Print the result of a finished node and how to continue it."""
    say, node = Writer(sys.stderr), resolved.config.node.name
    say(f"Node {node} has already finished, so nothing was started. {reached(progress)}")
    rounds = progress.round or 0
    for line in next_steps(resolved, progress, rounds=rounds, first=False):
        say(line)
    if as_json:
        print(json.dumps(result(progress, node)), flush=True)
    return Exit.DONE
