"""The backends for metrics are checked before anything is built."""

from __future__ import annotations

import importlib.util
import shlex
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.runner.__main__ import explain_refusal
from hivemind_exp.runner.report_packages import check_reports
from tests.support.nodes import make_config


def test_a_missing_library_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without_tensorboard(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == "tensorboard" else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", without_tensorboard)
    check_reports(make_config())
    with pytest.raises(ConfigurationError, match="includes tensorboard, which is not installed") as caught:
        check_reports(make_config(report={"to": ["tensorboard"]}))
    program, *words = shlex.split(caught.value.next or "")
    assert Path(program).is_file()
    assert words == ["-m", "pip", "install", "tensorboard"]


def test_weights_and_biases_without_a_key_is_a_key_problem() -> None:
    errors = pytest.importorskip("wandb").errors
    problem = explain_refusal(errors.UsageError("No API key configured."))
    assert problem is not None
    assert problem.next == "swarmctl keys set wandb"
    assert explain_refusal(errors.UsageError("Invalid project name.")) is None
    assert explain_refusal(ValueError("No API key configured.")) is None
