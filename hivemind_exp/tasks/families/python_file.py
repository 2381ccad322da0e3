"""A task from a Python file of the operator (``own_code`` says what the file defines).

The file can read its own directory and import modules from it. If that is the home directory or contains it, it can
read nothing but itself, because keys may be there.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from hivemind_exp.errors import TaskError
from hivemind_exp.list_command import list_command
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.own_code import OwnCodeTask, try_out

OWN_CODE = True


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


def data_file(file: Path) -> Path | None:
    """Return the question file that a task file names in ``questions = "…"``, without running it; None if none."""
    try:
        body = ast.parse(file.read_bytes()).body
    except (OSError, ValueError, SyntaxError):
        return None  # ``check`` reports it
    for node in body:
        match node:
            case ast.Assign(targets=[ast.Name(id="questions")], value=ast.Constant(value=str(path))):
                return file.parent / path
    return None


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
