"""``swarmctl status`` and ``swarmctl logs``: the state of this machine's nodes, and their trainers' logs."""

from typing import Annotated

import typer

from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the commands, and ``ps`` as a hidden alias of ``status``."""

    @app.command("ps", hidden=True)
    @app.command()
    def status(*, node: options.OneNode = None, json: options.Json = False) -> None:
        """Show the state of the nodes on this machine.

        Examples:
          swarmctl status
          swarmctl status --node maths --json
        """
        from swarmctl.nodes.status import print_status

        print_status(node, as_json=json)

    @app.command()
    def logs(
        *,
        node: options.LatestNode = None,
        lines: Annotated[int, typer.Option("-n", "--lines", min=0, metavar="N", help="Number of lines.")] = 20,
        follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing new lines.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print events (JSON lines) instead of the log.")] = False,
    ) -> None:
        """Print the end of a node's log.

        Examples:
          swarmctl logs --node maths --follow
          swarmctl logs --json -n 100
        """
        from swarmctl.nodes.logs import print_log

        print_log(node, lines=lines, follow=follow, events=json)
