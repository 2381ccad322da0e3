"""The command with which a node that is not running continues."""

import json
import shlex
from contextlib import suppress

from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import RunRecord, read_record


def rounds_done(files: NodeFiles) -> int:
    """Return how many rounds a node had finished when it ended because it had none left; 0 if it has something to do.

    A node that starts over at every run always has.
    """
    stop = (read_record(files.run) or RunRecord()).stop or {}
    if stop.get("reason") != "done" or _starts_over(files):
        return 0
    return int(stop.get("round") or 0)


def resume_command(files: NodeFiles) -> str:
    """Return the command with which a node continues: with more rounds if it has finished those it had."""
    command = ["swarmctl", "run", "--node", files.root.name]
    done = rounds_done(files)
    return shlex.join([*command, "--rounds", str(2 * done)] if done else command)


def _starts_over(files: NodeFiles) -> bool:
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        return bool(json.loads(files.config.read_bytes())["config"]["node"]["fresh"])
    return False
