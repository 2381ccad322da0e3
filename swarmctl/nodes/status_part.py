"""``swarmctl status``: how the nodes of this machine are."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command, and ``ps`` as another name that help does not show."""

    @app.command("ps", hidden=True)
    @app.command()
    def status(
        *,
        node: Annotated[str | None, typer.Option(metavar="NODE", help="One node. [default: all]")] = None,
        json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Tell how the nodes of this machine are: running or not, how far, how accurate.

        \b
        Examples:
          swarmctl status
          swarmctl status --node maths --json
        """
        from swarmctl.nodes.status import print_status

        print_status(node, as_json=json)
