"""``swarmctl status`` and ``swarmctl logs``: how the nodes of this machine are, and what their trainers said."""

from typing import Annotated

import typer

from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the commands, and ``ps`` as another name for ``status`` that help does not show."""

    @app.command("ps", hidden=True)
    @app.command()
    def status(*, node: options.OneNode = None, json: options.Json = False) -> None:
        """Tell how the nodes of this machine are: running or not, how far, how accurate.

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
        lines: Annotated[int, typer.Option("-n", "--lines", min=0, metavar="N", help="How many lines.")] = 20,
        follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing what is added.")] = False,
        json: Annotated[bool, typer.Option("--json", help="Print events (JSON lines) instead of the log.")] = False,
    ) -> None:
        """Print what a node's trainer said last.

        Examples:
          swarmctl logs --node maths --follow
          swarmctl logs --json -n 100
        """
        from swarmctl.nodes.logs import print_log

        print_log(node, lines=lines, follow=follow, events=json)
