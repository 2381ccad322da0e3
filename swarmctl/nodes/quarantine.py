"""``swarmctl quarantine``: the peers and providers that a node does not learn from for now."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.journal.canary_log import Suspect, read_quarantine, write_quarantine
from hivemind_exp.swarm.identity import animal_name, is_peer_id
from swarmctl.nodes.history import rounds_finished
from swarmctl.nodes.lookup import readable
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.terminal.command_line import command
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer

ALL = "all"


def quarantine(name: str, *, lift: Sequence[str], as_json: bool) -> None:
    """Print who is quarantined, after lifting the quarantine of those in ``lift``, or of all.

    The node may be running: it reads the file before each round. Raises ConfigurationError if one of them is not
    quarantined.
    """
    files = readable(name)
    finished = rounds_finished(files) or 0
    held = tuple(each for each in read_quarantine(files.quarantine) if each.until > finished)
    known = {each.source for each in held}
    if unknown := [each for each in lift if each != ALL and each not in known]:
        raise ConfigurationError(
            f"node {name} has not quarantined {foreign(unknown[0])}", next=command(["quarantine", name])
        )
    lifted = known if ALL in lift else known.intersection(lift)
    left = tuple(each for each in held if each.source not in lifted)
    if lifted:
        with disk_errors(files.root):
            write_quarantine(files.quarantine, left)
    if as_json:
        print_json(node=name, round=finished, sources=[asdict(each) for each in left], lifted=sorted(lifted))
        return
    say = Writer(sys.stdout)
    for source in sorted(lifted):
        say(f"Node {name} learns from {_called(source)} again.")
    for each in left:
        say(f"{_called(each.source)}: quarantined since round {each.since}, until round {each.until}{_exact(each)}")
    if not left and not lifted:
        say(f"Node {name} has no quarantined peers or providers.")
    if left:
        say("To lift a quarantine:")
        say("  " + command(["quarantine", shlex.quote(name), "--lift", left[0].source if len(left) == 1 else ALL]))


def _called(source: str) -> str:
    return f"peer {animal_name(source)}" if is_peer_id(source) else f"provider {foreign(source)}"


def _exact(suspect: Suspect) -> str:
    """Return a peer's id, by which it can be named in a command."""
    return f" ({suspect.source})" if is_peer_id(suspect.source) else ""
