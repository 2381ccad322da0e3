"""Write the table of events into ``docs/events.md``, or with ``--check`` say whether it is up to date (exit code 1)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hivemind_exp.events import EVENTS, Event
from tools.generated import update

DOCUMENT = Path(__file__).parents[1] / "docs" / "events.md"
BEGIN = "<!-- Made by `python -m tools.events` from hivemind_exp/events.py; do not edit. -->"
END = "<!-- End of what is made. -->"
_TYPES = {"boolean": "true or false", "object": "object of numbers"}


def table() -> str:
    """Return the table in Markdown: a row for each event, and one for each of its fields below it."""
    rows = [row for model in EVENTS.values() for row in _rows(model)]
    return "\n".join(["| event | field | type | meaning |", "|---|---|---|---|", *rows])


def _rows(model: type[Event]) -> Iterator[str]:
    yield _row(f"`{model.event_name()}`", "", "", model.__doc__ or "")
    for name, schema in model.model_json_schema(mode="serialization")["properties"].items():
        yield _row("", f"`{name}`", _type(schema), schema["description"])


def _row(*cells: str) -> str:
    return f"| {' | '.join(' '.join(cell.split()) for cell in cells)} |"


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}s"
    kind: str = schema["type"]
    return _TYPES.get(kind, kind)


def document() -> str:
    """Return ``docs/events.md`` with the table as it should be."""
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Run the script; return its exit code."""
    return update({DOCUMENT: document()}, arguments, "tools.events")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
