"""``swarmctl completion``: install, uninstall, show."""

from typing import Annotated, Literal

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

ShellArgument = Annotated[
    Literal["bash", "zsh", "fish"] | None,
    typer.Argument(metavar="SHELL", help="bash, zsh or fish. [default: from $SHELL]"),
]
Overwrite = Annotated[bool, typer.Option("-y", "--yes", help="Overwrite a file not written by swarmctl.")]
Delete = Annotated[bool, typer.Option("-y", "--yes", help="Delete a file not written by swarmctl.")]
group = command_group(
    """Set up Tab completion for bash, zsh and fish.

    Completes commands, options, profiles and nodes.

    Examples:
      swarmctl completion install
      swarmctl completion show zsh
    """
)


@group.command("install")
def _install(shell: ShellArgument = None, yes: Overwrite = False, json: options.Json = False) -> None:
    """Install the completion script for a shell.

    Writes it where the shell looks for completions. Does not edit startup files.

    Examples:
      swarmctl completion install
      swarmctl completion install fish
    """
    from swarmctl.completion.install import install

    install(shell, yes=yes, as_json=json)


@group.command("uninstall")
def _uninstall(shell: ShellArgument = None, yes: Delete = False, json: options.Json = False) -> None:
    """Delete the installed completion script.

    Examples:
      swarmctl completion uninstall
      swarmctl completion uninstall zsh
    """
    from swarmctl.completion.install import uninstall

    uninstall(shell, yes=yes, as_json=json)


@group.command("show")
def _show(shell: ShellArgument = None) -> None:
    """Print the completion script.

    Examples:
      swarmctl completion show bash > ~/.swarmctl-completion.bash
      swarmctl completion show zsh > ~/.zfunc/_swarmctl
    """
    from swarmctl.completion.install import script, shell_in_use

    print(script(shell_in_use(shell)), end="")
