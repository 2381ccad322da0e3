"""A task from a Python file of the operator (``own_code`` says what the file defines).

The file can read its own directory and import modules from it. If that is the home directory or contains it, it can
read nothing but itself, because keys may be there.
"""

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from hivemind_exp.errors import TaskError
from hivemind_exp.list_command import list_command
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.own_code import OwnCodeTask, try_out

OWN_CODE = True
_LONGEST_NAME = 256


def check(spec: TaskSpec) -> None:
    """Load the file in workers and try it with a few questions. Raises ``TaskError`` with the line of a mistake."""
    file = _file(spec)
    if not file.is_file():
        raise TaskError(f"cannot read {file}: it is not a file", next=list_command(file.parent))
    try_out(spec)


def build(spec: TaskSpec) -> OwnCodeTask:
    """Return the task. The file is not read before ``prepare``."""
    file = _file(spec)
    if not Path.home().is_relative_to(file.parent):
        sys.path.append(str(file.parent))  # last, so that no file there hides a library; the sandbox can read it
    return OwnCodeTask(spec, lambda: _loaded(file), file)


def used_files(file: Path) -> list[Path]:
    """Return what a task file uses of its directory, without running it: modules that it imports and files it names.

    Modules are followed to what they use in turn.
    """
    if Path.home().is_relative_to(file.parent):
        return [path for path in _named(file, file.parent) if path.is_file()]  # it can import nothing there
    found: list[Path] = []
    waiting = [file]
    while waiting:
        code = waiting.pop()
        for path in (*_imported(code, file.parent), *_named(code, file.parent)):
            if path not in (file, *found) and path.is_file():
                found.append(path)
                waiting += [path] if path.suffix == ".py" else []
    return sorted(found)


def _nodes(code: Path) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(code.read_bytes())))
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []  # ``check`` reports it


def _imported(code: Path, directory: Path) -> Iterator[Path]:
    """Yield the files that the imports of ``code`` may stand for."""
    for node in _nodes(code):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            start = directory
        elif isinstance(node, ast.ImportFrom):
            start = [directory, *code.parents][min(node.level, len(code.parents))]
            own = node.module or ""
            names = [own, *(f"{own}.{alias.name}".lstrip(".") for alias in node.names)]
        else:
            continue
        for name in names:
            parts = name.split(".") if name else []
            for depth in range(1, len(parts) + 1):
                place = start.joinpath(*parts[:depth])
                yield place / "__init__.py"
                yield place.with_suffix(".py")


def _named(code: Path, directory: Path) -> Iterator[Path]:
    """Yield the files whose paths are literal texts in ``code``, such as its questions."""
    for node in _nodes(code):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and 0 < len(text) < _LONGEST_NAME and "\0" not in text:
            yield directory / text


def _file(spec: TaskSpec) -> Path:
    if spec.path is None:
        raise TaskError("task 'python-file' needs a path to a Python file", next="swarmctl run --task FILE.py")
    return Path(spec.path)


def _loaded(file: Path) -> ModuleType:
    name = f"swarmctl_task_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
