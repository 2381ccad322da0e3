"""Cheaper imports: without the collector, without libraries that are only optional, and as late as possible."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys

import pytest

from hivemind_exp.processes.imports import leave_out, uncollected


@pytest.mark.slow
def test_the_collector_pauses_and_leaves_alone_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = gc.get_freeze_count()
    try:
        with uncollected():
            assert not gc.isenabled()
            monkeypatch.delitem(sys.modules, "this", raising=False)
            importlib.import_module("this")
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()


def test_garbage_can_still_be_collected_if_nothing_was_imported() -> None:
    frozen = gc.get_freeze_count()
    with pytest.raises(ValueError, match="failed"), uncollected():
        raise ValueError("failed")
    assert gc.isenabled()
    assert gc.get_freeze_count() <= frozen  # other threads may free some, but nothing was added


def test_a_disabled_collector_stays_disabled() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_library_looks_absent_unless_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "this", raising=False)
    try:
        leave_out("this", "json")
        assert importlib.util.find_spec("this") is None
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("this")
        assert importlib.import_module("json") is sys.modules["json"] is not None
    finally:
        sys.modules.pop("this", None)


@pytest.mark.slow
def test_the_runner_imports_the_training_libraries_only_when_it_builds_the_model() -> None:
    """So an error in a node's files is reported without them, in a second."""
    heavy = ("transformers", "trl", "datasets", "hivemind")
    code = f"import hivemind_exp.runner.grpo_runner, sys; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
