"""Rollouts as Parquet. ``pyarrow`` is heavy and comes with ``datasets``: it is imported when it is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, BinaryIO

from hivemind_exp.errors import ConfigurationError

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
