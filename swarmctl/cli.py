"""The command tree, and the one place where results and errors become text and an exit code.

Nothing heavy is imported here: commands import what they need when they run.
"""

import ast
import errno
import os
import re
import shlex
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.processes.kernel import hide_memory
from swarmctl.completion import cli as completion
from swarmctl.doctor import cli as doctor
from swarmctl.errors import Exit, UsageError, exit_code, print_error
from swarmctl.identity import cli as identity
from swarmctl.init import cli as init
from swarmctl.keys import cli as keys
from swarmctl.launch import cli as launch
from swarmctl.models import cli as models
from swarmctl.nodes import cli as nodes
from swarmctl.paths import HOME_VARIABLE
from swarmctl.profiles import cli as profiles
from swarmctl.report import cli as report
from swarmctl.rollouts import cli as rollouts
from swarmctl.run import cli as run_command
from swarmctl.service import cli as service
from swarmctl.storage.disk_errors import FULL, explained, is_about_temporary_files
from swarmctl.swarm import cli as swarm
from swarmctl.tasks import cli as tasks
from swarmctl.terminal import streams
from swarmctl.terminal.help import GroupedCommands
from swarmctl.terminal.prompter import Cancelled
from swarmctl.terminal.safe_text import hide_keys, looks_like_key
from swarmctl.terminal.suggest import nearest
from swarmctl.terminal.views import Writer
from swarmctl.trained import cli as trained
from swarmctl.version import VERSION

