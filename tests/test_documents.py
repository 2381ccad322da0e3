"""Check that everything the documents name exists: links, files, modules, tests, commands, options, settings."""

from __future__ import annotations

import os
import re
import shlex
import tomllib
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from hivemind_exp.config import Config, LimitsConfig, OffloadConfig, PriceConfig, ProviderConfig
from hivemind_exp.serving_settings import ServingConfig
from hivemind_exp.tasks.families.reasoning_gym_catalogue import GENERATORS
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.settings import profile_files as profiles
from swarmctl.settings.resolve import override
from swarmctl.settings.schema import settings
from tests.support.command_line import ROOT

_BLOCK = re.compile(r"^ *```.*?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_PROMPT = r"\s*(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?"
_COMMAND = re.compile(_PROMPT + r"swarmctl (.*)")
_MODULE = re.compile(_PROMPT + r"python -m ((?:benchmarks|tools|hivemind_exp|swarmctl)\b[\w.]*)(.*)")
_MAKE = re.compile(r"(?:^|.*&& )make ([a-z][\w-]*)")
_SHELL = re.compile(r"\s[|<>]\s?|\s&&\s")
_LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]: (\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+?)#*$", re.MULTILINE)
TOP = ("hivemind_exp", "swarmctl", "tests", "tools", "benchmarks", "docs", "examples")
_PATH = re.compile(rf"(?<![\w/.~$}}-])(?:{'|'.join(TOP)})/[\w.*/-]*[\w*]/?")
_FILE = re.compile(r"(?<![\w/.~*-])[\w/]+\.py\b(?:::\w+)?")
_DOTTED = re.compile(r"(?<![\w/.-])(?:hivemind_exp|tests|tools|benchmarks)(?:\.[a-z]\w*)+")


def documents() -> list[Path]:
    """Return every Markdown file of the repository."""
    found: list[Path] = []
    for place, directories, names in os.walk(ROOT):
        directories[:] = [name for name in directories if name[0] != "." and name not in ("build", "dist")]
        found += [Path(place, name).relative_to(ROOT) for name in names if name.endswith(".md")]
    return sorted(found)


DOCUMENTS = documents()


def read(document: Path) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def lines_of_code(document: Path) -> list[str]:
    """Return the lines of a document's code blocks, and its inline code."""
    text = read(document)
    return [line for block in _BLOCK.findall(text) for line in block.splitlines()] + _INLINE.findall(text)


def commands(document: Path) -> list[list[str]]:
    """Return the arguments of each ``swarmctl`` command in a document's code."""
    shown = [match[1] for line in lines_of_code(document) if (match := _COMMAND.fullmatch(line))]
    return [shlex.split(_SHELL.split(arguments)[0], comments=True) for arguments in shown]


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub makes from a document's headings."""
    headings = _HEADING.findall(_BLOCK.sub("", read(document)))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("document", "arguments"), [(name, words) for name in DOCUMENTS for words in commands(name)], ids=str
)
def test_shown_commands_exist(document: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    created = _created_profiles(document)
    for several in _alternatives(arguments):
        assert cli.run([*several, "--help"]) == Exit.DONE, capsys.readouterr().err
        for option, value in pairwise(several):
            if option == "--set" and value != "KEY=VALUE":
                section, *_ = path = override(value).path
                assert path in settings() or section == "providers", value
            if option in ("--profile", "-p", "--from"):
                assert value in created | set(profiles.builtin_names()) or (ROOT / value).is_file(), value


def _created_profiles(document: Path) -> set[str]:
    """Return the profiles that the document's own commands create."""
    shown = commands(document)
    new = {words[2] for words in shown if words[:2] == ["profiles", "new"] and len(words) > 2}
    imported = [words for words in shown if words[:2] == ["profiles", "import"] and "--name" in words]
    return new | {words[words.index("--name") + 1] for words in imported}


def _alternatives(arguments: list[str]) -> list[list[str]]:
    """Expand ``keys set|list`` and ``keys set · list`` into one command for each of the last words."""
    first = arguments.index("·") - 1 if "·" in arguments else len(arguments) - 1
    last = [word for words in arguments[first:] for word in words.split("|") if word != "·"]
    return [[*arguments[:first], word] for word in last] or [[]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_shown_programs_exist_and_have_their_options(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in lines_of_code(document):
        if match := _MAKE.match(line):
            assert match[1] in targets, line
        if match := _MODULE.match(line):
            path = ROOT / match[1].replace(".", "/")
            source = next((each for each in (path.with_suffix(".py"), path / "__main__.py") if each.is_file()), None)
            assert source is not None, line
            helpers = [each.read_text(encoding="utf-8") for each in (ROOT / "tools").glob("*.py")]
            text = "".join([source.read_text(encoding="utf-8"), *(helpers if match[1].startswith("tools.") else [])])
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", match[2]):
                assert f'"{option}"' in text, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_link_targets_exist(document: Path) -> None:
    for target in filter(None, (one or other for one, other in _LINK.findall(_BLOCK.sub("", read(document))))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        linked = (ROOT / document).parent / name if name else ROOT / document
        assert linked.exists(), target
        if part:
            assert part in anchors(linked.resolve().relative_to(ROOT)), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=str)
def test_named_files_and_modules_exist(document: Path) -> None:
    text = read(document)
    for path in _PATH.findall(text):
        assert _exists(path), path
    for path in _FILE.findall(text):
        file, _, test = path.partition("::")
        here = [ROOT / root / file for root in ("", document.parent)]
        found = [*filter(Path.exists, here), *(each for each in _modules() if f"/{each}".endswith(f"/{file}"))]
        assert found or _is_placeholder(file), path
        assert not test or any(f"def {test}(" in (ROOT / each).read_text(encoding="utf-8") for each in found), path
    for name in _DOTTED.findall(text):
        assert _is_module(name), name


@cache
def _modules() -> list[Path]:
    """Return the Python files of the project, relative to it."""
    return [each.relative_to(ROOT) for top in TOP for each in ROOT.glob(f"{top}/**/*.py")]


def _exists(path: str) -> bool:
    fixed, placeholder, _ = path.partition("NAME")
    return any(ROOT.glob(path.rstrip("/"))) or bool(placeholder and (ROOT / fixed).is_dir())


def _is_placeholder(path: str) -> bool:
    """Whether a part of a path is a placeholder, as in ``checks/NAME.py``, or it is the reader's or llama.cpp's."""
    elsewhere = ("mine.py", "convert_hf_to_gguf.py")
    return path in elsewhere or any(re.fullmatch(r"(test_)?[A-Z]+", Path(part).stem) for part in Path(path).parts)


def _is_module(name: str) -> bool:
    """Whether a dotted name is a module or a name defined in one."""
    path = ROOT / name.replace(".", "/")
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module = path.parent.with_suffix(".py")
    return module.is_file() and re.search(rf"\b{path.name}\b", module.read_text(encoding="utf-8")) is not None


def test_every_option_of_offloading_is_documented() -> None:
    section = read(Path("OFFLOAD_API.md")).partition("## Every option")[2]
    shown = tomllib.loads(section.partition("```toml")[2].partition("```")[0])
    Config.model_validate(shown)
    offload = shown["offload"]
    assert set(offload) == set(OffloadConfig.model_fields)
    assert set(offload["limits"]) == set(LimitsConfig.model_fields)
    assert set(offload["serving"]) == set(ServingConfig.model_fields)
    assert set(offload["prices"]["fireworks"]) == set(PriceConfig.model_fields)
    assert set(shown["providers"]["mybox"]) == set(ProviderConfig.model_fields)


def test_documents_count_the_generators() -> None:
    pages = ["README.md", "docs/rl-swarm.md", "docs/tasks.md"]
    text = " ".join((ROOT / page).read_text(encoding="utf-8") for page in pages)
    assert re.findall(r"(\d+)(?: of reasoning-gym's)? generators", text) == [str(len(GENERATORS))] * len(pages)


def test_documents_have_commands_and_paths() -> None:
    assert {Path("README.md"), Path("OFFLOAD_API.md"), Path("CHANGELOG.md"), Path("docs/swarm.md")} <= set(DOCUMENTS)
    assert len(commands(Path("README.md"))) >= 12
    assert len(commands(Path("OFFLOAD_API.md"))) >= 4
    assert "profiles-from-elsewhere" in anchors(Path("docs/completion.md"))
    assert "hivemind_exp/providers.py" in _PATH.findall("a row in `hivemind_exp/providers.py`.")
    assert not _exists("hivemind_exp/sources/providers.py")
    assert not _is_module("hivemind_exp.sources.providers")
