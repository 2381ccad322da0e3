"""``swarmctl rollouts export``: a row a completion, as JSON lines or Parquet."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Iterator
from errno import EDQUOT, ENOSPC
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from hivemind_exp import atomic_write
from hivemind_exp.errors import ConfigurationError, DiskFull, NodeError
from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import UsageError
from swarmctl.paths import shown
from swarmctl.rollouts.database import node_with_journal, reading
from swarmctl.rollouts.rows import RolloutFilter, as_row, node_model, rollouts
from swarmctl.storage.output_file import checked_target
from swarmctl.terminal.views import Writer

Format = Literal["jsonl", "parquet"]
SCHEMA = 1
STDOUT = "-"
_SUFFIX = ".parquet"


def export(node: str | None, wanted: RolloutFilter, *, output: str, format: Format | None, yes: bool) -> None:
    """Write completions to a file or to stdout.

    Raises ``NodeError`` where there is nothing to read, where the file is there already, or cannot be written.
    """
    files = node_with_journal(node)
    kind = format or ("parquet" if output.endswith(_SUFFIX) else "jsonl")
    if output == STDOUT and kind == "parquet" and sys.stdout.isatty():
        raise UsageError(
            "Parquet is not for a terminal: name a file",
            next=f"swarmctl rollouts export --node {files.root.name} -o rollouts{_SUFFIX}",
        )
    again = _again(files, wanted, kind, output)
    target = None if output == STDOUT else checked_target(Path(output), yes=yes, again=again)
    with reading(files.journal) as db:
        model = node_model(files)
        rows = ({"schema": SCHEMA, **as_row(each, files.root.name)} for each in rollouts(db, wanted, model))
        count = _print(rows, kind) if target is None else _save(target, rows, kind)
    _tell(files, count, target)


def _again(files: NodeFiles, wanted: RolloutFilter, kind: Format, output: str) -> str:
    """Return the same command with leave to replace the file."""
    given = {"node": files.root.name, "round": wanted.round, "question": wanted.question or None}
    given |= {"source": wanted.source, "last": wanted.last, "format": kind, "output": output}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    words += ["--correct"] if wanted.correct else []
    return " ".join(["swarmctl rollouts export", *map(shlex.quote, words), "--yes"])


def _print(rows: Iterable[dict[str, Any]], kind: Format) -> int:
    try:
        return _write(sys.stdout.buffer, rows, kind)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is still buffered must not fail once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        kind_of_error = DiskFull if error.errno in (ENOSPC, EDQUOT) else NodeError
        raise kind_of_error(f"cannot write to standard output: {error.strerror}", next="df -h .") from error


def _save(target: Path, rows: Iterable[dict[str, Any]], kind: Format) -> int:
    from swarmctl.storage.disk_errors import disk_errors

    with disk_errors(target), atomic_write.new_file(target, None) as file:
        return _write(file, rows, kind)


def _write(file: BinaryIO, rows: Iterable[dict[str, Any]], kind: Format) -> int:
    """Write rows and return how many there were."""
    counted = _Counted(rows)
    if kind == "parquet":
        pass

        write_parquet(file, counted)
    else:
        for row in counted:
            file.write(json.dumps(row).encode() + b"\n")
        file.flush()
    return counted.count


class _Counted:
    """Counts what is taken from it."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._rows:
            self.count += 1
            yield row


def _tell(files: NodeFiles, count: int, target: Path | None) -> None:
    what = f"{count:,} completion{'' if count == 1 else 's'} of node {files.root.name}"
    if target is not None:
        Writer(sys.stderr)(f"Wrote {what} to {shown(target)}.")
    elif count == 0:
        Writer(sys.stderr)(f"No completion of node {files.root.name} is like that.")


_ROWS = 2000
"""Rows that are in memory at once."""


def write_parquet(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows with the keys of ``rolloutexport``. Raises ``ConfigurationError`` without pyarrow, and OSError."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError(
            "Parquet needs the package pyarrow, which is not installed",
            next="swarmctl rollouts export --format jsonl",
        ) from error
    schema = _schema(pyarrow)
    remaining = iter(rows)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while batch := list(islice(remaining, _ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))


def _schema(pyarrow: Any) -> Any:
    """Return the types of the columns: what is null in the first rows must not decide about those after them."""
    text, whole, real, truth = pyarrow.string(), pyarrow.int64(), pyarrow.float64(), pyarrow.bool_()
    term = pyarrow.struct([("name", text), ("value", real), ("maximum", real), ("why", text)])
    message = pyarrow.struct([("role", text), ("content", text)])
    return pyarrow.schema(
        [
            ("schema", whole),
            ("node", text),
            ("swarm", text),
            ("round", whole),
            ("stage", text),
            ("task", text),
            ("question", text),
            ("messages", pyarrow.list_(message)),
            ("place", whole),
            ("text", text),
            ("truncated", truth),
            ("outcome", real),
            ("strict", truth),
            ("why", text),
            ("terms", pyarrow.list_(term)),
            ("kind", text),
            ("provider", text),
            ("model", text),
            ("version", whole),
            ("usd", real),
            ("time", text),
        ]
    )
