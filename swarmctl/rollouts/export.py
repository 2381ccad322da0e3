"""``swarmctl rollouts export``: one row per completion, as JSON lines, CSV or Parquet."""

import csv
import io
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from hivemind_exp import atomic_write
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import UsageError
from swarmctl.paths import shown
from swarmctl.rollouts.journal import ROW, RolloutFilter, as_row, check_source, node_with_journal, rollouts
from swarmctl.storage.disk_errors import checked_target, disk_errors
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer

Format = Literal["jsonl", "csv", "parquet"]
_BY_SUFFIX: Mapping[str, Format] = {".parquet": "parquet", ".csv": "csv"}
SCHEMA = 1
_ROWS = 2000
"""The number of rows in memory at once."""


def export(node: str | None, wanted: RolloutFilter, *, output: str, format: Format | None, yes: bool) -> None:
    """Write completions to a file or to stdout.

    Raises ``NodeError`` if there is nothing to read, or if the file already exists or cannot be written.
    """
    files = node_with_journal(node)
    check_source(files, wanted.source)
    kind = format or _BY_SUFFIX.get(Path(output).suffix.lower(), "jsonl")
    if output == "-" and kind == "parquet" and sys.stdout.isatty():
        raise UsageError(
            "cannot print Parquet to a terminal: choose a file with -o",
            next=shlex.join(_again(files, wanted, kind, "rollouts.parquet")),
        )
    again = shlex.join([*_again(files, wanted, kind, output), "--yes"])
    target = None if output == "-" else checked_target(Path(output), yes=yes, again=again)
    rows = ({"schema": SCHEMA, **as_row(each, files.root.name)} for each in rollouts(files, wanted))
    with _opened(target) as file:
        count = _WRITERS[kind](file, rows)
    what = f"{several(count, 'completion')} of node {files.root.name}"
    if target is not None:
        Writer(sys.stderr)(f"Wrote {what} to {shown(target)}.")
    elif count == 0:
        Writer(sys.stderr)(f"No matching completions in node {files.root.name}.")


def _again(files: NodeFiles, wanted: RolloutFilter, kind: Format, output: str) -> list[str]:
    """Return the words of the same command with another output."""
    given = {"node": files.root.name, "round": wanted.round, "question": wanted.question or None}
    given |= {"source": wanted.source, "last": wanted.last, "format": kind, "output": output}
    words = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    words += ["--correct"] if wanted.correct else []
    return ["swarmctl", "rollouts", "export", *words]


@contextmanager
def _opened(target: Path | None) -> Iterator[BinaryIO]:
    """Yield the file to write, or stdout. Raises NodeError if the file cannot be written, OSError if stdout cannot."""
    if target is not None:
        with disk_errors(target), atomic_write.new_file(target, None) as file:
            yield file
        return
    yield sys.stdout.buffer


def _write_lines(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as JSON lines and return their number."""
    count = 0
    for row in rows:
        file.write(json.dumps(row).encode() + b"\n")
        count += 1
    return count


def _write_csv(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows as CSV with headings and return their number. Lists are JSON; an unknown value is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("schema", *ROW))
    count = 0
    for row in rows:
        writer.writerow([_cell(row[name]) for name in ("schema", *ROW)])
        count += 1
        file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
    file.write(text.getvalue().encode())
    return count


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def write_parquet(file: BinaryIO, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows with the keys of ``as_row`` and return their number.

    Raises ConfigurationError if pyarrow is not installed, and OSError.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigurationError(
            "Parquet needs the package pyarrow, which is not installed",
            next="swarmctl rollouts export --format jsonl",
        ) from error
    # Explicit column types: nulls in the first rows must not determine the types.
    text, real = pyarrow.string(), pyarrow.float64()
    message = pyarrow.struct([("role", text), ("content", text)])
    term = pyarrow.struct([("name", text), ("value", real), ("maximum", real), ("why", text)])
    turn = pyarrow.struct([("role", text), ("text", text), ("tokens", pyarrow.int64())])
    types = dict.fromkeys(("schema", *ROW), text)
    types |= dict.fromkeys(("schema", "round", "place", "version"), pyarrow.int64())
    types |= dict.fromkeys(("outcome", "usd"), real) | dict.fromkeys(("truncated", "strict"), pyarrow.bool_())
    types |= {"messages": pyarrow.list_(message), "terms": pyarrow.list_(term), "turns": pyarrow.list_(turn)}
    schema = pyarrow.schema(list(types.items()))
    remaining, count = iter(rows), 0
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while batch := list(islice(remaining, _ROWS)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


_WRITERS: Mapping[Format, Callable[[BinaryIO, Iterable[dict[str, Any]]], int]] = {
    "jsonl": _write_lines,
    "csv": _write_csv,
    "parquet": write_parquet,
}
