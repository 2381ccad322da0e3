"""The operator's files: relative paths are made absolute when they are read, and digests are kept."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.config import Config, charter_id
from hivemind_exp.errors import NodeConflict
from hivemind_exp.journal.node_charter import node_charter
from hivemind_exp.node_files import NodeFiles
from swarmctl import cli
from swarmctl.errors import Exit
from swarmctl.nodes import inputs
from swarmctl.nodes.inputs import check_inputs
from swarmctl.nodes.lookup import files_of
from swarmctl.run import command as running
from swarmctl.settings.sources import anchored
from swarmctl.storage.json_file import read_json, write_json
from tests.support.command_line import ROOT, write_profile

Here = Callable[..., tuple[int, str]]
LINES = "".join(json.dumps({"question": f"{n} + {n}?", "answer": str(2 * n)}) + "\n" for n in range(40))


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("tasks", "data.jsonl", [{"name": "jsonl", "path": "/d/data.jsonl"}]),
        ("tasks", "sapo,data.jsonl", [{"name": "sapo"}, {"name": "jsonl", "path": "/d/data.jsonl"}]),
        ("tasks", ["sapo", "x/y.parquet"], [{"name": "sapo"}, {"name": "jsonl", "path": "/d/x/y.parquet"}]),
        ("tasks", [{"name": "gsm8k", "path": "../copy"}], [{"name": "gsm8k", "path": "/copy"}]),
        ("tasks", "sapo,gsm8k", "sapo,gsm8k"),
        ("tasks", ["sapo"], ["sapo"]),
        ("tasks", 7, 7),
        ("model.name", "./mine", "/d/mine"),
        ("model.name", "org/model", "org/model"),
        ("model.name", "tiny", "tiny"),
    ],
)
def test_relative_paths_become_absolute(setting: str, value: Any, expected: Any) -> None:
    assert anchored(tuple(setting.split(".")), value, Path("/d")) == expected


def test_the_path_of_a_model_directory_needs_no_dot(tmp_path: Path) -> None:
    (tmp_path / "models/mine").mkdir(parents=True)
    assert anchored(("model", "name"), "models/mine", tmp_path) == str(tmp_path / "models/mine")


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run a command in a directory, with the trainer's stand-in as a separate process; return its code and stderr."""
    monkeypatch.setattr(running, "run_command", partial(running.run_command, module="tests.support.fake_trainer"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(directory: Path, *arguments: str) -> tuple[int, str]:
        monkeypatch.chdir(directory)
        code = cli.run(arguments)
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def places(tmp_path: Path, home: Path) -> tuple[Path, Path]:
    """Two directories, each with a file of the same name but with different questions."""
    write_profile(home, "small", 'extends = "demo"\n[warmup]\nsteps = 0\n')
    first, second = tmp_path / "first", tmp_path / "second"
    for place in (first, second):
        place.mkdir()
        (place / "data.jsonl").write_text(LINES.replace("+", "plus" if place == second else "+"))
    return first, second


def path_of_questions() -> str:
    config = (read_json(files_of("n").config) or {})["config"]
    return str(config["tasks"][0]["path"])


@pytest.mark.slow
@pytest.mark.parametrize("how", [["--task", "data.jsonl"], ["--set", "tasks=data.jsonl"], "variable", "profile"])
def test_a_node_keeps_its_file_when_it_resumes_elsewhere(
    here: Here, places: tuple[Path, Path], home: Path, monkeypatch: pytest.MonkeyPatch, how: list[str] | str
) -> None:
    first, second = places
    options = how if isinstance(how, list) else []
    if how == "variable":
        monkeypatch.setenv("SWARMCTL_TASKS", "data.jsonl")
    if how == "profile":
        monkeypatch.chdir(home)  # its paths are relative to its own directory
        text = (home / "profiles/small.toml").read_text()
        write_profile(home, "small", f'tasks = ["../../first/data.jsonl"]\n{text}')
    assert here(first, "run", "-p", "small", "--node", "n", *options)[0] == Exit.DONE
    assert path_of_questions() == str(first / "data.jsonl")
    if how == "variable":
        code, err = here(second, "run", "--node", "n")  # the variable now means the other file
        assert (code, "was created with other settings" in err) == (Exit.CONFIGURATION, True)
        return
    assert here(second, "run", "--node", "n", "--rounds", "91")[0] == Exit.DONE
    assert path_of_questions() == str(first / "data.jsonl")


@pytest.mark.slow
def test_a_changed_file_is_refused_until_it_is_accepted(here: Here, places: tuple[Path, Path]) -> None:
    first, _ = places
    assert here(first, "run", "-p", "small", "--node", "n", "--task", "data.jsonl")[0] == Exit.DONE
    (first / "data.jsonl").write_text(LINES.replace("+", "and"))
    more = ("run", "--node", "n", "--rounds")  # a finished node would start nothing
    code, err = here(first, *more, "90")
    assert code == Exit.CONFIGURATION
    cause, following = err.splitlines()[-2:]
    assert "data.jsonl has changed since node n first used it" in cause
    subprocess.run(shlex.split(following.removeprefix("  try: ")), check=True)
    assert here(first, *more, "90")[0] == Exit.DONE
    assert here(first, *more, "91")[0] == Exit.DONE


@pytest.mark.slow
def test_an_older_node_with_a_relative_path_keeps_its_questions(here: Here, places: tuple[Path, Path]) -> None:
    first, second = places
    assert here(first, "run", "-p", "small", "--node", "n", "--task", "data.jsonl")[0] == Exit.DONE
    files = files_of("n")
    made, last = read_json(files.identity) or {}, read_json(files.config) or {}
    for tasks in (made["tasks"], last["overrides"]["tasks"], last["config"]["tasks"]):
        tasks[0]["path"] = "data.jsonl"
    config = Config.model_validate(last["config"])
    made["charter"] = charter_id(config)
    write_json(files.identity, made)
    write_json(files.config, last)
    files.inputs.unlink()
    assert here(first, "run", "--node", "n", "--rounds", "90")[0] == Exit.DONE
    assert path_of_questions() == str(first / "data.jsonl")
    resumed = Config.model_validate((read_json(files.config) or {})["config"])
    assert node_charter(resumed, files) == made["charter"] != charter_id(resumed)
    assert here(second, "run", "--node", "n")[0] == Exit.DONE
    assert path_of_questions() == str(first / "data.jsonl")


def test_a_task_s_code_and_the_questions_it_names_are_inputs(tmp_path: Path) -> None:
    files, code, data = NodeFiles(tmp_path / "n"), tmp_path / "mine.py", tmp_path / "data.jsonl"
    files.root.mkdir()
    code.write_text("questions = 'data.jsonl'\n")
    data.write_text(LINES)
    config = Config(tasks=str(code))
    check_inputs(files, config)
    check_inputs(files, config)
    for changed in (code, data):
        before = changed.read_text()
        changed.write_text(f"{before}\n")
        with pytest.raises(NodeConflict, match=f"{changed.name} has changed since node n first used it"):
            check_inputs(files, config)
        changed.write_text(before)
    check_inputs(files, config)
    assert set((read_json(files.inputs) or {})["digests"]) == {str(code), str(data)}


CODE = {
    "mine.py": "import helper, json\nfrom package.inner import deep as d\nfrom namespace import part\nimport nothing\n",
    "helper.py": "WORDS = open('words.txt')\nimport mine, helper\n",
    "words.txt": "",
    "package/__init__.py": "from . import beside\n",
    "package/beside.py": "",
    "package/inner/__init__.py": "def late():\n    from ..later import x\n",
    "package/inner/deep.py": "",
    "package/later.py": "from ..... import far\n",
    "namespace/part.py": "broken(",
}
UNUSED = {"unused.py": "", "notes.txt": "", "package/unused.py": ""}


def test_what_a_task_s_code_imports_and_names_is_an_input(tmp_path: Path) -> None:
    files, place = NodeFiles(tmp_path / "n"), tmp_path / "code"
    files.root.mkdir()
    for name, text in (CODE | UNUSED).items():
        place.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
        place.joinpath(name).write_text(text)
    config = Config(tasks=str(place / "mine.py"))
    check_inputs(files, config)
    assert set((read_json(files.inputs) or {})["digests"]) == {str(place / name) for name in CODE}
    for name, text in CODE.items():
        place.joinpath(name).write_text(f"{text}\n")
        with pytest.raises(NodeConflict, match=f"{name} has changed since node n first used it"):
            check_inputs(files, config)
        place.joinpath(name).write_text(text)
    for name in UNUSED:
        place.joinpath(name).write_text("changed = 1\n")
    check_inputs(files, config)


def test_another_version_of_a_task_s_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, config = NodeFiles(tmp_path / "n"), Config(tasks="sapo,rhymes")
    files.root.mkdir()
    monkeypatch.setattr(inputs, "is_own_code", "rhymes".__eq__)
    monkeypatch.setattr(inputs, "origin", lambda _: "rhyming 1.2")
    check_inputs(files, config)
    check_inputs(files, config)
    monkeypatch.setattr(inputs, "origin", lambda _: "rhyming 1.3")
    with pytest.raises(NodeConflict, match=r"the package of task rhymes \(rhyming 1.2, now rhyming 1.3\) has changed"):
        check_inputs(files, config)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [["run", "--dry-run", "--profile", "mine"], ["doctor", "fit.profile", "-p", "mine"]]
)
def test_a_mistake_in_a_task_file_is_one_message(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "def questions(seed):\n    return missing\ndef score(answer, question): return 1\n"
    )
    write_profile(home, "mine", f'extends = "cpu"\ntasks = ["{tmp_path}/mine.py"]\n')
    assert cli.run(command) in (Exit.CONFIGURATION, Exit.FAILED, Exit.CHECK_FAILED)
    shown = capsys.readouterr()
    text = " ".join((shown.out + shown.err).split())
    assert "mine.py:2: questions(seed) failed: NameError" in text
    assert f"sed -n 1,5p {tmp_path}/mine.py" in text
    assert "Traceback" not in text
