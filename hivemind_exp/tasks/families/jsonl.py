"""Questions from the operator's files: JSON lines, JSON or Parquet (``question_files`` lists the fields).

``path`` is either a file, from which some questions are held out, or a directory. In a directory, the files whose names
start with ``heldout`` or ``test`` are held out. Those that start with ``train`` are trained on, or all others if there
are none.
"""

from pathlib import Path

from hivemind_exp.errors import TaskError
from hivemind_exp.list_command import list_command
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.fixed_set import FixedQuestion, FixedTask, Rows, enough
from hivemind_exp.tasks.families.question_files import HELD_OUT, Fields, find_files, read_questions


def check(spec: TaskSpec) -> list[str]:
    """Read all files, as a worker would. Return a line for each of which not all fields are used.

    Raises:
        TaskError: a file does not exist, a row is not a valid question, or there are too few questions.
    """
    if spec.params:
        raise TaskError("task 'jsonl' accepts path and check, but no params", next="swarmctl run --task sapo")
    unused: list[str] = []
    read(spec, unused)
    return unused


def build(spec: TaskSpec) -> FixedTask:
    """Return the task for a file or directory."""
    return FixedTask(spec, read, mathematics=spec.check == "math")


def read(spec: TaskSpec, unused: list[str] | None = None) -> Rows:
    """Return the questions in the file or directory. Raises ``TaskError``.

    ``unused``: gets a line for each file of which not all fields are used.
    """
    if spec.path is None:
        raise TaskError(
            "task 'jsonl' needs a path to a file of questions and answers, one JSON object per line",
            next="swarmctl run --task FILE.jsonl",
        )
    path = Path(spec.path)
    if not path.is_dir():
        return enough(_all([path], unused), (), str(path))
    heldout = find_files(path, HELD_OUT)
    train = find_files(path, ["train"]) or [file for file in find_files(path, [""]) if file not in heldout]
    if not train:
        raise TaskError(f"no .jsonl, .json or .parquet files to train on in {path}", next=list_command(path))
    return enough(_all(train, unused), _all(heldout, unused), str(path))


def _all(files: list[Path], unused: list[str] | None) -> list[FixedQuestion]:
    rows = []
    for file in files:
        fields = Fields()
        rows += read_questions(file, fields)
        if unused is not None and (line := fields.unused(file)) is not None:
            unused.append(line)
    return rows
