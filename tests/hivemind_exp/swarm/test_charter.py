"""Charters: each has one canonical form without floats, and everything else is rejected."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from decimal import localcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_exp.errors import SwarmError
from hivemind_exp.swarm import charter as module
from hivemind_exp.swarm.charter import MILLION, Charter
from hivemind_exp.swarm.identity import Identity
from tests.support.charters import FILE, FOUNDER, LEVELS, charter, with_curriculum, words

WHOLE = charter()
ENVELOPE = WHOLE.seal(FOUNDER)

integers = st.integers(-module.LARGEST_INTEGER, module.LARGEST_INTEGER)
plain = st.none() | st.booleans() | integers | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
params = st.dictionaries(
    st.text(max_size=10).filter(lambda key: key != "decimal"),
    st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("a"), inner), max_leaves=8),
    max_size=4,
)


def signed(body: bytes) -> tuple[bytes, str]:
    """Return an envelope with any body, signed by the creator, and its id."""
    return FOUNDER.sign(b"charter 1\x00" + body) + body, hashlib.sha256(body).hexdigest()


def test_a_sealed_charter_can_be_opened() -> None:
    assert Charter.open(ENVELOPE, WHOLE.id) == WHOLE
    assert WHOLE.id == hashlib.sha256(ENVELOPE[64:]).hexdigest()
    assert charter(nonce="1f" * 16).id != WHOLE.id


def test_the_id_is_the_same_on_every_machine() -> None:
    """The bytes are part of the wire format: another form would split every swarm."""
    fixed = charter(founder="12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm")
    assert fixed.canonical.startswith(b'{"format":1,"founder":"12D3KooW')
    assert b'"nested":{"list":[1,null,true,"\\u00e9"],"p":{"decimal":[1,-1]}}' in fixed.canonical
    assert fixed.id == "b30b452f490f6521a67fd051c170d577e654cc3e886b3fdba130db61708234f1"


def test_a_charter_with_a_curriculum_has_a_form_of_its_own() -> None:
    fixed = with_curriculum(founder="12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm")
    assert fixed.canonical.startswith(b'{"curriculum":true,"format":2,"founder":"12D3KooW')
    assert b'"levels":[{"max_word_len":3},{"max_word_len":4,"p":{"decimal":[5,-1]}},' in fixed.canonical
    assert fixed.canonical.count(b'"levels":') == 2
    assert fixed.id == "a13e8173fc3f7b24e552f4a0a8d899104779af447ef7a2ef48c96c9e2292c664"
    made = with_curriculum()
    opened = Charter.open(made.seal(FOUNDER), made.id)
    assert opened == made
    assert (opened.format, opened.curriculum, opened.tasks[0].levels) == (2, True, LEVELS)
    assert (WHOLE.format, WHOLE.curriculum, WHOLE.tasks[0].levels) == (1, False, ())
    assert not {b'"curriculum"', b'"levels"'} & set(re.findall(rb'"[a-z]+"', WHOLE.canonical))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"curriculum":true', b'"curriculum":false', "canonical|levels"),
        (b'"curriculum":true', b'"curriculum":1', "curriculum|canonical"),
        (b'"curriculum":true,', b"", "exactly the fields"),
        (b'"format":2', b'"format":1', "exactly the fields"),
        (b'"format":2', b'"format":3', "newer version"),
        (b'"levels":[]', b'"levels":null', "levels"),
        (b'"levels":[]', b'"levels":[1]', "levels"),
        (b'"levels":[]', b'"levels":[' + b"{}," * 16 + b"{}]", "levels"),
        (b'"levels":[]', b'"levels":[{"a":"\ud800"}]', "params"),
        (b'"levels":[],', b"", "exactly the fields"),
        (b'"game":"sampling"', b'"game":"study-group"', "curriculum"),
    ],
)
def test_an_invalid_curriculum_is_rejected_even_if_signed(old: bytes, new: bytes, told: str) -> None:
    whole = with_curriculum().canonical
    assert whole.count(old) == 1
    with pytest.raises(SwarmError, match=told):
        Charter.open(*signed(whole.replace(old, new)))


def test_levels_need_a_curriculum() -> None:
    with pytest.raises(SwarmError, match="levels"):
        with_curriculum(curriculum=False)


@pytest.mark.slow
@settings(deadline=None)
@given(params)
def test_parameters_survive_a_round_trip_without_floats(params: dict[str, Any]) -> None:
    made = charter(tasks=(words(params=params, weight_ppm=MILLION),))
    opened = Charter.open(made.seal(FOUNDER), made.id)
    assert opened == made
    assert repr(opened.tasks[0].params).replace("-0.0", "0.0") == repr(_sorted(params)).replace("-0.0", "0.0")
    assert not any(isinstance(value, float) for value in _leaves(json.loads(made.canonical)))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list) else value


def _leaves(value: Any) -> Iterator[Any]:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not isinstance(value, dict | list):
        yield value
    for item in items:
        yield from _leaves(item)


@settings(deadline=None)
@given(st.integers(0, len(ENVELOPE) - 1), st.integers(1, 255))
def test_no_byte_may_change(place: int, by: int) -> None:
    changed = ENVELOPE[:place] + bytes([ENVELOPE[place] ^ by]) + ENVELOPE[place + 1 :]
    with pytest.raises(SwarmError):
        Charter.open(changed, WHOLE.id)
    # Nor if the expected id is that of the changed bytes.
    with pytest.raises(SwarmError):
        Charter.open(changed, hashlib.sha256(changed[64:]).hexdigest())


@settings(deadline=None)
@given(st.integers(0, len(ENVELOPE)), st.binary(max_size=3))
def test_nothing_may_be_cut_or_added(place: int, more: bytes) -> None:
    for changed in (ENVELOPE[:place], ENVELOPE + more, ENVELOPE[:place] + more + ENVELOPE[place:]):
        if changed != ENVELOPE:
            with pytest.raises(SwarmError):
                Charter.open(changed, hashlib.sha256(changed[64:]).hexdigest())


def test_another_swarms_charter_is_rejected_before_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_parse", lambda _: pytest.fail("parsed before its hash was right"))
    with pytest.raises(SwarmError, match="another swarm"):
        Charter.open(ENVELOPE, charter(name="other").id)
    with pytest.raises(SwarmError, match="bytes"):
        Charter.open(b"\0" * 10_000_000, WHOLE.id)


def test_only_the_creator_can_sign() -> None:
    other = Identity.generate()
    with pytest.raises(ValueError, match="only its creator can sign"):
        WHOLE.seal(other)
    with pytest.raises(SwarmError, match="did not sign"):
        Charter.open(other.sign(b"charter 1\x00" + WHOLE.canonical) + WHOLE.canonical, WHOLE.id)
    # A signature without the charter's prefix is not valid for a charter.
    with pytest.raises(SwarmError, match="did not sign"):
        Charter.open(FOUNDER.sign(WHOLE.canonical) + WHOLE.canonical, WHOLE.id)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b'"t0":1760000000', b'"t0":1760000000.0', "not ASCII JSON with only integer numbers"),
        (b'"t0":1760000000', b'"t0":1.76e9', "not ASCII JSON with only integer numbers"),
        (b'"t0":1760000000', b'"t0":NaN', "not ASCII JSON with only integer numbers"),
        (b'"t0":1760000000', b'"t0":' + b"9" * 5000, "not ASCII JSON with only integer numbers"),
        (b'"t0":1760000000', b'"t0":"1760000000"', "t0"),
        (b'"t0":1760000000', b'"t0":true', "t0"),
        (b'"t0":1760000000', b'"t0":-1', "t0"),
        (b'"t0":1760000000', b'"t0":1760000000,"x":1', "exactly the fields"),
        (b'"t0":1760000000', b'"t0":0,"t0":1760000000', "canonical"),
        (b'"t0":1760000000', b'"t0": 1760000000', "canonical"),
        (b'"t0":1760000000', b'"t0":01760000000', "not ASCII JSON"),
        (b'"t0":1760000000,', b"", "exactly the fields"),
        (b'"label":"jsonl"', b'"label":"jsonl","extra":1', "exactly the fields"),
        (b'"label":"jsonl"', b'"label":"spell_backward"', "label"),
        (b'"label":"jsonl"', b'"label":["jsonl"]', "label"),
        (b'"format":1', b'"format":2', "newer version"),
        (b'"format":1', b'"format":true', "format"),
        (b'"name":"maths"', b'"name":"\\u001b[2J"', "name"),
        (b'"name":"maths"', b'"name":"m\\u0061ths"', "canonical"),
        (b'"name":"maths"', '"name":"é"'.encode(), "ASCII"),
        (b'"params":{}', b'"params":[]', "params"),
        (b'"params":{}', b'"params":{"a":' + b"[" * 60_000 + b"]" * 3 + b"}", "not ASCII JSON|bytes"),
        (b'"params":{}', b'"params":{"a":' + b"[" * 30 + b"]" * 30 + b"}", "nested too deeply"),
        (b'"params":{}', b'"params":{"a":' + b"[" * 9 + b"]" * 9 + b"}", "params"),
        (b'"params":{}', b'"params":{"a":"\\ud800"}', "params"),
        (b'"params":{}', b'"params":{"a":99999999999999999999}', "not ASCII JSON|params"),
        (b'"params":{}', b'"params":{"decimal":[1,-1]}', "params"),
        (b'"decimal":[1,-1]', b'"decimal":[10,-2]', "canonical"),
        (b'"decimal":[1,-1]', b'"decimal":[1,999999999]', "invalid decimal number"),
        (b'"decimal":[1,-1]', b'"decimal":[1,399]', "params"),
        (b'"decimal":[1,-1]', b'"decimal":["1",-1]', "invalid decimal number"),
        (b'"decimal":[1,-1]', b'"decimal":[123456789012345678,-18]', "canonical"),
        (b'"weight_ppm":250000', b'"weight_ppm":250001', "weight_ppm"),
        (b'"weight_ppm":250000', b'"weight_ppm":0', "weight_ppm"),
        (b'"version":""', b'"version":"x 1; rm -rf ~"', "version"),
        (b'"check":"math"', b'"check":"eval"', "check"),
        (b'"check":"math"', b'"check":["math"]', "check"),
        (b'"game":"sampling"', b'"game":"roulette"', "game"),
        (b'"game":"sampling"', b'"game":{}', "game"),
        (b'"group_size":8', b'"group_size":1', "group_size"),
        (b'"group_size":8', b'"group_size":65', "group_size"),
        (b'"stage_time":60', b'"stage_time":4', "stage_time"),
        (b'"is_open":false', b'"is_open":0', "is_open"),
        (b'"size":100', b'"size":null', "sha256"),
    ],
)
def test_invalid_charters_are_rejected_even_if_signed(old: bytes, new: bytes, told: str) -> None:
    assert WHOLE.canonical.count(old) == 1
    with pytest.raises(SwarmError, match=told) as caught:
        Charter.open(*signed(WHOLE.canonical.replace(old, new)))
    assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b"1", b'"x"', b"", b"\xff", b"[" * 65_000, b'{"tasks":1}'])
def test_what_is_not_a_charter_is_rejected(body: bytes) -> None:
    with pytest.raises(SwarmError):
        Charter.open(*signed(body))


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_noise_is_rejected(body: bytes) -> None:
    with pytest.raises(SwarmError):
        Charter.open(*signed(body))


def test_a_charters_size_and_values_are_bounded() -> None:
    with pytest.raises(SwarmError, match="longer than 65536 bytes"):
        charter(tasks=(words(params={str(n): "x" * 4000 for n in range(17)}, weight_ppm=MILLION),))
    many = tuple(words(label=f"w-{n}", weight_ppm=MILLION // 64) for n in range(64))
    assert len(charter(tasks=many).canonical) < module.LONGEST
    with pytest.raises(SwarmError, match="tasks"):
        charter(tasks=(*many, FILE))
    with pytest.raises(SwarmError, match="tasks"):
        charter(tasks=())
    for value in (float("nan"), float("inf"), 2**63, b"bytes", "\ud800", {1: 2}, {"decimal": 1}):
        with pytest.raises(SwarmError, match="params"):
            charter(tasks=(words(params={"a": value}, weight_ppm=MILLION),))


@pytest.mark.slow
def test_the_modules_import_nothing_heavy() -> None:
    code = (
        "import sys, hivemind_exp.swarm.identity, hivemind_exp.swarm.charter, hivemind_exp.swarm.invitation\n"
        "import hivemind_exp.swarm.identity\n"
        "light = {'pydantic'} & set(sys.modules)\n"
        "import hivemind_exp.swarm.charter_check\n"
        "heavy = {'torch', 'hivemind', 'openai', 'transformers', 'reasoning_gym', 'asyncio'} & set(sys.modules)\n"
        "print(sorted(light), sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_numbers_are_exact_whatever_decimal_precision_a_library_has_set() -> None:
    with localcontext() as context:
        context.prec = 6
        made = charter(tasks=(words(params={"most": 1000000000001.0, "none": 0.0}, weight_ppm=MILLION),))
        assert Charter.open(made.seal(FOUNDER), made.id).tasks[0].params == {"most": 1000000000001.0, "none": 0.0}
