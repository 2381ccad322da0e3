"""How swarmctl must be typed on this machine, so that every command it prints works when pasted."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

NAME = "swarmctl"
_START = re.compile(r"((?:[A-Za-z_][A-Za-z0-9_]*=\S* )*)swarmctl(?= |$)")


def _same(found: str | None, path: Path) -> bool:
    return found is not None and os.path.realpath(found) == os.path.realpath(path)


def launcher() -> str:
    """Return ``swarmctl`` if that name on PATH is this program, else a command that starts this program."""
    program = Path(sys.argv[0])
    if program.name == NAME:
        return NAME if _same(shutil.which(NAME), program) else shlex.quote(os.path.abspath(program))
    beside = Path(sys.executable).with_name(NAME)
    if beside.exists():
        return NAME if _same(shutil.which(NAME), beside) else shlex.quote(str(beside))
    # Symbolic links of a virtual environment are kept: resolved, they lead to an interpreter without the packages.
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)
    return f"{python} -m {NAME}"


def program() -> tuple[str, ...]:
    """Return how other programs start this one, with absolute paths. Links of a virtual environment are kept."""
    beside = Path(sys.executable).with_name(NAME)
    return (str(beside),) if beside.exists() else (sys.executable, "-m", NAME)


def command(arguments: Iterable[str]) -> str:
    """Return ``swarmctl ARGUMENTS`` as it must be typed in a shell here."""
    return " ".join([launcher(), *map(shlex.quote, arguments)])


def typed(text: str) -> str:
    """Replace a leading ``swarmctl``, also after variables, with the command that works here.

    The result is on one line: line breaks and other control characters in a word are written as escapes.
    """
    text = text if text.isprintable() else " ".join(map(_on_one_line, shlex.split(text)))
    found = _START.match(text)
    return text[: found.end(1)] + launcher() + text[found.end() :] if found else text


def _on_one_line(word: str) -> str:
    """Quote a word for bash and zsh."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return "$'" + "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in escaped) + "'"
