"""``swarmctl completion``: install, uninstall, show."""

from typing import Annotated, Literal

import typer

from swarmctl.terminal import options
from swarmctl.terminal.help import command_group

ShellArgument = Annotated[
    Literal["bash", "zsh", "fish"] | None,
    typer.Argument(metavar="SHELL", help="bash, zsh or fish. [default: that of $SHELL]"),
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Also a file that swarmctl did not write.")]
group = command_group(
    """Complete commands, options, profiles and nodes with the Tab key, in bash, zsh and fish.

    Examples:
      swarmctl completion install
      swarmctl completion show zsh
    """
)


@group.command("install")
def _install(shell: ShellArgument = None, yes: YesOption = False, json: options.Json = False) -> None:
    """Put the script where the shell looks for completions. No start-up file is edited.

    Examples:
      swarmctl completion install
      swarmctl completion install fish
    """
    from swarmctl.completion.install import install

    install(shell, yes=yes, as_json=json)


@group.command("uninstall")
def _uninstall(shell: ShellArgument = None, yes: YesOption = False, json: options.Json = False) -> None:
    """Remove what install wrote.

    Examples:
      swarmctl completion uninstall
      swarmctl completion uninstall zsh
    """
    from swarmctl.completion.install import uninstall

    uninstall(shell, yes=yes, as_json=json)


@group.command("show")
def _show(shell: ShellArgument = None) -> None:
    """Print the script, to be put anywhere.

    Examples:
      swarmctl completion show bash > ~/.swarmctl-completion.bash
      swarmctl completion show zsh > ~/.zfunc/_swarmctl
    """
    from swarmctl.completion.install import script, shell_in_use

    print(script(shell_in_use(shell)), end="")
