"""``swarmctl restart``: stop nodes and start them again in the background, with the settings of their last run."""

import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from hivemind_exp.errors import ConfigurationError, NodeError, from_code
from swarmctl.nodes.lookup import all_nodes, latest
from swarmctl.nodes.stop import choose, stop_all
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting


def restart(names: Sequence[str], *, every: bool, as_json: bool) -> None:
    """Restart the named nodes, every running one, or without a name the only running one.

    A named node that is not running is started. Raises UsageError if it is not clear which nodes are meant, and the
    NodeError of the first node that does not start, after all have been tried.
    """
    chosen = choose(names, every=every, command="restart")
    if not chosen:
        known = all_nodes()
        following = f"swarmctl restart {shlex.quote(latest(known).root.name)}" if known else "swarmctl run"
        raise ConfigurationError("no node is running; name the node to start", next=following)
    say, write = Writer(sys.stderr), Writer(sys.stdout)
    rows, failures = [], []
    for files in chosen:  # one at a time, so that only one of them is away at any moment
        (row,) = stop_all([files])
        try:
            row["pid"] = _start(row["node"], say)
        except NodeError as error:
            row["pid"] = None
            failures.append(error)
            if len(chosen) > 1 and not as_json:
                say(f"warning: node {row['node']} does not start: {error.message}")
        else:
            if not as_json and row["pid"] is not None:  # otherwise the run has said why it started nothing
                write(_sentence(row))
        rows.append(row)
    if failures:
        raise failures[0]
    if as_json:
        print_json(nodes=rows)


def _start(name: str, say: Writer) -> int | None:
    """Start a node in the background and return its pid; None if it has no rounds left. Raises the run's NodeError."""
    # The same program again, however it was started.
    program = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv[1:])]
    command = [*program, "run", "--node", name, "--detach", "--quiet", "--json"]
    with waiting(say, f"starting node {name}"):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    for line in done.stderr.splitlines():  # only now, because the line that shows the wait is gone
        say(line)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        answer = {}
    if done.returncode:
        error = answer.get("error") or {}
        raise from_code(error.get("code"), error.get("message") or f"node {name} did not start", error.get("next"))
    pid = answer.get("pid")
    return pid if isinstance(pid, int) else None


def _sentence(row: dict[str, Any]) -> str:
    node, after = row["node"], f" after {several(row['round'], 'round')}" if row["round"] else ""
    word = "Restarted" if row["was_running"] else "Started"
    return f"{word} node {node}{after}. It runs in the background (pid {row['pid']})."
