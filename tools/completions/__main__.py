"""Write the completion scripts. With ``--check``, exit with code 1 if any is out of date."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from swarmctl.cli import app
from swarmctl.completion.install import MARKER
from swarmctl.paths import COMPLETIONS
from tools.completions import bash, fish, zsh
from tools.completions.tables import tables
from tools.completions.tree import tree
from tools.completions.words import WORDS
from tools.generated import update

TEMPLATES = Path(__file__).with_name("templates")


def scripts() -> dict[str, str]:
    """Return the text of each script by file name."""
    root = tree(app, WORDS)
    table = tables(root)
    filled = {"bash": bash.fill(table), "zsh": zsh.fill(root), "fish": fish.fill(table)}
    return {f"swarmctl.{shell}": _rendered(shell, marks) for shell, marks in filled.items()}


def _rendered(shell: str, marks: dict[str, str]) -> str:
    text = (TEMPLATES / f"swarmctl.{shell}").read_text(encoding="utf-8")
    for mark, content in {"marker": MARKER, **marks}.items():
        text = text.replace(f"@@{mark}@@", content)
    return text


def main(arguments: Sequence[str]) -> int:
    """Run the script; return its exit code."""
    return update({COMPLETIONS / name: text for name, text in scripts().items()}, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
