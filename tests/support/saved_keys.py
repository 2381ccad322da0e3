"""Save and find keys, without a keyring."""

from __future__ import annotations

import os
from collections.abc import Callable

from swarmctl.errors import Exit
from swarmctl.keys.finder import Key, KeyFinder
from swarmctl.terminal.prompter import Prompter

KEY = "sk-test-0123456789abcd9f3c"
OTHER = "sk-test-0123456789abcda1b2"
Run = Callable[..., tuple[int, str, str]]


def save(run: Run, name: str = "openai", key: str = KEY, *more: str) -> None:
    code, _, err = run("set", name, "--insecure-storage", "--no-test", *more, piped=key)
    assert code == Exit.DONE, err


def find(name: str, **how: object) -> Key | None:
    return KeyFinder(Prompter(silent=True), os.environ).find(name, **how)  # type: ignore[arg-type]
