"""``swarmctl rm``: delete nodes and everything they learned."""

import shlex
import sys
from collections.abc import Sequence

from hivemind_exp.errors import ConfigurationError, NodeError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.spending import spent_so_far
from swarmctl.nodes.history import rounds_finished
from swarmctl.nodes.installed_service import refuse_with_service
from swarmctl.nodes.lineage import remember
from swarmctl.nodes.lookup import existing
from swarmctl.nodes.rename import at_rest
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.staging import discard
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer


def remove(names: Sequence[str], *, yes: bool, no_input: bool, as_json: bool) -> None:
    """Delete nodes after one question. Raises NodeError before anything is deleted if one is unknown or in use."""
    nodes = [existing(name) for name in dict.fromkeys(names)]
    words = shlex.join(names)
    for files in nodes:
        refuse_with_service(files, "deleted")
        with at_rest(files):
            pass
    listed = "; ".join(map(_loses, nodes))
    Prompter(yes=yes, silent=no_input or as_json).confirm(
        f"This deletes {listed}. It cannot be undone. Continue?",
        ConfigurationError(
            f"deleting {listed} needs confirmation; nothing was deleted", next=f"swarmctl rm {words} --yes"
        ),
        "Nothing was deleted.",
    )
    for files in nodes:
        _delete(files)
    if as_json:
        print_json(deleted=[files.root.name for files in nodes])
        return
    write = Writer(sys.stdout)
    for files in nodes:
        write(f"Deleted node {files.root.name}.")


def _loses(files: NodeFiles) -> str:
    """Return what is lost with a node."""
    parts = []
    if rounds := rounds_finished(files):
        parts.append(f"its model after {several(rounds, 'round')}")
    if files.charter.exists():
        parts.append("its identity in its swarm")
    try:
        spent = spent_so_far(files) > 0
    except NodeError:  # a node can be deleted even if its ledger is damaged or the disk is full
        spent = True
    if spent:
        parts.append("the record of what it has spent, so a cap would start over")
    details = f" ({', '.join(parts)})" if parts else ""
    return f"node {files.root.name}{details}"


def _delete(files: NodeFiles) -> None:
    """Delete a node's directory. It vanishes at once; its files are deleted afterwards."""
    with at_rest(files), disk_errors(files.root, "delete"):
        if files.root.is_symlink():
            files.root.unlink()
            return
        remember(files)
        discard(files.root)
