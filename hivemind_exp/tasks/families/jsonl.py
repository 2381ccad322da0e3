"""Questions from the operator's file, with one JSON object per line: ``{"question": "…", "answer": "…"}``.

``path`` is either the file, from which some questions are held out, or a directory with ``train.jsonl`` and
``heldout.jsonl``.
"""

import json
import shlex
from pathlib import Path
from typing import NoReturn

from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.fixed_set import FixedQuestion, FixedTask, Rows, enough

LONGEST_REFERENCE = 4096
"""Maximum length of a reference answer, in characters."""


def check(spec: TaskSpec) -> None:
    """Read the whole file, as a worker would.

    Raises:
        TaskError: the file does not exist, a line is not a valid question, or there are too few questions.
    """
    if spec.params:
        raise TaskError("task 'jsonl' accepts path and check, but no params", next="swarmctl run --task sapo")
    _read(spec)


def build(spec: TaskSpec) -> FixedTask:
    """Return the task for a file."""
    return FixedTask(spec, _read, mathematics=spec.check == "math")


def read_lines(path: Path) -> list[FixedQuestion]:
    """Return the questions in one file.

    Raises:
        TaskError: names the file, the line and what is wrong with it.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        listing = f"ls -l {shlex.quote(str(path.parent))}"
        raise TaskError(f"cannot read {path}: {error.strerror or error}", next=listing) from error
    return [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read(spec: TaskSpec) -> Rows:
    if spec.path is None:
        raise TaskError(
            "task 'jsonl' needs a path to a file of questions and answers, one JSON object per line",
            next="swarmctl run --task FILE.jsonl",
        )
    path = Path(spec.path)
    if not path.is_dir():
        return enough(read_lines(path), (), str(path))
    heldout = path / "heldout.jsonl"
    return enough(read_lines(path / "train.jsonl"), read_lines(heldout) if heldout.exists() else (), str(path))


def _row(path: Path, number: int, line: bytes) -> FixedQuestion:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError:
        _wrong(path, number, "is not UTF-8")
    except (ValueError, RecursionError) as error:
        _wrong(path, number, f"is not JSON: {error}")
    if not isinstance(value, dict):
        _wrong(path, number, "is not a JSON object")
    for field in ("question", "answer"):
        if field not in value:
            _wrong(path, number, f"has no {field!r} field")
    question, answer = value["question"], value["answer"]
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = json.dumps(answer)
    if not isinstance(question, str) or not question.strip():
        _wrong(path, number, "has an empty or non-text 'question'")
    if not isinstance(answer, str) or not answer.strip():
        _wrong(path, number, "has an 'answer' that is empty or neither text nor a number")
    if len(answer) > LONGEST_REFERENCE:
        _wrong(path, number, f"has an 'answer' of {len(answer)} characters; the limit is {LONGEST_REFERENCE}")
    return FixedQuestion(question, answer.strip())


def _wrong(path: Path, number: int, what: str) -> NoReturn:
    raise TaskError(f"{path}:{number}: the line {what}", next=f"sed -n {number}p {shlex.quote(str(path))}")
