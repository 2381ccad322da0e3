"""A stand-in for ``verifiers`` 0.1, and virtual environments with it: they start much faster than real ones."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgpack

from hivemind_exp.tasks.environments import RECORD, Installation

STAND_IN = """
class Parser:
    def __init__(self, extract=lambda text: text):
        self.extract = extract

    def parse_answer(self, completion):
        return self.extract(completion[-1]["content"])


class Rubric:
    def __init__(self, funcs, weights, parser):
        self.funcs, self.weights = funcs, weights
        self.class_objects = {"parser": parser}

    def _get_reward_funcs(self):
        return self.funcs

    def _get_reward_weights(self):
        return self.weights


class MultiTurnEnv:
    def __init__(self, rows, rubric, parser):
        self.rows, self.rubric, self.parser = rows, rubric, parser

    def get_dataset(self):
        return self.rows


class SingleTurnEnv(MultiTurnEnv):
    pass


class OtherEnv:
    __init__ = MultiTurnEnv.__init__
"""
"""The parts that environments with one turn use."""


def install(package: str, code: str) -> None:
    """Install an environment with this code where ``env:PACKAGE`` looks for it: under ``XDG_CACHE_HOME``."""
    found = Installation.of(f"env:{package}", os.environ)
    libraries = found.directory / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    libraries.mkdir(parents=True)
    found.python.parent.mkdir()
    found.python.symlink_to(os.path.realpath(sys.executable))
    (found.directory / "pyvenv.cfg").write_text(f"home = {Path(os.path.realpath(sys.executable)).parent}\n")
    (libraries / "msgpack").symlink_to(Path(msgpack.__file__).parent)
    for name, text in (("verifiers", STAND_IN), (found.module, code)):
        (libraries / f"{name}.py").write_text(text, encoding="utf-8")
        about = libraries / f"{name}-0.1.10.dist-info"
        about.mkdir()
        about.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.10\n")
    versions = {package: "0.1.10", "verifiers": "0.1.10"}
    record = {"schema": 1, "task": f"env:{package}", "versions": versions, "summary": "Hostile."}
    (found.directory / RECORD).write_text(json.dumps(record))
