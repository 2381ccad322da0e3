"""``swarmctl backup``, ``restore``, ``upgrade`` and ``quarantine``."""

from pathlib import Path
from typing import Annotated

import typer

from swarmctl.terminal import options


def register_recovery(app: typer.Typer) -> None:
    """Add the commands."""

    @app.command()
    def backup(
        name: Annotated[str, typer.Argument(metavar="NODE", help="Node name.")],
        file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write. Only you will be able to read it.")],
        *,
        yes: Annotated[bool, typer.Option("-y", "--yes", help="Overwrite an existing file.")] = False,
        json: options.Json = False,
    ) -> None:
        """Save a whole node to a file.

        The node can be running. The file contains the node's newest checkpoint, settings, journal, ledger and identity
        key, and the secret that chooses its held-out questions. It contains no API keys and none of your question
        files. Anyone who can read the file can impersonate the node.

        \b
        Examples:
          swarmctl backup maths maths.backup
          swarmctl backup maths /mnt/disk/maths.backup --yes --json
        """
        from swarmctl.nodes.backup import backup as save

        save(name, file, yes=yes, as_json=json)

    @app.command()
    def restore(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `swarmctl backup` wrote.")],
        *,
        as_: Annotated[
            str | None, typer.Option("--as", metavar="NAME", help="Create another node, with a new identity.")
        ] = None,
        json: options.Json = False,
    ) -> None:
        """Restore a node from a backup.

        Without --as, the node keeps its name and identity. If an older copy of it is running in the swarm, that copy
        stops within a minute. With --as, the node gets a new name and identity. In both cases, what it has already
        spent counts toward its cap.

        \b
        Examples:
          swarmctl restore maths.backup
          swarmctl restore maths.backup --as algebra
        """
        from swarmctl.nodes.restore import restore as put_back

        put_back(file, as_name=as_, as_json=json)

    @app.command()
    def upgrade(
        name: Annotated[str, typer.Argument(metavar="NODE", help="Node name.")],
        *,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
        json: options.Json = False,
    ) -> None:
        """Bring an older node's files to the current format.

        A node's next run does the same. A copy of the files that change is kept in the node's directory.

        \b
        Examples:
          swarmctl upgrade maths --dry-run
          swarmctl upgrade maths
        """
        from swarmctl.nodes.upgrade import upgrade as bring_up_to_date

        bring_up_to_date(name, dry_run=dry_run, as_json=json)

    @app.command()
    def quarantine(
        name: Annotated[str, typer.Argument(metavar="NODE", help="Node name.")],
        *,
        lift: Annotated[
            list[str] | None,
            typer.Option("--lift", metavar="WHO", help="Learn from this peer id or provider again, or from all."),
        ] = None,
        json: options.Json = False,
    ) -> None:
        """Show which peers and providers a node does not learn from.

        If the accuracy on held-out questions falls, the node restores its last good weights. For the next 50 rounds, it
        ignores the peers and providers that it has learned from since. The node can be running.

        \b
        Examples:
          swarmctl quarantine maths
          swarmctl quarantine maths --lift all
          swarmctl quarantine maths --lift openai --json
        """
        from swarmctl.nodes.quarantine import quarantine as show

        show(name, lift=lift or (), as_json=json)
