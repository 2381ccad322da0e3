"""``swarmctl rollouts stats``: what each provider brought and cost, as a table or as JSON."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import UsageError
from swarmctl.rollouts.counts import CountKey, Counts, count, total
from swarmctl.rollouts.database import node_with_journal, reading
from swarmctl.rollouts.rows import node_model
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import clean
from swarmctl.terminal.sentences import dollars, percent
from swarmctl.terminal.suggest import nearest
from swarmctl.terminal.table import print_table

KEYS = ("provider", "model", "stage")
_UNKNOWN = "-"
_NUMBERS = ("requests", "tokens in", "tokens out", "USD", "unsettled", "completions", "right", "lost")


def stats(node: str | None, by: str, *, as_json: bool) -> None:
    """Print counts. Raises UsageError for a wrong ``by``, NodeError where there is nothing to count."""
    keys = _keys(by)
    files = node_with_journal(node)
    counts = _count(files, keys)
    whole = total(counts.values())
    if as_json:
        rows = [_fields(group, each) for group, each in counts.items()]
        print_json(node=files.root.name, by=keys, stats=rows, total=_fields(CountKey(), whole))
        return
    cells = [_cells([_name(getattr(group, key)) for key in keys], each) for group, each in counts.items()]
    if len(counts) > 1:
        cells.append(_cells(["total", "", ""][: len(keys)], whole))
    print_table(cells, [*keys, *_NUMBERS], right=_NUMBERS)


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
    fields = asdict(counts)
    lost = fields.pop("lost")
    return {**asdict(group), **fields, "share_correct": counts.share_correct, "lost": lost}


def _cells(names: Sequence[str], counts: Counts) -> list[str]:
    share = counts.share_correct
    return [
        *names,
        _number(counts.requests),
        _number(counts.prompt_tokens),
        _number(counts.completion_tokens),
        _usd(counts.usd),
        _usd(counts.usd_unsettled),
        _number(counts.completions),
        _UNKNOWN if share is None else percent(share),
        _number(counts.lost),
    ]


def _name(text: str | None) -> str:
    return "unknown" if text is None else " ".join(clean(text).split())


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else f"{value:,}"


def _usd(value: float | None) -> str:
    return _UNKNOWN if value is None else dollars(value).removesuffix(" USD")
