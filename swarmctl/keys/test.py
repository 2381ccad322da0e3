"""``swarmctl keys test``: test whether each service accepts its key. Costs nothing."""

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hivemind_exp.errors import KeyProblem, NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.providers import PROVIDERS
from swarmctl.errors import Exit
from swarmctl.keys.finder import Key, KeyFinder, address_to_test, known_names
from swarmctl.keys.key_text import check_name, dotted_tail, host_of, last_four
from swarmctl.keys.probe import KeyTest, probe
from swarmctl.keys.saved import note_test, read_entry
from swarmctl.storage.json_file import now
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.safe_text import without_keys
from swarmctl.terminal.suggest import nearest
from swarmctl.terminal.views import Writer

_FEW = 8
"""Number of models listed in text. The JSON lists all."""


def test_keys(name: str | None, *, as_json: bool, no_input: bool) -> Exit:
    """Test one key, or all. Raises KeyProblem if there are none."""
    finder = KeyFinder(Prompter(silent=no_input or as_json), os.environ)
    names = known_names(os.environ) if name is None else [check_name(name)]
    if not names:
        raise KeyProblem("no keys to test", next="swarmctl keys set openai")
    found = {each: _find(finder, each, strict=name is not None) for each in names}
    with ThreadPoolExecutor(len(found)) as pool:
        tested = list(pool.map(_test, found, found.values()))
    rows = [_row(name, key, *one) for (name, key), one in zip(found.items(), tested, strict=True)]
    valid = all(row["result"] == "valid" for row in rows)
    if as_json:
        print_json(ok=valid, tests=rows)
    else:
        write = Writer(sys.stdout)
        for row, (finding, _) in zip(rows, tested, strict=True):
            for line in _text(row, every=name is not None):
                write(line, indent="  ")
            if finding.next:
                write(f"  try: {typed(finding.next)}")
    return Exit.DONE if valid else Exit.CHECK_FAILED


def _find(finder: KeyFinder, name: str, *, strict: bool) -> Key | NodeError:
    """Read a key, or return the error. With ``strict``, raise the error: the user asked for this key only."""
    try:
        if key := finder.find(name):
            return key
        guess = None if name in PROVIDERS else nearest(name, {*PROVIDERS, *known_names(os.environ)})
        hint = f"; did you mean {guess}?" if guess else ""
        known = guess or (name if name in PROVIDERS else None)
        following = f"swarmctl keys set {known}" if known else "swarmctl keys list"
        raise KeyProblem(f"no key for {name}{hint}", next=following)
    except NodeError as error:
        if strict:
            raise
        return error


def _test(name: str, key: Key | NodeError) -> tuple[KeyTest, str | None]:
    """Return the result of a key's test, and the host that it belongs to."""
    if isinstance(key, NodeError):
        return KeyTest("unreadable", key.message, next=key.next), None
    try:
        address = address_to_test(key, os.environ) or ""
        host, finding = host_of(address), probe(name, address, key.value)
    except NodeError as error:
        host, finding = key.host, KeyTest("unreadable", error.message, next=error.next)
    if key.spot.is_saved and (entry := read_entry(name)):
        note_test(entry, finding.result)
    return finding, host


def _row(name: str, key: Key | NodeError, finding: KeyTest, host: str | None) -> dict[str, Any]:
    where, tail = (None, None) if isinstance(key, NodeError) else (key.spot.where, last_four(key.value))
    return {
        "name": name,
        "host": host,
        "where": where,
        "last_four": tail,
        "result": finding.result,
        "detail": finding.detail,
        "models": None if finding.models is None else without_keys(list(finding.models)),
        "time": now(),
    }


def _text(row: dict[str, Any], *, every: bool) -> Iterator[str]:
    word = row["result"].replace("_", " ")
    if row["where"] is None:
        yield f"{row['name']}: {word}: {row['detail']}"
        return
    origin = f"{dotted_tail(row['last_four'])} from {row['where']}, {row['host']}"
    yield f"{row['name']}: {word}, {row['detail']} ({origin})"
    models = row["models"] or []
    if every and models:
        rest = f" and {len(models) - _FEW} more (use --json to list all)" if len(models) > _FEW else ""
        yield f"  {', '.join(map(foreign, models[:_FEW]))}{rest}"
