"""Charters: a swarm's rules, fixed when the swarm is created. The charter's hash is the swarm's id.

The canonical bytes are ASCII JSON with sorted keys and no spaces, and every number is an integer. Bytes from peers are
hashed first, then parsed, and rejected unless they are in exactly this form.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from hivemind_exp.errors import SwarmError
from hivemind_exp.swarm.identity import SIGNATURE_BYTES, Identity, is_peer_id, verify

if TYPE_CHECKING:
    from pydantic import JsonValue

FORMAT, WITH_CURRICULUM = 1, 2
"""The formats of charters. Only those that allow a curriculum have the second, so that older versions read the others.
"""
MILLION = 1_000_000
LONGEST = 65_536
"""Maximum size of a charter in bytes."""
MOST_TASKS = 64
MOST_LEVELS = 16
"""Maximum number of a task's levels of difficulty."""
GROUP_SIZES = range(2, 65)
STAGE_TIMES = range(5, 86_401)
"""Allowed seconds per stage."""
LARGEST_INTEGER = 2**63 - 1
_DEEPEST = 8
"""Maximum nesting of lists and tables in a task's parameters."""
_DIGITS = range(-LARGEST_INTEGER, LARGEST_INTEGER + 1)
_DECIMAL = "decimal"
"""Key of the table that encodes a float: {"decimal": [digits, exponent]} is digits · 10^exponent."""
_CONTEXT = b"charter 1\x00"

GameKind = Literal["sampling", "study-group"]
Check = Literal["exact", "math"]


@dataclass(frozen=True, slots=True)
class CharterTask:
    """One source of questions, with all that a node needs to generate exactly the same questions."""

    label: str
    """Its name in the mixture."""
    name: str
    """A built-in task."""
    params: Mapping[str, JsonValue]
    check: Check
    weight_ppm: int
    """Share of all questions, in parts per million."""
    version: str
    """Name and version of the library that generates the questions, or the empty string."""
    digest: str
    """SHA-256 (hex) over 64 items (``Mixture.digest``)."""
    size: int | None
    """Number of training questions in a fixed set."""
    sha256: str | None
    """SHA-256 (hex) of a fixed set's data."""
    levels: tuple[Mapping[str, JsonValue], ...] = ()
    """The parameters of each level of difficulty at which a node may ask the task, the easiest first and the task's own
    last. Empty: only with its own parameters. ``digest`` then covers questions of each level, too."""


