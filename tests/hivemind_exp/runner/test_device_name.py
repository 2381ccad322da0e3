"""The start event names the GPU that the user chose, although the trainer sees only this one, under another name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hivemind_exp.models.device import Compute
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner import __main__ as trainer
from hivemind_exp.secrets import Secrets
from hivemind_exp.stop import StopFlag
from tests.support.nodes import Events, make_config


@pytest.mark.parametrize(("device", "named"), [("cuda:1", "cuda:1"), ("auto", "cpu"), ("cpu", "cpu")])
def test_the_start_event_names_the_device_as_the_user_did(
    device: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))  # pinning a device changes it
    monkeypatch.setattr(trainer, "leave_out", lambda *_: None)  # other tests need the libraries
    seen: list[str] = []

    def on_cpu(model: Any) -> Compute:
        seen.append(model.device)
        return Compute("cpu", "float32", None)

    monkeypatch.setattr("hivemind_exp.runner.grpo_runner.resolve_compute", on_cpu)
    config = make_config(model={"name": "tiny", "device": device}, game={"rounds": 1}, warmup={"steps": 0})
    events = Events()
    order = {"node_dir": str(tmp_path), "config": config.model_dump(mode="json")}
    runner = trainer._build(order, Secrets(), events, StopFlag())
    runner.run()
    assert seen == [device.partition(":")[0]], "the trainer's own name for its only GPU"
    (start,) = events.of("start")
    assert (start["device"], start["processes"]) == (named, 1)
    assert NodeFiles(tmp_path).journal.is_file()