app = typer.Typer(
    name="swarmctl",
    cls=GroupedCommands,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,  # Typer's own starts Python at every Tab; see tools/completions
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"swarmctl {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    _version: Annotated[
        bool,
        typer.Option("-V", "--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Post-train a language model with GRPO, alone or in a swarm of peers.

    Examples:
      swarmctl init                  set up a node with a few questions, and start it
      swarmctl run --profile demo    train a tiny model in less than a minute, on any machine
      swarmctl run                   train the default model on this machine
      swarmctl doctor                check your setup and suggest fixes
      swarmctl profiles list         list the available profiles
    """
    if context.invoked_subcommand is None:
        print(context.get_help())


for command in (init, run_command, doctor, nodes, report, models, trained, launch):
    command.register(app)
for module in (profiles, keys, tasks, rollouts, swarm, identity, service, completion):
    app.add_typer(module.group, name=module.__name__.split(".")[1])  # named after its package
for name, group in {"profile": profiles.group, "key": keys.group}.items():  # aliases, hidden from help
    app.add_typer(group, name=name, hidden=True)


@cache
def tree() -> Any:
    """Return the tree of commands, whose type is not public. Building it takes most of the time of a short command."""
    return typer.main.get_command(app)


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code. Prints errors; never raises."""
    streams.open_closed()
    hide_memory()
    try:
        code = _run(arguments, as_json="--json" in arguments, verbose=not {"-v", "--verbose"}.isdisjoint(arguments))
        sys.stdout.flush()
    except OSError as error:  # from stdout
        streams.discard(sys.stdout)
        code = Exit.FAILED
        if not isinstance(error, BrokenPipeError):  # a reader that closed the pipe needs no error
            print_error(_no_output(error), as_json=False)
    if streams.is_broken(sys.stderr):
        streams.discard(sys.stderr)
    return code


_OF_OUTPUT = (*FULL, errno.EBADF, errno.EIO, errno.EPIPE)
"""Errors that mean that stdout cannot be written. Errors of files are reported where they occur."""


def _no_output(error: OSError) -> NodeError:
    kind = DiskFull if error.errno in FULL else NodeError
    reason = "it is closed" if error.errno == errno.EBADF else error.strerror
    return kind(f"cannot write to standard output: {reason}", next="df -h ." if kind is DiskFull else None)


def _run(arguments: Sequence[str], *, as_json: bool, verbose: bool) -> int:
    try:
        if sys.platform == "win32":
            raise NodeError("native Windows is not supported; use WSL 2", next="wsl --install")
        _check_directories()
        result = tree()(list(arguments), prog_name="swarmctl", standalone_mode=False)
        if result == Exit.INTERRUPTED and not isinstance(result, Exit):
            # Typer returns this code on Ctrl-C without printing anything. The newline ends the line that shows ^C.
            Writer(sys.stderr)("")
            Writer(sys.stderr)("Interrupted.")
        return result if isinstance(result, int) else Exit.DONE
    except Cancelled as choice:
        Writer(sys.stderr)(choice.message)
        return exit_code(choice)
    except NodeError as error:
        error.next = _corrected(error, arguments) or error.next
        print_error(error, as_json=as_json)
        return exit_code(error)
    except OSError as error:
        if error.filename is None and error.errno in _OF_OUTPUT:
            raise
        known = _refused_by_the_system(error)
        print_error(known, as_json=as_json)
        return exit_code(known)
    except (KeyboardInterrupt, typer.Abort):
        Writer(sys.stderr)("Interrupted.")
        return Exit.INTERRUPTED
    except Exception as error:  # last resort: one line instead of a traceback
        usage = _usage_error(error, arguments)
        if usage is None and verbose:
            raise
        print_error(usage or _defect(error), as_json=as_json)
        return Exit.USAGE if usage else Exit.FAILED


def _corrected(error: NodeError, arguments: Sequence[str]) -> str | None:
    """Return the command line with its misspelled settings corrected; None if there is none or it is unclear."""
    if not isinstance(error, ConfigurationError | UsageError):
        return None
    from swarmctl.settings.correction import corrected

    return corrected(error, arguments, os.environ)


def _check_directories() -> None:
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise NodeError("the current directory no longer exists", next="cd") from error
    home = os.environ.get(HOME_VARIABLE)
    if home and os.path.exists(path := os.path.expanduser(home)) and not os.path.isdir(path):
        raise ConfigurationError(f"{HOME_VARIABLE} is not a directory: {foreign(home)}", next=f"unset {HOME_VARIABLE}")


def _refused_by_the_system(error: OSError) -> NodeError:
    if error.filename is None and not is_about_temporary_files(error):
        return NodeError(f"the system refused an operation: {foreign(error)}")
    return explained(error, Path(os.fsdecode(error.filename or ".")), "access")


def _usage_error(error: Exception, arguments: Sequence[str]) -> UsageError | None:
    """Return Typer's error for a command line it cannot parse (its own class for that is not public)."""
    if getattr(error, "exit_code", None) != Exit.USAGE or not hasattr(error, "format_message"):
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context else _path(arguments)
    if unknown := re.match(r"No such command '(.*?)'", error.format_message()):
        meant = INTENDED_COMMANDS.get(" ".join([*path.split()[1:], unknown[1]]))
        if meant is not None:
            flag = _flag_for(arguments[1]) if meant == "swarmctl run" and len(arguments) == 2 else None
            following = f"{meant} {flag}" if flag else _with_arguments(meant, path, unknown[1], arguments)
            if unknown[1] == "help" and arguments[:1] == ["help"]:
                following = f"{_path(arguments[1:])} --help"
            return UsageError(f"unknown command '{unknown[1]}'; did you mean {meant}?", next=following)
    message = _invalid_value(error) or _reworded(hide_keys(error.format_message().rstrip(".")))
    extra = re.fullmatch(r"unexpected arguments: (\S+)", message) if path.endswith(" run") else None
    if extra and (flag := _flag_for(extra[1])):
        return UsageError(f"{message}; did you mean {flag}?", next=f"{path} {flag}")
    following = f"{path} --help"
    if unknown and (near := re.search(r"; did you mean (\S+)\?$", message)):
        following = _with_arguments(f"{path} {near[1]}", path, unknown[1], arguments)
    elif option := re.fullmatch(r"unknown option '(\S+)'; did you mean (\S+)\?", message):
        following = _with_option(option[2], option[1], arguments) or following
    return UsageError(message[:1].lower() + message[1:], next=following)


def _with_arguments(meant: str, path: str, word: str, arguments: Sequence[str]) -> str:
    """Return the command that was meant, with what was typed after it; with ``--help`` if it would not accept that.

    ``path``: the group in which there is no command ``word``.
    """
    group, help = path.split()[1:], _help_for(meant)
    rest = list(arguments[len(group) + 1 :])
    if (
        not rest
        or help == meant
        or list(arguments[len(group) : len(group) + 1]) != [word]
        or any(map(looks_like_key, rest))
    ):
        return help
    return f"{meant} {shlex.join(rest)}" if _is_accepted([*meant.split()[1:], *rest]) else help


def _with_option(meant: str, option: str, arguments: Sequence[str]) -> str | None:
    """Return the same command with the option that was meant; None if it would not be accepted either.

    What is typed after ``keys`` may be a key of any form, so it is not repeated.
    """
    if list(arguments[:1]) == ["keys"]:
        return None
    if _takes_value(option, "run") and not _takes_value(meant, *arguments):
        return None  # such as --device after ``doctor``: what follows is its value, not a node or a check
    words = [meant + word[len(option) :] if word.partition("=")[0] == option else word for word in arguments]
    right = words != list(arguments) and not any(map(looks_like_key, words)) and _is_accepted(words)
    return shlex.join(["swarmctl", *words]) if right else None


def _takes_value(option: str, *path: str) -> bool:
    """Whether a command has this option, and a value follows it. ``path``: the command, and perhaps its arguments."""
    command, words = tree(), list(path)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    return any(option in each.opts and not getattr(each, "is_flag", False) for each in command.params)


def _is_accepted(arguments: Sequence[str]) -> bool:
    """Whether a command line can be parsed. Runs nothing."""
    command, words, path = tree(), list(arguments), ["swarmctl"]
    while words and words[0] in getattr(command, "commands", {}):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    if hasattr(command, "commands"):
        return False
    try:
        command.make_context(" ".join(path), list(words), resilient_parsing=not {"-h", "--help"}.isdisjoint(words))
    except Exception as error:
        if getattr(error, "exit_code", None) != Exit.USAGE:
            raise
        return False
    return True


def _flag_for(word: str) -> str | None:
    """Return the option of ``run`` that a word belongs to, with the word; None if it is unclear."""
    from swarmctl.settings.command_line import flag_for

    return flag_for(word)


INTENDED_COMMANDS = {
    "help": "swarmctl --help",
    "version": "swarmctl --version",
    **dict.fromkeys(("setup", "configure"), "swarmctl init"),
    **dict.fromkeys(("list", "ls", "nodes"), "swarmctl status"),
    **dict.fromkeys(("start", "resume", "train"), "swarmctl run"),
    **dict.fromkeys(("kill", "quit", "exit", "halt", "end"), "swarmctl stop"),
    "join": "swarmctl swarm join",
    **dict.fromkeys(("tail", "log"), "swarmctl logs"),
    **dict.fromkeys(("remove", "delete"), "swarmctl rm"),
    **dict.fromkeys(("mv", "move"), "swarmctl rename"),
    "invite": "swarmctl swarm invite",
    "peers": "swarmctl swarm peers",
    "leave": "swarmctl swarm leave",
    **dict.fromkeys(("swarms", "swarm ls"), "swarmctl swarm list"),
    **dict.fromkeys(("reload", "reboot"), "swarmctl restart"),
    **dict.fromkeys(("keys add", "keys new", "keys save"), "swarmctl keys set"),
    **dict.fromkeys(("keys rm", "keys remove"), "swarmctl keys delete"),
    **dict.fromkeys(("profiles add", "profiles create"), "swarmctl profiles new"),
    **dict.fromkeys(("profiles rm", "profiles remove"), "swarmctl profiles delete"),
    **{f"{group} ls": f"swarmctl {group} list" for group in ("keys", "profiles", "tasks")},
    **dict.fromkeys(("identity list", "identity ls"), "swarmctl identity show"),
    **dict.fromkeys(("rollouts list", "rollouts ls"), "swarmctl rollouts show"),
    "swarm create": "swarmctl swarm new",
}
"""Words that people type as commands, and the commands that do it."""


def _help_for(command: str) -> str:
    return command if command in ("swarmctl --help", "swarmctl --version") else f"{command.partition(' --')[0]} --help"


def _path(arguments: Sequence[str]) -> str:
    """Return the command that a command line begins with."""
    commands, words = getattr(tree(), "commands", {}), ["swarmctl"]
    for word in arguments:
        if word not in commands:
            break
        commands = getattr(commands[word], "commands", {})
        words.append(word)
    return " ".join(words)


_REWORDED = (
    (r"No such command ('.*?')\. Did you mean '(.*?)'.*", r"unknown command \1; did you mean \2?"),
    (r"No such command ('.*')", r"unknown command \1"),
    (r"No such option: (.+)", r"unknown option '\1'"),
    (r"Option '(.*)' requires an argument", r"\1 needs a value"),
    (r"Option '(.*)' does not take a value", r"\1 takes no value"),
    (r"Got unexpected extra argument\(s\) \((.*)\)", r"unexpected arguments: \1"),
)
"""Typer's messages, and the wording that the other errors use. Only the closest of several names is suggested."""


def _reworded(message: str) -> str:
    if several := re.fullmatch(r"No such option: (\S+) \(Possible options: (.*)\)", message):
        names = several[2].split(", ")
        return f"unknown option '{several[1]}'; did you mean {nearest(several[1], names) or names[0]}?"
    for pattern, words in _REWORDED:
        if found := re.fullmatch(pattern, message, re.DOTALL):
            return found.expand(words)
    return message


_REJECTED = re.compile(r"(.*) is not (?:a valid |in the range |one of ).*", re.DOTALL)
"""How Typer rejects the value of an option. It quotes the value, unless that is a number out of range."""


def _invalid_value(error: Exception) -> str | None:
    """Return a message that shows an option's invalid value and what is allowed; None for any other error."""
    parameter, found = getattr(error, "param", None), _REJECTED.fullmatch(str(getattr(error, "message", "")))
    if parameter is None or found is None:
        return None
    from swarmctl.settings.allowed import choice, number, shown

    kind = parameter.type
    if choices := getattr(kind, "choices", None):
        phrase = choice(map(str, choices))
    elif kind.name.startswith(("int", "float")):
        noun = "a whole number" if kind.name.startswith("int") else "a number"
        phrase = number(noun, getattr(kind, "min", None), most=getattr(kind, "max", None))
    else:
        return None
    try:
        value = shown(ast.literal_eval(found[1]))
    except (ValueError, SyntaxError):
        value = shown(found[1])
    return f"invalid {'/'.join(parameter.opts)}: {value}. Use {phrase}"


def _defect(error: Exception) -> NodeError:
    """Return the error to print for a bug, whose traceback is saved in a file for the report."""
    import traceback

    from hivemind_exp import atomic_write
    from swarmctl.paths import crash_log, shown

    message = f"bug in swarmctl: {type(error).__name__}: {foreign(hide_keys(str(error)))}. Please report it"
    try:
        crash_log().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write.write(crash_log(), hide_keys("".join(traceback.format_exception(error))))
    except OSError:
        return NodeError(message)
    return NodeError(f"{message} with the traceback in {shown(crash_log())}")
