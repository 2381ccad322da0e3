"""The arguments of the commands about this machine's nodes: ``swarmctl status``, ``logs``, ``stop`` and others."""

from typing import Annotated

import typer

from swarmctl.errors import Exit
from swarmctl.nodes.recovery_cli import register_recovery
from swarmctl.terminal import options


def register(app: typer.Typer) -> None:
    """Add the commands, and ``ps`` as a hidden alias of ``status``."""
    register_recovery(app)

    @app.command("ps", hidden=True)
    @app.command()
    def status(
        names: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Node names.")] = None,
        *,
        node: options.OneNode = None,
        watch: Annotated[bool, typer.Option("--watch", help="Update every 2 seconds, until Ctrl-C.")] = False,
        json: options.Json = False,
    ) -> int:
        """Show the state of the nodes on this machine.

        \b
        Examples:
          swarmctl status
          swarmctl status maths tea --watch
          swarmctl status --json
        """
        from swarmctl.nodes.status import print_status, watch_status

        wanted = [*(names or ()), *([] if node is None else [node])]
        if watch and not json:
            return watch_status(wanted)
        print_status(wanted, as_json=json)
        return Exit.DONE

    @app.command()
    def stop(
        names: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Node names.")] = None,
        *,
        all_: Annotated[bool, typer.Option("--all", help="Stop every running node.")] = False,
        json: options.Json = False,
    ) -> None:
        """Save and stop running nodes.

        Works like Ctrl-C in the node's terminal, and waits until the node has stopped. Without a name, stops the only
        running node. To resume a node, use `swarmctl run --node NODE`.

        \b
        Examples:
          swarmctl stop
          swarmctl stop maths tea
          swarmctl stop --all --json
        """
        from swarmctl.nodes.stop import stop as stop_nodes

        stop_nodes(names or (), every=all_, as_json=json)

    @app.command()
    def restart(
        names: Annotated[list[str] | None, typer.Argument(metavar="[NODE]...", help="Node names.")] = None,
        *,
        all_: Annotated[bool, typer.Option("--all", help="Restart every running node.")] = False,
        json: options.Json = False,
    ) -> None:
        """Stop nodes and start them again in the background.

        Nodes keep the settings of their last run. If you name a node that is not running, it is started. Without a
        name, restarts the only running node.

        \b
        Examples:
          swarmctl restart
          swarmctl restart maths tea
          swarmctl restart --all --json
        """
        from swarmctl.nodes.restart import restart as restart_nodes

        restart_nodes(names or (), every=all_, as_json=json)

    @app.command()
    def rename(
        name: Annotated[str, typer.Argument(metavar="NODE", help="Node name.")],
        new: Annotated[str, typer.Argument(metavar="NEW", help="Its new name.")],
        *,
        json: options.Json = False,
    ) -> None:
        """Rename a node.

        The node keeps its model, its identity and everything else. It must not be running.

        \b
        Examples:
          swarmctl rename default maths
          swarmctl rename maths algebra --json
        """
        from swarmctl.nodes.rename import rename as rename_node

        rename_node(name, new, as_json=json)

    @app.command()
    def fork(
        name: Annotated[str, typer.Argument(metavar="NODE", help="Node name.")],
        new: Annotated[str, typer.Argument(metavar="NEW", help="Name of the new node.")],
        *,
        at: Annotated[
            int | None, typer.Option("--at", min=1, metavar="STEP", help="Checkpoint to use. [default: the newest]")
        ] = None,
        json: options.Json = False,
    ) -> None:
        """Create a node that continues from another's checkpoint.

        The new node has the same model, tasks and history, and its own spending and cap. Run it with other settings to
        compare them. The other node may be running.

        \b
        Examples:
          swarmctl fork maths bolder
          swarmctl run --node bolder --set train.learning_rate=1e-5
          swarmctl fork maths earlier --at 100
        """
        from swarmctl.nodes.fork import fork as fork_node

        fork_node(name, new, at=at, as_json=json)

    @app.command()
    def rm(
        names: Annotated[list[str], typer.Argument(metavar="NODE...", help="Node names.")],
        *,
        yes: options.Yes = False,
        no_input: options.NoInput = False,
        json: options.JsonAskingNothing = False,
    ) -> None:
        """Delete nodes and everything they learned.

        Asks first. Running nodes must be stopped before they can be deleted.

        \b
        Examples:
          swarmctl rm maths
          swarmctl rm maths tea --yes
        """
        from swarmctl.nodes.remove import remove

        remove(names, yes=yes, no_input=no_input, as_json=json)

    @app.command()
    def logs(
        name: options.NodeName = None,
        *,
        node: options.LatestNode = None,
        lines: Annotated[
            int, typer.Option("-n", "--lines", "--tail", min=0, metavar="N", help="Number of lines.")
        ] = 20,
        follow: Annotated[bool, typer.Option("-f", "--follow", help="Keep printing new lines.")] = False,
        since: Annotated[
            str | None, typer.Option(metavar="TIME", help="Only lines since TIME: 30m, 2h, 14:05 or 2026-11-28T14:05.")
        ] = None,
        level: Annotated[
            options.Level, typer.Option(metavar="LEVEL", help="Lowest severity to print: info, warning or error.")
        ] = options.Level.INFO,
        raw: Annotated[
            bool, typer.Option("--raw", help="Print the output of the trainer and its libraries instead.")
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines.")] = False,
    ) -> int:
        """Print what a node did: rounds, evaluations, warnings and errors.

        \b
        Examples:
          swarmctl logs
          swarmctl logs maths --follow
          swarmctl logs maths --since 2h --level warning
          swarmctl logs --json --tail 100
          swarmctl logs maths --raw
        """
        from swarmctl.nodes import logs as printing
        from swarmctl.nodes.lookup import one_name
        from swarmctl.terminal.interrupting import end_line

        wanted = one_name(name, node)
        try:
            if raw:
                printing.print_trainer_output(wanted, lines=lines, follow=follow)
            else:
                printing.print_log(wanted, lines=lines, follow=follow, since=since, level=level, as_json=json)
        except KeyboardInterrupt:  # the way to end --follow, so nothing is said
            end_line()
            return Exit.INTERRUPTED
        return Exit.DONE
