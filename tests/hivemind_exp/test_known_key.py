"""A known key is removed from what a service said, however the service wrote it."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import pytest

from hivemind_exp.known_key import without_known_key

KEYS = ("sk-test-abc+/DEF=1234567890", "0123456789abcdef0123456789abcdef", "hf_" + "aB3" * 11)


def forms(key: str) -> dict[str, str]:
    colored = f"{key[:4]}\x1b[31m\n\u200b{key[4:]}"
    return {
        "plain": key,
        "quoted for a URL": quote(key, safe=""),
        "every character quoted": "".join(f"%{ord(each):02X}" for each in key),
        "JSON escapes": "".join(f"\\u{ord(each):04x}" for each in key),
        "split": colored,
        "split, in JSON": json.dumps(colored),
        "spaced": " ".join(key),
        "upper case": key.upper(),
        **{f"base64 at {len(begin)}": base64.b64encode(begin + key.encode()).decode() for begin in (b"", b"a", b"ab")},
        "base64 for URLs": base64.urlsafe_b64encode(f"api:{key}".encode()).decode(),
    }


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", forms(KEYS[0]))
def test_every_form_of_the_key_is_removed(key: str, form: str) -> None:
    written = forms(key)[form]
    left = without_known_key(f"bad key {written} given", key, "…")
    assert "…" in left
    assert len(left) <= len("bad key … given") + (7 if "64" in form else 2)  # what came before it in the base64


def test_other_text_stays() -> None:
    said = "no model sk-test in your local network"
    assert without_known_key(said, KEYS[0]) == without_known_key(said, None) == said
    assert without_known_key("LOCAL, local", "local", "…") == "LOCAL, …"  # a short key may be a word
