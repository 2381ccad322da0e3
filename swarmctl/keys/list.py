"""``swarmctl keys list``: list keys from the index and the environment. Opens no keyring and no key file."""

import os
from collections.abc import Mapping
from typing import Any

from swarmctl.keys.finder import address_of, key_locations, known_names
from swarmctl.keys.key_text import dotted_tail, host_of
from swarmctl.keys.saved import read_entry
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.table import print_table


def list_keys(*, as_json: bool) -> None:
    """Print every known key."""
    rows = [_row(name, os.environ) for name in known_names(os.environ)]
    if as_json:
        print_json(keys=rows)
    elif rows:
        print_table([_cells(row) for row in rows], ("name", "host", "ends in", "stored in", "tested"))
    else:
        print("No keys yet. Save one: swarmctl keys set openai")


def _row(name: str, environment: Mapping[str, str]) -> dict[str, Any]:
    first, *others = key_locations(name, environment)
    entry, address = read_entry(name), address_of(name)
    saved = entry if entry is not None and first.place == entry.home else None
    return {
        "name": name,
        "host": host_of(address) if address else None,
        "last_four": first.last_four,
        "place": first.place,
        "where": first.where,
        "shadows": [{"place": spot.place, "where": spot.where, "last_four": spot.last_four} for spot in others],
        **{field: getattr(saved, field, None) for field in ("saved", "tested", "result")},
    }


def _cells(row: Mapping[str, Any]) -> list[str]:
    tested = f"{row['result'].replace('_', ' ')} ({row['tested'][:10]})" if row["tested"] else "not tested"
    overridden = [f"{dotted_tail(spot['last_four'])} from {spot['where']}" for spot in row["shadows"]]
    return [
        row["name"],
        row["host"] or "(not used yet)",
        dotted_tail(row["last_four"]),
        row["where"],
        tested + (f"; overrides {', '.join(overridden)}" if overridden else ""),
    ]
