"""The arguments of ``swarmctl report``, which writes or serves a page about a node."""

from typing import Annotated

import typer

from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command()
    def report(
        names: Annotated[
            list[str] | None, typer.Argument(metavar="[NODE]...", help="Node names. [default: the latest]")
        ] = None,
        *,
        output: Annotated[
            str | None,
            typer.Option(
                "-o",
                "--output",
                metavar="FILE",
                help="File to write, or - for stdout. [default: swarmctl-report-NODE.html]",
            ),
        ] = None,
        open_: Annotated[bool, typer.Option("--open", help="Open the page in your browser.")] = False,
        serve: Annotated[
            bool,
            typer.Option(
                "--serve",
                help="Serve the page on this machine and keep it up to date until Ctrl-C. Takes a port: --serve 8080.",
            ),
        ] = False,
        port: Annotated[
            int | None,
            typer.Option(
                "--port", min=1, max=65535, metavar="PORT", help="With --serve: the port. [default: a free one]"
            ),
        ] = None,
        samples: Annotated[
            int, typer.Option("--samples", min=0, max=100, metavar="N", help="Sample rollouts per node.")
        ] = 6,
        yes: Annotated[
            bool,
            typer.Option(
                "-y", "--yes", help="Overwrite an existing file. Without -o, an earlier report needs no --yes."
            ),
        ] = False,
        json: options.Json = False,
    ) -> int:
        """Write a page that shows what nodes learned, and at what cost.

        The page is one HTML file that loads nothing from elsewhere. It shows accuracy with intervals, rewards by source
        and term, lengths, entropy, gradients, time, money, peers, sample rollouts and settings. Several nodes are shown
        side by side. API keys, invitations and what looks like a key are hidden. The nodes can be running.

        \b
        Examples:
          swarmctl report maths --open
          swarmctl report maths tea -o comparison.html
          swarmctl report maths --serve 8080
          swarmctl report maths --json
        """
        from swarmctl.report.command import ReportOptions
        from swarmctl.report.command import report as make

        return make(ReportOptions(tuple(names or ()), output, samples, open_, serve, port, json, yes))
