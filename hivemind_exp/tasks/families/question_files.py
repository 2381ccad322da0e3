"""Question files in common formats: JSON lines, JSON or Parquet, with the usual field names.

The answer may be a number, or the end of a worked solution: after ``####`` on the last line, or in a ``\\boxed{}``.
"""

import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from hivemind_exp.config import QUESTION_FILES
from hivemind_exp.errors import TaskError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.list_command import list_command
from hivemind_exp.tasks.families.fixed_set import FixedQuestion
from hivemind_exp.tasks.verifiers.answer_tags import answer_in

LONGEST_REFERENCE = 4096
"""Maximum length of a reference answer, in characters."""
MARK = "####"
"""Separates the worked solution from the answer (GSM8K)."""
HELD_OUT = ("heldout", "test", "validation", "valid", "val", "eval", "dev")
"""Prefixes of held-out files' names. The first prefix that a directory has is used."""
QUESTION_KEYS = ("question", "problem", "prompt", "query", "instruction", "input")
ANSWER_KEYS = (
    "answer", "final_answer", "expected_answer", "ground_truth", "target", "solution", "output", "response",
    "completion",
)  # fmt: skip
"""Names of fields, in order of preference."""
_CONVERSATION = "messages"
_NAMES, _LONGEST_NAME = 10, 40
"""How many names of fields a line shows, and how many characters of each."""


@dataclass(slots=True)
class Fields:
    """The fields of one file's rows."""

    used: dict[str, None] = field(default_factory=dict)
    """Those that questions and answers come from, as they are spelled there."""
    all: dict[str, None] = field(default_factory=dict)

    def note(self, record: Mapping[str, Any], used: Iterable[str]) -> None:
        """Take note of a row. ``used``: fields, in lower case."""
        self.all.update(dict.fromkeys(record))
        self.used.update(dict.fromkeys(name for name in record if name.lower() in used))

    def unused(self, path: Path) -> str | None:
        """Return a line on the fields that no row uses; None if there are none."""
        left = [name for name in self.all if name not in self.used]
        if not left:
            return None
        names = ", ".join(foreign(name, _LONGEST_NAME) for name in left[:_NAMES])
        more = f" and {len(left) - _NAMES} more" if len(left) > _NAMES else ""
        used = " and ".join(foreign(name, _LONGEST_NAME) for name in self.used)
        others = any(name.lower().removesuffix("s") in ANSWER_KEYS for name in left)
        only = ". A question has one correct answer; those in the other fields don't count" if others else ""
        return f"{path}: only the fields {used} are used, not {names}{more}{only}."


def find_files(path: Path, names: Sequence[str], skipped: str | None = None) -> list[Path]:
    """Return a directory's files for the first prefix in ``names`` that any file name starts with, sorted.

    JSON files count only if there are no others, because data sets also contain metadata as JSON. Files whose path
    contains ``skipped`` are left out.
    """
    files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in QUESTION_FILES and file.is_file()]
    files = [file for file in files if skipped is None or skipped not in str(file.relative_to(path))]
    files = [file for file in files if file.suffix.lower() != ".json"] or files
    for name in names:
        if found := [file for file in files if file.name.lower().startswith(name)]:
            return found
    return []


def read_questions(path: Path, fields: Fields | None = None) -> list[FixedQuestion]:
    """Return the questions in one file. ``fields``: takes note of the file's fields.

    Raises:
        TaskError: names the file, the row and what is wrong with it.
    """
    fields = Fields() if fields is None else fields
    return [_question(path, number, record, fields) for number, record in records(path)]


