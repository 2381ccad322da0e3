"""Install and uninstall completion scripts where each shell looks for them."""

import os
import shlex
import sys
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.errors import ConfigurationError, NodeError
from swarmctl.errors import UsageError
from swarmctl.paths import COMPLETIONS, shown
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.views import Writer

SHELLS = ("bash", "zsh", "fish")
MARKER = "Made by `python -m tools.completions` from the command tree of swarmctl; do not edit."
"""A line in every script. A file without it is not overwritten or deleted."""


def _is_ours(path: Path) -> bool:
    """Whether swarmctl wrote the file. False for a symbolic link, which swarmctl never makes."""
    try:
        return not path.is_symlink() and MARKER in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def script(shell: str) -> str:
    """Return the completion script for a shell."""
    return (COMPLETIONS / f"swarmctl.{shell}").read_text(encoding="utf-8")


def shell_in_use(named: str | None) -> str:
    """Return the named shell, or the one in ``$SHELL``. Raises UsageError if it is not supported."""
    found = named or Path(os.environ.get("SHELL", "")).name
    if found not in SHELLS:
        what = f"no completion for shell {found!r}" if found else "cannot detect your shell: $SHELL is not set"
        raise UsageError(f"{what}. Name one: {', '.join(SHELLS)}", next="swarmctl completion --help")
    return found


def _directory(variable: str, default: str) -> Path:
    value = os.environ.get(variable, "")
    return Path(value) if os.path.isabs(value) else Path.home() / default


def places(shell: str) -> list[Path]:
    """Return where the script may be installed; the first path is for a new one."""
    data = _directory("XDG_DATA_HOME", ".local/share")
    if shell == "bash":
        return [data / "bash-completion/completions/swarmctl"]
    if shell == "fish":
        return [_directory("XDG_CONFIG_HOME", ".config") / "fish/completions/swarmctl.fish"]
    paths = [data / "zsh/site-functions/_swarmctl", Path.home() / ".zfunc/_swarmctl"]
    return paths[::-1] if paths[1].parent.is_dir() else paths


def install(named: str | None, *, yes: bool, as_json: bool) -> None:
    """Write the script. Raises ConfigurationError if the path holds a file that swarmctl did not write."""
    shell = shell_in_use(named)
    path = places(shell)[0]
    text = script(shell)
    ours = _is_ours(path)
    if os.path.lexists(path) and not ours and not yes:
        raise ConfigurationError(
            f"{shown(path)} exists and was not written by swarmctl", next=f"swarmctl completion install {shell} --yes"
        )
    current = ours and path.read_text(encoding="utf-8") == text
    if not current:
        _write(path, text)
    if as_json:
        print_json(shell=shell, path=str(path), changed=not current)
    else:
        say = Writer(sys.stdout)
        say(f"{'Already installed' if current else 'Wrote'}: {shown(path)}")
        for line in _next(shell, path).splitlines():
            say(line)


def _write(path: Path, text: str) -> None:
    try:
        # The mode is explicit because zsh loads nothing from group-writable directories, which some umasks create.
        for directory in reversed(path.parents):
            directory.mkdir(mode=0o755, exist_ok=True)
        atomic_write.write(path, text, atomic_write.READABLE)
    except OSError as error:
        raise NodeError(
            f"cannot write {shown(path)}: {error.strerror}", next="swarmctl completion show --help"
        ) from error


def _next(shell: str, path: Path) -> str:
    """Return what is left to do. For bash and zsh, it concerns a start-up file, which swarmctl does not edit."""
    if shell == "fish":
        return "Completion now works in every fish shell, including this one."
    if shell == "bash":
        return (
            "Completion works in new shells if bash-completion is installed. If not, add this line to ~/.bashrc:\n"
            f"  source {shlex.quote(str(path))}"
        )
    return (
        "Completion works in new shells once ~/.zshrc has these lines (the first before any other compinit):\n"
        f"  fpath=({shlex.quote(str(path.parent))} $fpath)\n"
        "  autoload -Uz compinit && compinit"
    )


def uninstall(named: str | None, *, yes: bool, as_json: bool) -> None:
    """Delete the script. Raises ConfigurationError if swarmctl wrote none of the existing files."""
    shell = shell_in_use(named)
    there = [path for path in places(shell) if os.path.lexists(path)]
    removed = [path for path in there if yes or _is_ours(path)]
    if there and not removed:
        raise ConfigurationError(
            f"{shown(there[0])} was not written by swarmctl", next=f"swarmctl completion uninstall {shell} --yes"
        )
    for path in removed:
        try:
            path.unlink()
        except OSError as error:
            raise NodeError(f"cannot delete {shown(path)}: {error.strerror}") from error
    say = Writer(sys.stdout)
    if as_json:
        print_json(shell=shell, removed=[str(path) for path in removed])
    elif removed:
        for path in removed:
            say(f"Deleted: {shown(path)}")
        say("Open shells keep it until you close them.")
    else:
        say(f"Nothing to delete: {shown(places(shell)[0])} does not exist.")
