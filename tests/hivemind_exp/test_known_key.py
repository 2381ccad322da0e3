"""A known key is removed from what a service said, however the service wrote it."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from hivemind_exp.known_key import answer_without_key, without_known_key

_LONG = 60
KEYS = ("sk-test-abc+/DEF=1234567890", "0123456789abcdef0123456789abcdef", "hf_" + "aB3" * 11)


def forms(key: str) -> dict[str, str]:
    colored = f"{key[:4]}\x1b[31m\n\u200b{key[4:]}"
    return {
        "plain": key,
        "quoted for a URL": quote(key, safe=""),
        "every character quoted": "".join(f"%{ord(each):02X}" for each in key),
        "JSON escapes": "".join(f"\\u{ord(each):04x}" for each in key),
        "JSON escapes, in JSON": json.dumps("".join(f"\\u{ord(each):04x}" for each in key)),
        "HTML": "".join(f"&#{ord(each)};" for each in key),
        "HTML, hex": "".join(f"&#x{ord(each):x};" for each in key),
        "hex escapes": "".join(f"\\x{ord(each):02x}" for each in key),
        "hex": key.encode().hex(),
        "split": colored,
        "split, in JSON": json.dumps(colored),
        "spaced": " ".join(key),
        "upper case": key.upper(),
        **{f"base64 at {len(begin)}": base64.b64encode(begin + key.encode()).decode() for begin in (b"", b"a", b"ab")},
        "base64 for URLs": base64.urlsafe_b64encode(f"api:{key}".encode()).decode(),
        "base64 in JSON": base64.b64encode(key.encode()).decode().replace("/", r"\/").replace("+", r"\u002b"),
        "base64 in lines": base64.encodebytes(b"a" * _LONG + key.encode()).decode(),
    }


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", forms(KEYS[0]))
def test_every_form_of_the_key_is_removed(key: str, form: str) -> None:
    written = forms(key)[form]
    left = without_known_key(f"bad key {written} given", key, "…")
    assert "…" in left
    before = {"base64 in lines": 4 * _LONG // 3 + 4}.get(form, 7 if "64" in form else 2)  # in the base64
    assert len(left) <= len("bad key … given") + before


def test_other_text_stays() -> None:
    said = "no model sk-test in your local network"
    assert without_known_key(said, KEYS[0]) == without_known_key(said, None) == said
    assert without_known_key("LOCAL, local", "local", "…") == "LOCAL, …"  # a short key may be a word


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", forms(KEYS[0]))
def test_an_answer_stays_valid_without_the_key(key: str, form: str) -> None:
    answer = {"text": f"before {forms(key)[form]} after", "half": "\ud83d", "other": "é"}
    left = json.loads(answer_without_key(json.dumps(answer).encode(), key))
    assert "(the key)" in left["text"]
    assert left["text"].startswith("before ")
    assert left["text"].endswith(" after")
    assert (left["half"], left["other"]) == ("\ud83d", "é")


@pytest.mark.parametrize("key", [*KEYS, "sk-ant-api03-" + "aB3-xY_9" * 5, "123e4567-e89b-12d3-a456-426614174000"])
def test_halves_of_the_key_are_removed_wherever_they_are(key: str) -> None:
    half = len(key) // 2
    answer = {"content": [{"text": f"a {key[:half]}"}, {"text": f"{key[half:]} b"}], "of": 123456789012}
    left = answer_without_key(json.dumps(answer).encode(), key).decode()
    secret = key.removeprefix("sk-ant-api03-").removeprefix("sk-test-")
    assert not any(secret[begin : begin + 12] in left for begin in range(len(secret) - 11))
    first, second = json.loads(left)["content"]
    assert (first["text"][:2], second["text"][-2:], json.loads(left)["of"]) == ("a ", " b", 123456789012)


def test_pieces_without_end_are_removed_in_time() -> None:
    key = KEYS[2]
    left = without_known_key(f"{key[6:18]} " * 2000 + "end", key, "…")
    assert key[6:18] not in left
    assert left.endswith("… end")


def test_what_may_be_a_word_or_a_number_is_not_a_piece_of_a_key() -> None:
    said = "12345678901234 local-development sk-ant-api03-… sk-proj-aB3…"
    for key in ("sk-123456789012345678901234", "my-local-development-server", "sk-proj-aB3" + "xY_9" * 9):
        assert without_known_key(said, key) is said


def test_an_answer_without_the_key_is_not_changed() -> None:
    answer = b'{"text": "local \xff \\n", "index": 0}'
    assert all(answer_without_key(answer, key) is answer for key in (*KEYS, "x", "local", None))
