"""Checkpoints: whether the newest of each node can be trusted, and what was set aside as damaged."""

import shlex
from pathlib import Path

from hivemind_exp.trainer.checkpoints import DAMAGED, damage
from swarmctl.doctor.check import Context, Finding, bytes_in, ok, quoted, warning
from swarmctl.doctor.checks.swarm import nodes
from swarmctl.paths import shown
from swarmctl.storage import node_lock as locks
from swarmctl.terminal.sentences import size

QUICK = 256 * 2**20
"""Bytes in all whose digests are computed without --deep; more would take seconds."""


def checkpoints(context: Context) -> Finding:
    """Verify the newest checkpoint of every node that does not run, and count those set aside."""
    verified, unread, left = 0, 0, QUICK
    aside: list[Path] = []
    for files in nodes(context):
        aside += sorted(files.checkpoints.glob(f"{DAMAGED}*"))
        newest = max((path for path in files.checkpoints.glob("[0-9]*") if path.name.isdigit()), default=None)
        if newest is None or locks.is_held(files.lock):
            continue
        left -= bytes_in(newest)
        if left < 0 and not context.deep:
            unread += 1
            continue
        problem = damage(newest)
        if problem is not None:
            return warning(
                f"checkpoint {newest.name} of node {files.root.name} is damaged ({problem}): the next run sets it "
                "aside and goes on from the one before",
                f"swarmctl run --node {shlex.quote(files.root.name)}",
            )
        verified += 1
    if aside:
        held = sum(map(bytes_in, aside))
        return warning(
            f"{len(aside)} damaged checkpoints were set aside and hold {size(held)}, such as {shown(aside[0])}",
            f"rm -r {quoted(aside)}",
        )
    large = f"; {unread} large ones are read only with --deep" if unread else ""
    return ok(f"intact: the newest of {verified} node(s){large}" if verified or unread else "none yet")
