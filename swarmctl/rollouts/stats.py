"""``swarmctl rollouts stats``: what each provider brought and cost, as a table or as JSON."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import UsageError
from swarmctl.rollouts.counts import CountKey, Counts, count, total
from swarmctl.rollouts.database import node_with_journal, reading
from swarmctl.rollouts.rows import node_model
from swarmctl.terminal.safe_text import clean
from swarmctl.terminal.sentences import dollars, percent
from swarmctl.terminal.suggest import nearest
from swarmctl.terminal.views import Writer

KEYS = ("provider", "model", "stage")
_UNKNOWN = "-"
_Table = list[tuple[str, list[str]]]
"""Columns: heading and cells."""


def stats(node: str | None, by: str, *, as_json: bool) -> None:
    """Print counts. Raises UsageError for a wrong ``by``, NodeError where there is nothing to count."""
    keys = _keys(by)
    files = node_with_journal(node)
    counts = _count(files, keys)
    if as_json:
        rows = [_fields(group, each) for group, each in counts.items()]
        whole = _fields(CountKey(None, None, None), total(counts.values()))
        node_name = files.root.name
        print(json.dumps({"schema": 1, "node": node_name, "by": keys, "stats": rows, "total": whole}))
        return
    write = Writer(sys.stdout)
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in _lines(_table(counts, keys), width):
        write(line)


def _keys(by: str) -> list[str]:
    wanted = [word.strip() for word in by.split(",") if word.strip()]
    for word in wanted:
        if word not in KEYS:
            guess = nearest(word, KEYS)
            hint = f"did you mean {guess}?" if guess else f"there are {', '.join(KEYS)}"
            raise UsageError(f"nothing is counted by {word!r}; {hint}", next="swarmctl rollouts stats --help")
    return [key for key in KEYS if key in wanted]


def _count(files: NodeFiles, keys: Sequence[str]) -> dict[CountKey, Counts]:
    # A node that never asked an API has no ledger.
    opened = reading(files.ledger) if files.ledger.is_file() else nullcontext()
    with reading(files.journal) as journal, opened as ledger:
        return count(journal, ledger, keys, node_model(files))


def _fields(group: CountKey, counts: Counts) -> dict[str, Any]:
    return {
        "provider": group.provider,
        "model": group.model,
        "stage": group.stage,
        "requests": counts.requests,
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "usd": counts.usd,
        "usd_unsettled": counts.usd_unsettled,
        "completions": counts.completions,
        "verified": counts.verified,
        "correct": counts.correct,
        "share_correct": counts.share_correct,
        "lost": counts.lost,
    }


def _table(counts: Mapping[CountKey, Counts], keys: Sequence[str]) -> _Table:
    groups, values = list(counts), list(counts.values())
    named: _Table = [(key, [_named(getattr(group, key)) for group in groups]) for key in keys]
    if len(values) > 1:
        values.append(total(values))
        for number, (_, cells) in enumerate(named):
            cells.append("" if number else "total")
    return [
        *named,
        ("requests", [_number(each.requests) for each in values]),
        ("tokens in", [_number(each.prompt_tokens) for each in values]),
        ("tokens out", [_number(each.completion_tokens) for each in values]),
        ("USD", [_usd(each.usd) for each in values]),
        ("unsettled", [_usd(each.usd_unsettled) for each in values]),
        ("completions", [_number(each.completions) for each in values]),
        ("right", [_UNKNOWN if each.share_correct is None else percent(each.share_correct) for each in values]),
        ("lost", [_number(each.lost) for each in values]),
    ]


def _named(text: str | None) -> str:
    """Return a name on one line: a service may call its model anything."""
    return "unknown" if text is None else " ".join(clean(text).split())


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def _usd(value: float | None) -> str:
    return _UNKNOWN if value is None else dollars(value).removesuffix(" USD")


def _lines(table: _Table, width: int | None) -> Iterator[str]:
    """Yield a table, or where the terminal is too narrow for it, each row as a list."""
    widths = [max(map(len, (heading, *cells))) for heading, cells in table]
    rows = list(zip(*([heading, *cells] for heading, cells in table), strict=True))
    if width is not None and sum(widths) + 2 * (len(widths) - 1) >= width:
        for row in rows[1:]:
            for heading, cell in zip(rows[0], row, strict=True):
                yield f"  {heading} {cell}"
            yield ""
        return
    names = sum(heading in KEYS for heading, _ in table)
    for row in rows:
        cells = [
            cell.ljust(size) if index < names else cell.rjust(size)
            for index, (cell, size) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
