"""Every place in the source that suggests a command, and which of them a run of ``swarmctl`` reaches.

A *site* is an expression that becomes the command of an error (``next``) or of a doctor's finding.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any, TextIO
from unittest.mock import patch

from hivemind_exp.errors import NodeError
from hivemind_exp.events import StopEvent, WarningEvent
from hivemind_exp.offload.api.faults import RequestFailed
from hivemind_exp.tasks.workers import process as workers
from swarmctl.doctor.check import Finding
from swarmctl.keys.http_client import Unanswered
from tests.support.command_line import ROOT

UNKNOWN = "…"
"""Stands for a part of a command that is only known when the error occurs."""
_FINDINGS = {"failed", "warning", "trouble", "unknown", "verdict"}
_PASSED_ON = re.compile(r"(\w+\.)*(next|remedy)|problem\.command|None")
"""Expressions that pass on what another site suggested."""
_SHOWS = re.compile(
    r"swarmctl (.*--help|--version|(status|keys list|profiles (list|show)|tasks (list|show)|logs|models|identity show"
    r"|service status|rollouts stats|doctor)\b.*)"
    r"|(ls|cat|tail|sed -n|df|nvidia-smi|uname|ip addr|ps|fuser|ulimit -H[nt])\b.*"
)
"""Commands that only show something. They end without an error, so they cannot end with the same one."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """One expression that suggests a command."""

    function: str
    """``module:function``."""
    command: str
    """The command as the source has it, with ``UNKNOWN`` for what it fills in; else the expression."""

    def __str__(self) -> str:
        return f"{self.function} | {self.command}"

    @property
    def only_shows(self) -> bool:
        """Whether the command only shows something."""
        return _SHOWS.fullmatch(self.command) is not None


def _command(node: ast.expr) -> str:
    """Return an expression as a command, as far as it is literal."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = (str(part.value) if isinstance(part, ast.Constant) else UNKNOWN for part in node.values)
        return "".join(parts)
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "list_command":
        return f"ls -l {UNKNOWN}"
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"shlex.join", "join"} and node.args:
        words = node.args[0]
        if isinstance(words, ast.List):
            return " ".join(_command(word) if isinstance(word, ast.Constant) else UNKNOWN for word in words.elts)
    return ast.unparse(node)


def _called(function: ast.expr) -> set[str]:
    """Return the names that a function is called by: two for ``(failed if … else warning)(…)``."""
    if isinstance(function, ast.IfExp):
        return _called(function.body) | _called(function.orelse)
    return {function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")}


class _Finder(ast.NodeVisitor):
    """Collects a module's sites with the lines on which they take effect."""

    def __init__(self, module: str) -> None:
        self._module, self._names = module, list[str]()
        self.found: list[tuple[range, Site]] = []

    def _add(self, node: ast.AST, value: ast.expr) -> None:
        for each in (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,):
            command = _command(each)
            if not _PASSED_ON.fullmatch(command):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)  # type: ignore[attr-defined]
                self.found.append((lines, Site(f"{self._module}:{'.'.join(self._names)}", command)))

    def _inside(self, node: Any) -> None:
        self._names.append(node.name)
        self.generic_visit(node)
        self._names.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _inside

    def visit_Call(self, node: ast.Call) -> None:
        for keyword in node.keywords:
            if keyword.arg == "next":
                self._add(node, keyword.value)
        if self._module.startswith("swarmctl.doctor") and _called(node.func) & _FINDINGS and len(node.args) > 1:
            self._add(node, node.args[1])
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if any(isinstance(target, ast.Attribute) and target.attr == "next" for target in node.targets):
            self._add(node, node.value)
        self.generic_visit(node)


@cache
def _of_file(path: Path) -> tuple[tuple[range, Site], ...]:
    finder = _Finder(".".join(path.relative_to(ROOT).with_suffix("").parts))
    finder.visit(ast.parse(path.read_text(encoding="utf-8")))
    return tuple(finder.found)


def sites() -> set[Site]:
    """Return every site in the two packages."""
    return {
        site
        for package in ("swarmctl", "hivemind_exp")
        for path in (ROOT / package).rglob("*.py")
        for _, site in _of_file(path)
    }


