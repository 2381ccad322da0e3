"""GSM8K (Cobbe et al. 2021, arXiv 2110.14168): grade-school math problems, from the hub or from a local copy.

Training questions come from its train split, held-out questions from its test split.
"""

import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hivemind_exp.errors import HubUnreachable, TaskError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.hub_access import hub_answers
from hivemind_exp.tasks.base import TaskSpec
from hivemind_exp.tasks.families.fixed_set import FixedQuestion, FixedTask, Rows, enough
from hivemind_exp.tasks.families.question_files import MARK, find_files, records

NEED_HUB = ("make",)
HUB_NAME, HUB_SUBSET = "openai/gsm8k", "main"


def _fetch(directory: str = "gsm8k") -> str:
    """Return the command that downloads a copy. ``hf`` is installed next to this interpreter, maybe not on PATH."""
    program = shlex.quote(str(Path(sys.executable).with_name("hf")))
    return f"{program} download {HUB_NAME} --repo-type dataset --local-dir {shlex.quote(directory)}"


def check(spec: TaskSpec) -> None:
    """Check the options and the files of a local copy.

    Raises:
        TaskError: params are given, or the copy is missing.
    """
    if spec.params:
        raise TaskError("task 'gsm8k' accepts path, but no params", next="swarmctl run --task gsm8k")
    if spec.path is not None:
        _files(Path(spec.path), "train")


def build(spec: TaskSpec) -> FixedTask:
    """Return the task."""
    return FixedTask(spec, _read, mathematics=True)


def _read(spec: TaskSpec) -> Rows:
    if spec.path is None:
        return _from_hub()
    path = Path(spec.path)
    return enough(_copied(path, "train"), _copied(path, "test") if path.is_dir() else (), str(path))


def _from_hub() -> Rows:
    reachable = hub_answers()
    if not reachable:  # set before the library is imported; otherwise it retries for half a minute despite its cache
        os.environ["HF_HUB_OFFLINE"] = "1"
    from datasets import load_dataset

    from hivemind_exp.hub_client import limit_hub

    limit_hub()
    try:
        splits = load_dataset(HUB_NAME, HUB_SUBSET)
    except Exception as error:
        said = foreign(str(error).strip() or type(error).__name__)
        reason = said if reachable else "it is not on this machine, and the hub cannot be reached"
        kind = TaskError if reachable and not isinstance(error, ConnectionError) else HubUnreachable
        raise kind(
            f"cannot load GSM8K ({reason}); download a copy on a machine with network access "
            "and set the task's path to its directory",
            next=_fetch(),
        ) from error
    train, test = (_rows(f"{HUB_NAME} {split}", enumerate(splits[split], 1)) for split in ("train", "test"))
    return train, test


def _copied(path: Path, split: str) -> list[FixedQuestion]:
    return [row for file in _files(path, split) for row in _rows(str(file), records(file))]


def _files(path: Path, split: str) -> list[Path]:
    """Return the files of one split: the path itself, or files in the directory whose names start with the split."""
    if path.is_file():
        return [path]
    found = find_files(path, [split], skipped="socratic")  # the solutions in "socratic" files are reworded
    if not found:
        raise TaskError(f"no GSM8K files {split}*.jsonl or {split}*.parquet in {path}", next=_fetch(str(path)))
    return found


def _rows(source: str, numbered: Iterable[tuple[int, Any]]) -> list[FixedQuestion]:
    rows = []
    for number, record in numbered:
        match record:
            case {"question": str(question), "answer": str(solution)} if MARK in solution:
                rows.append(FixedQuestion(question, solution.rpartition(MARK)[2].strip()))
            case _:
                why = f"{source}:{number}: not a GSM8K question with an answer after {MARK}"
                raise TaskError(why, next=_fetch())
    return rows
