"""``swarmctl report``: write the page, print its data, or serve it while nodes train."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import Exit, UsageError
from swarmctl.nodes.lookup import existing_or_latest, node_names, readable
from swarmctl.paths import shown
from swarmctl.report.browser import open_in_browser
from swarmctl.report.report_data import PageData
from swarmctl.storage.disk_errors import checked_target, disk_errors
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer
from swarmctl.terminal.waiting import waiting

MOST_NODES = 8
"""The page has as many colors."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The command line of ``report``."""

    names: tuple[str, ...]
    output: str | None
    samples: int
    open: bool
    serve: bool
    port: int | None
    """The port to serve the page on; None chooses a free one."""
    as_json: bool
    yes: bool


def report(options: ReportOptions) -> Exit:
    """Do what the command line says. Raises ``NodeError``."""
    options = _with_port(options)
    _check(options)
    nodes = _nodes(options.names)
    found = PageData(nodes, options.samples)
    if options.serve:
        from swarmctl.report.server import serve

        return serve(found, options.port or 0, opens=options.open)
    if options.as_json:
        print_json(**found.read())
        return Exit.DONE
    target = None if options.output == "-" else _target(options, nodes)
    say = Writer(sys.stderr)
    with waiting(say, f"reading {several(len(nodes), 'node')}"):
        data = found.read()
        from swarmctl.report.page.build import page  # after the data: an error needs no template engine

        text = page(data)
    if target is None:
        sys.stdout.write(text)
        return Exit.DONE
    with disk_errors(target):
        atomic_write.write(target, text, None)
    print(shown(target))
    if options.open:
        if not open_in_browser(target.as_uri()):
            say("warning: found no browser to open it with.")
    else:
        say("To look at it, open this file in a browser, or repeat the command with --open.")
    return Exit.DONE


def _with_port(options: ReportOptions) -> ReportOptions:
    """Take ``--serve 8080`` as it is meant: a number that is no node's name is the port. Raises ``UsageError``."""
    numbers = [name for name in options.names if name.isdecimal() and name not in node_names()]
    if not options.serve or len(numbers) != 1:
        return options
    (port,) = map(int, numbers)
    if not 0 < port < 65536:
        raise UsageError(f"invalid port: {numbers[0]}. Use a whole number from 1 to 65535", next=_serve(options, 8080))
    if options.port not in (None, port):
        raise UsageError(f"two ports: --serve {port} and --port {options.port}", next=_serve(options, port))
    return replace(options, names=tuple(name for name in options.names if name != numbers[0]), port=port)


def _serve(options: ReportOptions, port: int) -> str:
    """Return the command that serves the page of the same nodes at a port."""
    names = [name for name in options.names if not name.isdecimal() or name in node_names()]
    return shlex.join(["swarmctl", "report", *names, "--serve", "--port", str(port)])


def _check(options: ReportOptions) -> None:
    if options.as_json and (options.output is not None or options.open or options.serve):
        raise UsageError("--json prints the data instead of a page; use it alone", next="swarmctl report --help")
    if options.serve and options.output is not None:
        raise UsageError("--serve writes no file; use either --serve or --output", next="swarmctl report --help")
    if options.port is not None and not options.serve:
        raise UsageError("--port needs --serve", next=f"swarmctl report --serve --port {options.port}")
    if options.open and options.output == "-":
        raise UsageError("--open needs a file, not standard output", next="swarmctl report --help")
    if len(set(options.names)) > MOST_NODES:
        raise UsageError(f"at most {MOST_NODES} nodes fit on a page", next="swarmctl report --help")


def _nodes(names: Sequence[str]) -> list[NodeFiles]:
    return [readable(name) for name in dict.fromkeys(names)] if names else [existing_or_latest(None)]


def _target(options: ReportOptions, nodes: Sequence[NodeFiles]) -> Path:
    """Return the file to write. A page of the same name that this command wrote before is replaced."""
    names = [files.root.name for files in nodes]
    path = Path(options.output or f"swarmctl-report-{'-'.join(names)}.html")
    again = shlex.join(["swarmctl", "report", *names, *(["-o", options.output] if options.output else []), "--yes"])
    target = checked_target(path, yes=options.yes or (options.output is None and _is_ours(path)), again=again)
    if not target.parent.is_dir():
        raise ConfigurationError(
            f"the directory {shown(target.parent)} does not exist", next=shlex.join(["mkdir", "-p", str(target.parent)])
        )
    return target


def _is_ours(path: Path) -> bool:
    """Whether a file is an earlier report."""
    try:
        with path.open("rb") as file:
            return b"swarmctl report" in file.read(4096)
    except OSError:
        return False