def _at(frame: FrameType | None, command: str) -> Iterator[Site]:
    """Yield the innermost sites on the line that a frame executes, or of its caller, if that passed on the command."""
    while frame is not None and Path(frame.f_code.co_filename).is_relative_to(ROOT):
        here = [(lines, site) for lines, site in _of_file(Path(frame.f_code.co_filename)) if frame.f_lineno in lines]
        if here:
            shortest = min(len(lines) for lines, _ in here)
            yield from (site for lines, site in here if len(lines) == shortest)
            return
        given = frame.f_code.co_varnames[: frame.f_code.co_argcount + frame.f_code.co_kwonlyargcount]
        if not any(frame.f_locals.get(name) is command for name in given):
            return
        frame = frame.f_back


def _watch(add: Callable[[Iterator[Site]], object]) -> list[tuple[type, str, Callable[..., None]]]:
    """Return methods that call ``add``, each with its class and its name."""
    replaced: list[tuple[type, str, Callable[..., None]]] = []
    for error in (NodeError, Unanswered, RequestFailed):
        replaced.append((error, "__setattr__", _told(error.__setattr__, add)))
    for made, name in ((Finding, "remedy"), (WarningEvent, "next"), (StopEvent, "next")):
        replaced.append((made, "__init__", _made(made.__init__, name, add)))
    return replaced


def _made(make: Callable[..., None], name: str, add: Callable[[Iterator[Site]], object]) -> Callable[..., None]:
    def make_and_add(self: object, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        if (command := getattr(self, name)) is not None:
            add(_at(sys._getframe(1), command))

    return make_and_add


def _told(assign: Callable[..., None], add: Callable[[Iterator[Site]], object]) -> Callable[..., None]:
    def set_attribute(self: Exception, name: str, value: Any) -> None:
        assign(self, name, value)
        if name == "next" and value is not None:
            frame = sys._getframe(1)
            while frame.f_locals.get("self") is self and frame.f_back is not None:
                frame = frame.f_back
            add(_at(frame, value))

    return set_attribute


class _Sites:
    """Where the sites of the present ``reached`` are appended."""

    file = Path()


@contextmanager
def reached() -> Iterator[set[Site]]:
    """Yield the set of sites that suggest a command during the block, in this process and in its forks."""
    found: set[Site] = set()
    with TemporaryDirectory() as place, ExitStack() as stack:
        file = Path(place) / "sites"
        for owner, name, method in _watch(partial(_append, file)):
            stack.enter_context(patch.object(owner, name, method))
        stack.enter_context(patch.object(_Sites, "file", file))
        yield found
        found |= recorded(file)


def record(file: Path) -> None:
    """From now on, append the sites that suggest a command to a file, in this process and in its forks."""
    for owner, name, method in _watch(partial(_append, file)):
        setattr(owner, name, method)


@contextmanager
def with_workers(_home: Path) -> Iterator[str]:
    """Inside ``reached``, also record the sites of the task workers that are started during the block."""
    start = workers._command

    def recording(python: str | None) -> list[str]:
        module = "tests.support.advised_worker"
        return start(python) if python else [sys.executable, "-P", "-m", module, str(_Sites.file)]

    with patch.object(workers, "_command", recording):
        yield ""


def record_in_sandbox(stream: TextIO) -> None:
    """As ``record``, in a process that may later open no more files."""
    for owner, name, method in _watch(partial(_write, stream)):
        setattr(owner, name, method)


def _write(stream: TextIO, found: Iterator[Site]) -> None:
    stream.writelines(f"{json.dumps([site.function, site.command])}\n" for site in found)
    stream.flush()


def _append(file: Path, found: Iterator[Site]) -> None:
    if file.parent.exists():  # a fork may outlive the command
        with file.open("a", encoding="utf-8") as lines:
            _write(lines, found)


def recorded(file: Path) -> set[Site]:
    """Return the sites in a file of ``record``, if there is one."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return {Site(*json.loads(line)) for line in text.splitlines()}
