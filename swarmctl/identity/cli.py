"""``swarmctl identity``: show, new, backup, restore."""

from pathlib import Path
from typing import Annotated

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

NodeOption = Annotated[str | None, typer.Option("--node", metavar="NODE", help="Node to use. [default: the only one]")]
group = command_group(
    """Show, create, back up and restore node identities.

    Peers know a node by its identity: a key, and an animal name derived from it. A node without an identity gets one
    when it joins a swarm. Anyone who has the key can impersonate the node.

    Examples:
      swarmctl identity show
      swarmctl identity backup otter.txt --node maths
    """
)


@group.command("show")
def _show(node: options.OneNode = None, json: options.Json = False) -> int:
    """Show the identities of this machine's nodes.

    Never shows a key. Exits with code 3 if a key cannot be used.

    Examples:
      swarmctl identity show
      swarmctl identity show --node maths --json
    """
    from swarmctl.identity.show import show

    return show(node, as_json=json)


@group.command("new")
def _new(
    *,
    node: NodeOption = None,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
    json: options.JsonAskingNothing = False,
) -> None:
    """Create a new identity for a node.

    Asks before it replaces an identity. Peers do not recognize the node afterwards: its contribution and reputation
    start from zero.

    Examples:
      swarmctl identity new --node maths
      swarmctl identity new --node maths --yes
    """
    from swarmctl.identity.new import new
    from swarmctl.terminal.prompter import Prompter

    new(node, Prompter(yes=yes, silent=no_input or json), as_json=json)


@group.command("backup")
def _backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write. Only you will be able to read it.")],
    *,
    node: NodeOption = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Encrypt it with a passphrase (hidden prompt or stdin).")
    ] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Overwrite an existing file.")] = False,
    no_input: options.NoInput = False,
    json: options.JsonAskingNothing = False,
) -> None:
    """Save a node's identity to a file.

    Keep the file on another machine.

    Examples:
      swarmctl identity backup otter.txt
      swarmctl identity backup otter.txt --node maths --passphrase
      pass show otter | swarmctl identity backup otter.txt --passphrase
    """
    from swarmctl.identity.backup import backup
    from swarmctl.terminal.prompter import Prompter

    prompter = Prompter(yes=yes, silent=no_input or json)
    backup(file, node, prompter, yes=yes, locked=passphrase, as_json=json)


@group.command("restore")
def _restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup, or a copy of a node's identity.key.")],
    *,
    node: NodeOption = None,
    yes: options.Yes = False,
    no_input: options.NoInput = False,
    json: options.JsonAskingNothing = False,
) -> None:
    """Restore a node's identity from a backup.

    Creates the node if it does not exist. If the backup has a passphrase, enter it at the hidden prompt or on stdin.
    Asks before it replaces another identity. Fails while a node with the restored identity is running.

    Examples:
      swarmctl identity restore otter.txt
      swarmctl identity restore otter.txt --node maths
      pass show otter | swarmctl identity restore otter.txt --node maths
    """
    from swarmctl.identity.backup import restore
    from swarmctl.terminal.prompter import Prompter

    restore(file, node, Prompter(yes=yes, silent=no_input or json), as_json=json)
