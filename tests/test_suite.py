"""Check where tests are, that each package has some for ``make test-fast``, and how workers start and end."""

from __future__ import annotations

import ast
import gc
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import LONGEST_FIRST
from tests.support.command_line import ROOT
from tests.support.forked_children import ForkedChild
from tests.support.processes import is_alive
from tests.support.python_template import VARIABLE, ForkedPython
from tests.support.waiting import until

LEFT_OUT = re.compile(r"pytest\.mark\.(slow|swarm)\b")
"""Marks that ``make test-fast`` leaves out."""


def modules() -> list[Path]:
    """Return the test modules that mirror the packages, relative to ``tests``."""
    tops = ("hivemind_exp", "swarmctl")
    return [path.relative_to(ROOT / "tests") for top in tops for path in (ROOT / "tests" / top).rglob("test_*.py")]


def fast_tests(module: Path) -> list[str]:
    """Return the tests of a module that ``make test-fast`` runs."""
    body = ast.parse((ROOT / "tests" / module).read_text(encoding="utf-8")).body
    marks = [node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"]
    if any(LEFT_OUT.search(ast.unparse(node.value)) for node in marks):
        return []
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return [node.name for node in found if not any(LEFT_OUT.match(ast.unparse(each)) for each in node.decorator_list)]


def test_tests_mirror_the_packages() -> None:
    assert [str(module) for module in modules() if not (ROOT / module.parent / "__init__.py").is_file()] == []
    assert [str(path) for path in (ROOT / "tests/support").glob("test_*.py")] == []


@pytest.mark.slow
def test_every_tested_package_has_fast_tests() -> None:
    fast: dict[Path, int] = defaultdict(int)
    for module in modules():
        fast[module.parent] += len(fast_tests(module))
    assert len(fast) >= 25
    assert [str(package) for package, count in fast.items() if count == 0] == []


def test_tests_that_kill_or_use_the_network_are_not_fast() -> None:
    assert fast_tests(Path("hivemind_exp/runner/test_swarm_study_group.py")) == []
    named = fast_tests(Path("hivemind_exp/tasks/workers/test_pool.py"))
    assert "test_a_worker_s_environment_holds_no_secret" in named
    assert "test_lost_workers_are_replaced_and_other_results_kept" not in named


def test_the_longest_files_exist_and_start_first(request: pytest.FixtureRequest) -> None:
    assert [name for name in LONGEST_FIRST if not (ROOT / "tests" / name).is_file()] == []
    ranks = [LONGEST_FIRST.index(name) for item in request.session.items if (name := _name(item)) in LONGEST_FIRST]
    assert ranks == sorted(ranks)
    assert [_name(item) in LONGEST_FIRST for item in request.session.items[: len(ranks)]] == [True] * len(ranks)


def _name(item: pytest.Item) -> str:
    return str(item.path.relative_to(ROOT / "tests"))


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    """The program that starts forks of the process in which the libraries are imported."""
    if VARIABLE in os.environ:
        yield os.environ[VARIABLE]
        return
    forked = ForkedPython()
    yield forked.program
    forked.close()


@pytest.mark.slow
def test_a_fork_has_its_own_streams_descriptors_variables_and_exit_code(python: str) -> None:
    reading, writing = os.pipe()
    code = f"""
import os, sys
assert "torch" in sys.modules
os.write({writing}, os.environ["GIVEN"].encode())
print(sys.stdin.read())
sys.exit("the reason")
"""
    given = os.environ | {"GIVEN": "a variable"}
    done = subprocess.run(
        [python, "-u", "-c", code],
        env=given,
        input="typed",
        capture_output=True,
        text=True,
        pass_fds=[writing],
        check=False,
    )
    os.close(writing)
    with os.fdopen(reading) as inherited:
        assert inherited.read() == "a variable"
    assert (done.returncode, done.stdout, done.stderr) == (1, "typed\n", "the reason\n")
    assert subprocess.run([python, "-c", "import sys; sys.exit(7)"], check=False).returncode == 7
    assert subprocess.run([python, "-c", "import os; os.kill(os.getpid(), 9)"], check=False).returncode == 1


class InCycle:
    """Writes a file when the garbage collector takes it apart, and only then: it refers to itself."""

    def __init__(self, file: Path) -> None:
        self._file, self._self = file, self

    def __del__(self) -> None:
        self._file.touch()


def test_a_fork_does_not_take_apart_what_the_other_process_left(tmp_path: Path) -> None:
    """The library of process groups would wait for threads that only the other process has."""

    def collect(_: int) -> int:
        InCycle(tmp_path / "own")
        gc.collect()
        return 0

    InCycle(tmp_path / "left")
    fork = ForkedChild(collect, "a.module")
    fork.start(os.environ)
    assert fork.wait() == 0
    assert [each.name for each in tmp_path.iterdir()] == ["own"]
    gc.collect()
    assert (tmp_path / "left").exists()
    fork.discard()


KILLED_RUN = """
import os, signal, subprocess, time
from pathlib import Path
import psutil
from tests.support.python_template import ForkedPython
from tests.support.restarts import processes

template = ForkedPython()
of_template = subprocess.check_output([template.program, "-c", "import os; print(os.getppid())"], text=True)
begun = Path("begun")
node = processes().Process(
    target=subprocess.run, args=(["sh", "-c", "echo $$ > new && mv new begun && exec sleep 3600"],)
)
node.start()
while not begun.exists():
    time.sleep(0.01)
Path("pids").write_text(f"{of_template} {psutil.Process(node.pid).ppid()} {node.pid} {begun.read_text()}")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_forked_processes_end_with_a_test_run_that_is_killed(python: str, tmp_path: Path) -> None:
    """The template, the fork server, a process of it, and a program that this one has started."""
    found = os.environ | {VARIABLE: python, "PYTHONPATH": str(ROOT)}
    subprocess.run([python, "-c", KILLED_RUN], cwd=tmp_path, env=found, check=False)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text(encoding="utf-8").split()]
    assert len(set(pids)) == 4
    until(lambda: not any(is_alive(pid) for pid in pids))
