"""Run Python without importing the libraries again: ``python -m MODULE …`` or ``-c CODE …``.

The program runs in a fork of the fork server, which forgets this project's modules, so it can import them from a copy.
Torch, transformers and TRL stay imported.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.command_line import ROOT
from tests.support.own_environment import become
from tests.support.python_template import VARIABLE
from tests.support.restarts import processes

PACKAGES = frozenset({"benchmarks", "hivemind_exp", "swarmctl", "tests", "tools"})


def run_python(
    arguments: Sequence[str], root: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run ``python ARGUMENT...`` in the directory ``root``, with the packages that are there and in $PYTHONPATH."""
    with tempfile.TemporaryDirectory() as place:
        out, said = Path(place, "out"), Path(place, "said")
        own = {name: value for name, value in environment.items() if name != VARIABLE}  # it has imported our modules
        process = processes().Process(target=_run, args=(tuple(arguments), root, own, out, said))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(
            arguments, process.exitcode, out.read_text(encoding="utf-8"), said.read_text(encoding="utf-8")
        )


def _run(arguments: tuple[str, ...], root: Path, environment: dict[str, str], out: Path, said: Path) -> None:
    with out.open("wb") as output, said.open("wb") as errors:
        become(environment, os.open(os.devnull, os.O_RDONLY), output.fileno(), errors.fileno())
    os.chdir(root)
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]
    others = [path for path in sys.path if path and Path(path).resolve() != ROOT]
    sys.path[:] = [str(root), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *others]
    option, program, *more = arguments
    sys.argv = [option, *more]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
