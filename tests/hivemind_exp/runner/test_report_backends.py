"""The backends for metrics are checked before anything is built."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sqlite3
import sys
from contextlib import closing
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.runner.__main__ import explain_refusal
from hivemind_exp.runner.report_packages import check_reports
from hivemind_exp.trainer.trl_arguments import trl_arguments
from tests.support.command_line import run_process
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


def test_a_missing_package_for_prometheus_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", {}.get)
    with pytest.raises(ConfigurationError, match="metrics_port needs prometheus-client, which is not") as caught:
        check_reports(make_config(report={"metrics_port": 9464}))
    assert (caught.value.next or "").endswith("-m pip install prometheus-client")


@pytest.mark.slow
def test_trackio_keeps_its_metrics_in_the_nodes_directory_and_sends_them_nowhere(tmp_path: Path) -> None:
    """In a process of its own, because trackio reads its directory when it is imported, and TRL imports it."""
    pytest.importorskip("trackio")
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from hivemind_exp.trainer.report_places import PROJECT, place_reports\n"
        "place_reports(Path(sys.argv[1]))\n"
        "import trackio\n"
        "trackio.init(project=PROJECT, name='maths', embed=False)\n"
        "trackio.log({'reward': 0.5})\n"
        "trackio.finish()\n"
        "print(trackio.context_vars.current_space_id.get())\n"
    )
    environment = os.environ | {"TRACKIO_SPACE_ID": "someone/else", "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    environment.pop("TRACKIO_DIR", None)
    done = run_process([sys.executable, "-c", script, str(tmp_path)], env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "None"
    with closing(sqlite3.connect(tmp_path / "trackio" / "swarmctl.db")) as stored:
        rows = stored.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert [(name, json.loads(metrics)["reward"]) for name, metrics in rows] == [("maths", 0.5)]


def test_trackio_and_trl_agree_on_the_project_and_on_no_space() -> None:
    arguments = trl_arguments(make_config(report={"to": ["trackio"]}), Path("x"), "cpu", "float32")
    assert arguments.report_to == ["trackio"]
    assert arguments.project == "swarmctl"
    assert (arguments.trackio_space_id, arguments.trackio_static_space_id) == (None, False)


def test_weights_and_biases_without_a_key_is_a_key_problem() -> None:
    errors = pytest.importorskip("wandb").errors
    problem = explain_refusal(errors.UsageError("No API key configured."))
    assert problem is not None
    assert problem.next == "swarmctl keys set wandb"
    assert explain_refusal(errors.UsageError("Invalid project name.")) is None
    assert explain_refusal(ValueError("No API key configured.")) is None