@dataclass(frozen=True)
class Charter:
    """A swarm's rules. Raises SwarmError if a field is invalid."""

    name: str
    founder: str
    """Peer id of the swarm's creator."""
    t0: int
    """Start of the game's first time slot, in Unix seconds."""
    nonce: str
    """32 random hex digits. They make two otherwise equal swarms different."""
    game: GameKind
    group_size: int
    """G: completions per question."""
    stage_time: int
    """Seconds per stage."""
    is_open: bool
    """Whether anyone who finds the swarm may join; otherwise, only those with an invitation."""
    tasks: tuple[CharterTask, ...]
    curriculum: bool = False
    """Whether a node may ask tasks more or less often than their shares, and at the levels that ``tasks`` list."""

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def canonical(self) -> bytes:
        """The charter's canonical bytes."""
        table = dataclasses.asdict(self) | {"format": self.format}
        if not self.curriculum:
            del table["curriculum"]
        for task in table["tasks"]:
            task["params"] = _plain(task["params"])
            levels = task.pop("levels")
            if self.curriculum:
                task["levels"] = [_plain(level) for level in levels]
        return json.dumps(table, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()

    @property
    def format(self) -> int:
        """The charter's format."""
        return WITH_CURRICULUM if self.curriculum else FORMAT

    @property
    def id(self) -> str:
        """The swarm's id: SHA-256 (hex) of the canonical bytes."""
        return hashlib.sha256(self.canonical).hexdigest()

    def seal(self, identity: Identity) -> bytes:
        """Return the signed charter as sent to peers: the signature (64 bytes), then the canonical bytes."""
        if identity.peer_id != self.founder:
            raise ValueError("only its creator can sign a charter")
        return identity.sign(_CONTEXT + self.canonical) + self.canonical

    @classmethod
    def open(cls, envelope: bytes, expected_id: str) -> Charter:
        """Return the charter in ``envelope``, after checking its id and its signature.

        Raises:
            SwarmError: it is another charter, was altered, has no valid signature, or this version cannot read it.
        """
        if not SIGNATURE_BYTES < len(envelope) <= SIGNATURE_BYTES + LONGEST:
            raise _refused(f"its size of {len(envelope)} bytes is out of bounds")
        signature, body = envelope[:SIGNATURE_BYTES], envelope[SIGNATURE_BYTES:]
        found = hashlib.sha256(body).hexdigest()
        if found != expected_id:
            raise _refused(f"it belongs to another swarm ({found[:12]}…, expected {expected_id[:12]}…)")
        charter = _parse(body)
        if not verify(charter.founder, _CONTEXT + body, signature):
            raise _refused("its creator did not sign it")
        return charter


def _parse(body: bytes) -> Charter:
    try:
        table = json.loads(body.decode("ascii"), parse_float=_no_number, parse_constant=_no_number, parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise _refused("it is not ASCII JSON with only integer numbers") from error
    version = table.get("format") if isinstance(table, dict) else FORMAT
    if not _is_integer(version, range(FORMAT, WITH_CURRICULUM + 1)):
        raise _refused(
            f"its format is not {FORMAT} or {WITH_CURRICULUM}; a newer version of swarmctl may be able to read it"
        )
    later = set() if version == WITH_CURRICULUM else {"curriculum", "levels"}
    _only(table, {"format", *_names(Charter)} - later, "it")
    tasks = table.pop("tasks")
    if not isinstance(tasks, list) or len(tasks) > MOST_TASKS:
        raise _refused(f"its tasks are not a list of at most {MOST_TASKS}")
    for task in tasks:
        _only(task, _names(CharterTask) - later, "a task")
        task["params"] = _rich(task["params"])
        levels = task.setdefault("levels", [])
        _need(isinstance(levels, list) and len(levels) <= MOST_LEVELS, "levels")
        task["levels"] = tuple(map(_rich, levels))
    del table["format"]
    charter = Charter(**table, tasks=tuple(CharterTask(**task) for task in tasks))
    if charter.canonical != body:
        raise _refused("it is not in canonical form")
    return charter


def _check(charter: Charter) -> None:
    """Raise SwarmError unless every field has the right type and is within bounds."""
    _need(isinstance(charter.curriculum, bool), "curriculum")
    _need(_is_word(charter.name, r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"), "name")
    _need(is_peer_id(charter.founder), "founder")
    _need(_is_integer(charter.t0, range(2**40)), "t0")
    _need(_is_word(charter.nonce, r"[0-9a-f]{32}"), "nonce")
    _need(charter.game in get_args(GameKind), "game")
    _need(_is_integer(charter.group_size, GROUP_SIZES), "group_size")
    _need(_is_integer(charter.stage_time, STAGE_TIMES), "stage_time")
    _need(isinstance(charter.is_open, bool), "is_open")
    _need(1 <= len(charter.tasks) <= MOST_TASKS, "tasks")
    _need(not charter.curriculum or charter.game == "sampling", "curriculum")
    for task in charter.tasks:
        _check_task(task)
        _need(charter.curriculum or not task.levels, "levels")
    _need(len({task.label for task in charter.tasks}) == len(charter.tasks), "label")
    _need(sum(task.weight_ppm for task in charter.tasks) == MILLION, "weight_ppm")
    if len(charter.canonical) > LONGEST:
        raise _refused(f"it is longer than {LONGEST} bytes")


def _check_task(task: CharterTask) -> None:
    _need(_is_word(task.label, r"[a-z0-9][a-z0-9_-]{0,63}"), "label")
    _need(_is_word(task.name, r"[a-z0-9][a-z0-9_-]{0,63}"), "name")
    _need(isinstance(task.params, Mapping), "params")
    _check_value(task.params, _DEEPEST)
    _need(len(task.levels) <= MOST_LEVELS and all(isinstance(level, Mapping) for level in task.levels), "levels")
    for level in task.levels:
        _check_value(level, _DEEPEST)
    _need(task.check in get_args(Check), "check")
    _need(_is_integer(task.weight_ppm, range(1, MILLION + 1)), "weight_ppm")
    _need(_is_word(task.version, r"([A-Za-z0-9._-]{1,64} [0-9][0-9A-Za-z.+!-]{0,31})?"), "version")
    _need(_is_word(task.digest, r"[0-9a-f]{64}"), "digest")
    _need(task.size is None or _is_integer(task.size, range(1, 2**40)), "size")
    _need(task.sha256 is None or _is_word(task.sha256, r"[0-9a-f]{64}"), "sha256")
    _need((task.size is None) == (task.sha256 is None), "sha256")


def _check_value(value: object, deeper: int) -> None:
    """Raise SwarmError unless ``value`` survives a round trip through canonical bytes unchanged."""
    match value:
        case None | bool():
            return
        case int():
            _need(abs(value) <= LARGEST_INTEGER, "params")
        case float():
            _need(math.isfinite(value), "params")
        case str():
            _need(len(value) <= 4096 and _is_unicode(value), "params")
        case list() if deeper:
            for item in value:
                _check_value(item, deeper - 1)
        case Mapping() if deeper:
            _need(_DECIMAL not in value, "params")
            for key, item in value.items():
                _need(isinstance(key, str) and len(key) <= 128 and _is_unicode(key), "params")
                _check_value(item, deeper - 1)
        case _:
            _need(False, "params")


def _plain(value: Any) -> Any:
    """Return ``value`` without floats: each becomes digits and a power of ten that give exactly the same float back."""
    if isinstance(value, float):
        sign, digits, exponent = Decimal(repr(value)).as_tuple()
        # By hand, because Decimal rounds to its context's precision, and libraries change the context.
        text = "".join(map(str, digits)).rstrip("0")
        number = int(text or "0")
        return {_DECIMAL: [-number if sign else number, int(exponent) + len(digits) - len(text) if text else 0]}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _rich(value: Any, deeper: int = 2 * _DEEPEST) -> Any:
    """Undo ``_plain``."""
    if not deeper:
        raise _refused("its params are nested too deeply")
    if isinstance(value, list):
        return [_rich(item, deeper - 1) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() != {_DECIMAL}:
        return {key: _rich(item, deeper - 1) for key, item in value.items()}
    pair = value[_DECIMAL]
    integers = isinstance(pair, list) and len(pair) == 2 and all(_is_integer(item, _DIGITS) for item in pair)
    if not integers or abs(pair[1]) > 400:
        raise _refused("it contains an invalid decimal number")
    return float(f"{pair[0]}e{pair[1]}")


def _names(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _only(table: object, names: set[str], what: str) -> None:
    """Raise SwarmError unless ``table`` has exactly the fields with these names."""
    if not isinstance(table, dict) or table.keys() != names:
        raise _refused(
            f"{what} does not have exactly the fields of its format; a newer version of swarmctl may be able to read it"
        )


def _is_integer(value: object, allowed: range) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in allowed


def _is_word(value: object, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _need(right: bool, field: str) -> None:
    if not right:
        raise _refused(f"invalid value for {field}")


def _integer(text: str) -> int:
    if len(text) > 20:
        raise ValueError("an integer with more than 64 bits")
    return int(text)


def _no_number(_: str) -> NoReturn:
    raise ValueError("a number that is not an integer")


def _refused(why: str) -> SwarmError:
    return SwarmError(f"invalid charter: {why}", next="swarmctl swarm --help")
