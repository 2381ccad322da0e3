"""``swarmctl completion``: install, uninstall, show."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from swarmctl.terminal.help import GroupedCommands

ShellArgument = Annotated[
    Literal["bash", "zsh", "fish"] | None,
    typer.Argument(metavar="SHELL", help="bash, zsh or fish. [default: that of $SHELL]"),
]
YesOption = Annotated[bool, typer.Option("-y", "--yes", help="Also a file that swarmctl did not write.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(rich_markup_mode=None, cls=GroupedCommands)
    group.callback(invoke_without_command=True)(_group)
    group.command("install")(_install)
    group.command("uninstall")(_uninstall)
    group.command("show")(_show)
    app.add_typer(group, name="completion")


def _group(context: typer.Context) -> None:
    """Complete commands, options, profiles and nodes with the Tab key, in bash, zsh and fish.

    \b
    Examples:
      swarmctl completion install
      swarmctl completion show zsh
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


def _install(shell: ShellArgument = None, yes: YesOption = False, json: JsonOption = False) -> None:
    """Put the script where the shell looks for completions. No start-up file is edited.

    \b
    Examples:
      swarmctl completion install
      swarmctl completion install fish
    """
    from swarmctl.completion.install import install

    install(shell, yes=yes, as_json=json)


def _uninstall(shell: ShellArgument = None, yes: YesOption = False, json: JsonOption = False) -> None:
    """Remove what install wrote.

    \b
    Examples:
      swarmctl completion uninstall
      swarmctl completion uninstall zsh
    """
    from swarmctl.completion.install import uninstall

    uninstall(shell, yes=yes, as_json=json)


def _show(shell: ShellArgument = None) -> None:
    """Print the script, to be put anywhere.

    \b
    Examples:
      swarmctl completion show bash > ~/.swarmctl-completion.bash
      swarmctl completion show zsh > ~/.zfunc/_swarmctl
    """
    from swarmctl.completion.install import script, shell_in_use

    print(script(shell_in_use(shell)), end="")
