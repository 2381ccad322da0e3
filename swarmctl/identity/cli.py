"""``swarmctl identity``: show, new, backup, restore."""

from pathlib import Path
from typing import Annotated

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

NodeOption = Annotated[
    str | None, typer.Option("--node", metavar="NODE", help="Node. [default: the only one there is]")
]
group = command_group(
    """Show, make, save and restore who a node is in its swarm: a key, and an animal's name.

    Joining a swarm makes an identity where there is none. Whoever has its key is this node.

    Examples:
      swarmctl identity show
      swarmctl identity backup otter.txt --node maths
    """
)


@group.command("show")
def _show(node: options.OneNode = None, json: options.Json = False) -> int:
    """Tell who the nodes of this machine are. Shows no key. Exit code 3 where a key cannot be used.

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
    """Make an identity for a node, in place of the one it may have.

    Peers then meet a stranger: contribution and reputation begin anew. Asks before it replaces a key.

    Examples:
      swarmctl identity new --node maths
      swarmctl identity new --node maths --yes
    """
    from swarmctl.identity.new import new
    from swarmctl.terminal.prompter import Prompter

    new(node, Prompter(yes=yes, silent=no_input or json), as_json=json)


@group.command("backup")
def _backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; only you will be able to read it.")],
    *,
    node: NodeOption = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Lock it: asked unseen, or piped in.")] = False,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Write over a file.")] = False,
    no_input: options.NoInput = False,
    json: options.JsonAskingNothing = False,
) -> None:
    """Save a node's identity in a file, to be kept somewhere else.

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
    """Give a node the identity in a backup. A node that is not there yet is made.

    A passphrase is asked unseen, or piped in. Asks before it replaces another key; refused while a node that lives as
    this one is running.

    Examples:
      swarmctl identity restore otter.txt
      swarmctl identity restore otter.txt --node maths
      pass show otter | swarmctl identity restore otter.txt --node maths
    """
    from swarmctl.identity.backup import restore
    from swarmctl.terminal.prompter import Prompter

    restore(file, node, Prompter(yes=yes, silent=no_input or json), as_json=json)
