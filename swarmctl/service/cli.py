"""``swarmctl service``: install, uninstall, status; and ``run``, which services call."""

from typing import Annotated

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

group = command_group(
    """Run nodes as services, which start after a reboot.

    Uses systemd on Linux and launchd on a Mac. For containers, prints a file for Docker Compose.

    Examples:
      swarmctl service install maths
      swarmctl service status
      swarmctl service install maths --print compose > compose.yaml
    """
)
_Node = Annotated[str, typer.Argument(metavar="NODE", help="Node name.")]


@group.command("install")
def _install(
    node: _Node,
    key: Annotated[
        list[str] | None,
        typer.Option("--key", metavar="NAME=FILE", help="A file with a key that the service needs (repeatable)."),
    ] = None,
    print_: Annotated[
        str | None,
        typer.Option("--print", metavar="KIND", help="Only print the file: systemd, launchd or compose."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Run a node as a service, now and after every reboot.

    The service resumes the node with the settings of its last run, and restarts it after failures. It never spends more
    than the node's cap. Run the node once first.

    Examples:
      swarmctl service install maths
      swarmctl service install maths --key openai=~/.openai-key
      swarmctl service install maths --print systemd
    """
    from swarmctl.errors import UsageError
    from swarmctl.service.command import Manager, install

    if print_ is not None and print_ not in {*Manager}:
        raise UsageError(
            f"invalid --print: {print_!r}. Use systemd, launchd or compose", next="swarmctl service install --help"
        )
    install(node, key or (), printed=None if print_ is None else Manager(print_), as_json=json)


@group.command("uninstall")
def _uninstall(node: _Node, json: options.Json = False) -> None:
    """Stop and delete a node's service; the node stays.

    Examples:
      swarmctl service uninstall maths
      swarmctl service uninstall maths --json
    """
    from swarmctl.service.command import uninstall

    uninstall(node, as_json=json)


@group.command("status")
def _status(
    node: Annotated[str | None, typer.Argument(metavar="NODE", help="Node name. [default: all]")] = None,
    json: options.Json = False,
) -> None:
    """Show which nodes run as services.

    Examples:
      swarmctl service status
      swarmctl service status maths --json
    """
    from swarmctl.service.command import status

    status(node, as_json=json)


@group.command("run", hidden=True)
def _run(
    node: _Node,
    zero_if_final: Annotated[
        bool,
        typer.Option("--zero-if-final", help="Exit with 0 if a restart would not help."),
    ] = False,
) -> int:
    """Run a node as its service does.

    Never prompts, and restarts the trainer after failures. launchd and Docker restart a service after any exit code but
    0, so with --zero-if-final the command ends with 0 where another start would fail again.

    Examples:
      swarmctl service run maths
      swarmctl service run maths --zero-if-final
    """
    from swarmctl.service.command import run

    return run(node, zero_if_final=zero_if_final)
