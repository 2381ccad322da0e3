"""The recipes of ARCHITECTURE.md, and copies of the code that they change."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tests.support.command_line import ROOT
from tests.support.forked_python import run_python

COPIED = ("swarmctl", "hivemind_exp", "tools", "tests", "docs", "examples", "benchmarks", "pyproject.toml")
GENERATED = ("swarmctl/completions/", "docs/events.md")
"""Files that the recipes' own commands write."""


def recipes() -> dict[str, list[str]]:
    """Return the lines of each recipe, by heading."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition("## Recipes")[2]
    parts = re.split(r"^### (.+)$", text, flags=re.MULTILINE)[1:]
    return {
        heading: [line for line in body.splitlines() if line.strip()]
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
    }


def steps(recipe: str) -> list[str]:
    """Return the lines of a recipe's numbered steps, without the remarks around them."""
    return [line for line in recipes()[recipe] if re.match(r"\d\. |   ", line)]


def named_tests(recipe: str) -> list[str]:
    """Return the paths in the line that says which tests to run after a recipe, which is its last line."""
    *_, last = "".join(recipes()[recipe]).rpartition("Tests: ")
    return re.findall(r"`(tests/[\w/.]*)`", last)


class Copy:
    """A copy of the code that a recipe changes."""

    def __init__(self, root: Path) -> None:
        for source in [*(ROOT / name for name in COPIED), *ROOT.glob("*.md"), *ROOT.glob("*.txt")]:
            name = source.name
            if source.is_dir():
                shutil.copytree(source, root / name)  # with compiled files: they fit what a recipe does not change
            else:
                shutil.copy(source, root / name)
        self.root = root
        self.touched: set[str] = set()
        self._generated = False

    def write(self, path: str, text: str) -> None:
        """Add a file."""
        assert not (self.root / path).exists()
        (self.root / path).parent.mkdir(exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")
        self.touched.add(path)

    def put(self, path: str, after: str, line: str) -> None:
        """Insert ``line`` directly after the text ``after``."""
        self.replace(path, after, f"{after}{line}")

    def replace(self, path: str, old: str, new: str) -> None:
        """Replace the text ``old``, which the file contains once."""
        text = (self.root / path).read_text(encoding="utf-8")
        assert text.count(old) == 1, (path, old)
        (self.root / path).write_text(text.replace(old, new), encoding="utf-8")
        self.touched.add(path)

    def python(self, *arguments: str) -> str:
        """Run Python on the copy and return its output."""
        environment = os.environ | {"PYTHONPATH": str(self.root), "SWARMCTL_HOME": str(self.root / "home")}
        done = run_python(arguments, self.root, environment | {"OMP_NUM_THREADS": "1"})
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr
        self._generated |= arguments == ("-m", "tools.generate")
        return done.stdout

    def check_style(self) -> None:
        """Assert that ruff and mypy accept what was written, as ``make lint`` would."""
        paths = sorted(path for path in self.touched if path.endswith(".py"))
        self.python("-m", "ruff", "check", "--no-cache", *paths)
        self.python("-m", "ruff", "format", "--no-cache", "--check", *paths)
        modules = [path for path in paths if not path.startswith("tests/")]
        cache = self.root / "mypy"
        if (known := ROOT / ".mypy_cache").exists():  # what make lint knows holds for all that a recipe does not change
            shutil.copytree(known, cache)
        self.python("-m", "mypy", "--config-file=pyproject.toml", f"--cache-dir={cache}", *modules)

    def check_files(self, recipe: str, name: str) -> None:
        """Assert that the recipe names exactly the files it changed.

        Generates files if the recipe says so; otherwise asserts that they are up to date.
        """
        text = " ".join(steps(recipe))
        if "tools.generate" not in text:
            self.python("-m", "tools.generate", "--check")
        elif not self._generated:
            self.python("-m", "tools.generate")
        named = {path.replace("NAME", name) for path in re.findall(r"`([\w/.]+\.(?:py|toml))`", text)}
        assert {path for path in self.touched if not path.startswith(GENERATED)} == named