def records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Yield the number and the fields of each row.

    Raises:
        TaskError: the file cannot be read, or a row is not an object.
    """
    rows = _parquet(path) if path.suffix.lower() == ".parquet" else _json(path)
    for number, record in rows:
        if not isinstance(record, dict):
            _wrong(path, number, "is not a JSON object")
        yield number, record


def _parquet(path: Path) -> Iterable[tuple[int, Any]]:
    from pyarrow import ArrowException, BufferReader, parquet

    try:
        # Without any thread: a confined worker cannot start one, and pyarrow would wait for it without end.
        file = parquet.ParquetFile(BufferReader(path.read_bytes()), pre_buffer=False)
        return enumerate(file.read(use_threads=False).to_pylist(), 1)
    except (OSError, ArrowException) as error:
        raise _unreadable(path, str(error).splitlines()[0]) from error


def _json(path: Path) -> Iterable[tuple[int, Any]]:
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    if path.suffix.lower() == ".json" or data.lstrip()[:1] == b"[":
        try:
            whole = json.loads(data.decode())
        except (ValueError, RecursionError):
            whole = None  # many files with this ending contain JSON lines
        if isinstance(whole, dict):
            lists = [value for value in whole.values() if isinstance(value, list)]
            whole = lists[0] if len(lists) == 1 and _CONVERSATION not in whole else None
        if isinstance(whole, list):
            return enumerate(whole, 1)
    return ((number, _line(path, number, line)) for number, line in enumerate(data.split(b"\n"), 1) if line.strip())


def _line(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode())
    except UnicodeDecodeError:
        _wrong(path, number, "is not UTF-8")
    except (ValueError, RecursionError) as error:
        _wrong(path, number, f"is not JSON: {error}")


def _question(path: Path, number: int, record: Mapping[str, Any], noted: Fields) -> FixedQuestion:
    fields = {name.lower(): value for name, value in record.items()}
    turns = fields.get(_CONVERSATION)
    asked: Any
    answered: Any
    if isinstance(turns, list):
        asked, answered = turns[:-1], turns[-1:]
        noted.note(record, (_CONVERSATION,))
    else:
        name = next((name for name in QUESTION_KEYS if name in fields), "")
        key = next((key for key in ANSWER_KEYS if key in fields), "")
        if not (name and key):
            missing = " and ".join(part for part, found in (("'question'", name), ("'answer'", key)) if not found)
            has = ", ".join(map(repr, record)) or "no fields"
            _wrong(path, number, f"has no {missing} field; it has {has[:200]}")
        asked, answered = fields[name], fields[key]
        used = (name, key, "input") if name == "instruction" and isinstance(fields.get("input"), str) else (name, key)
        noted.note(record, used)
        if "input" in used and name != "input" and fields["input"].strip():
            asked = f"{asked}\n\n{fields['input']}"
        if isinstance(answered, list) and len(answered) > 1 and not any(isinstance(each, dict) for each in answered):
            _wrong(path, number, f"has {len(answered)} answers in {key!r}; a question can have only one")
    question, answer = _said(asked, "user", "system"), _said(answered, "assistant")
    if not isinstance(question, str) or not question.strip():
        _wrong(path, number, "has a 'question' that is empty or not text")
    answer = reference_text(answer)
    if answer is None:
        _wrong(path, number, "has an 'answer' that is empty or neither text nor a number")
    if problem := _problem(question, answer):
        _wrong(path, number, problem)
    return FixedQuestion(question, answer)


def _said(value: Any, *roles: str) -> Any:
    """Return the text of a conversation's turns. None if it has other roles, or more than one turn of the first role.

    A value that is not a conversation is returned as it is.
    """
    if not (isinstance(value, list) and value and all(isinstance(turn, dict) for turn in value)):
        return value
    said = [(turn.get("role"), turn.get("content")) for turn in value]
    if [role for role, _ in said].count(roles[0]) != 1 or not all(
        role in roles and isinstance(text, str) for role, text in said
    ):
        return None
    return "\n\n".join(text for _, text in said)


def reference_text(value: Any) -> str | None:
    """Return a reference answer as text; None if it is empty or has no text."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else json.dumps(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    last = value.strip().rpartition("\n")[2]
    return (last[len(MARK) :] if last.startswith(MARK) else _boxed(value) or value).strip() or None


def _boxed(text: str) -> str | None:
    """Return what the last ``\\boxed{}`` contains, or None."""
    opening = text.rfind("\\boxed{")
    depth = 0
    for brace in re.finditer(r"[{}]", text[opening:]) if opening >= 0 else ():
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[opening + len("\\boxed{") : opening + brace.start()]
    return None


def _problem(question: str, answer: str) -> str | None:
    """Return why no completion could be correct, or None."""
    if len(answer) > LONGEST_REFERENCE:
        return f"has an 'answer' of {len(answer)} characters; the limit is {LONGEST_REFERENCE}"
    if any("\ud800" <= letter <= "\udfff" for letter in question + answer):
        return "contains half a character (an unpaired surrogate)"
    if answer_in(f"<answer>{answer}</answer>") != answer:
        return "has an 'answer' that contains <answer> tags, so no completion can match it"
    return None


def _unreadable(path: Path, why: str) -> TaskError:
    return TaskError(f"cannot read {path}: {why}", next=list_command(path.parent))


def _wrong(path: Path, number: int, what: str) -> NoReturn:
    lines = path.suffix.lower() not in (".json", ".parquet")
    raise TaskError(
        f"{path}:{number}: the {'line' if lines else 'row'} {what}",
        next=f"sed -n {number}p {shlex.quote(str(path))}" if lines else list_command(path),
    )
