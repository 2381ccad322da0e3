"""The node's machine-readable log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from hivemind_exp.event_log import EventLog
from hivemind_exp.events import EVENTS, Event, PhaseEvent, RoundEvent, StepEvent
from hivemind_exp.runner.__main__ import open_log
from tools.events import main

STEP: dict[str, Any] = {
    "step": 4,
    "round": 3,
    "stage": "answer",
    "loss": 0.5,
    "grad_norm": 1.0,
    "learning_rate": 1e-4,
    "tokens": 80,
    "rows": 8,
    "entropy": 0.7,
    "clip_fraction": 0.0,
    "kl": None,
    "source_grad_norm": None,
    "nll": None,
    "source": "policy",
    "replayed": False,
}


def written(path: Path, event: Event) -> dict[str, Any]:
    """Write an event to a log. Return the logged fields without the time."""
    path.mkdir(exist_ok=True)
    log = EventLog(path / "events.jsonl")
    log(event)
    log.close()
    [line] = (path / "events.jsonl").read_text().splitlines()
    logged: dict[str, Any] = json.loads(line, parse_constant=lambda name: f"not JSON: {name}")
    assert logged.pop("t") > 0
    assert line == json.dumps({"t": json.loads(line)["t"], **logged}), (
        "the line must have a space after each comma and colon"
    )
    return logged


def test_non_finite_numbers_become_null(tmp_path: Path) -> None:
    logged = written(tmp_path, StepEvent(**STEP | {"loss": float("nan"), "grad_norm": float("inf")}))
    assert logged == {"event": "step", **STEP, "loss": None, "grad_norm": None}


def test_non_finite_numbers_in_a_table_become_null(tmp_path: Path) -> None:
    logged = written(tmp_path, RoundEvent(round=0, rounds=9, seconds={"train": 0.5, "other": float("-inf")}))
    assert logged["seconds"] == {"train": 0.5, "other": None}


def test_fields_keep_their_order_and_unknown_ones_are_null(tmp_path: Path) -> None:
    assert list(written(tmp_path, StepEvent(**STEP))) == ["event", *STEP]
    assert written(tmp_path / "other", PhaseEvent(name="x")) == {
        "event": "phase",
        "name": "x",
        "done": None,
        "total": None,
        "percent": False,
        "round": None,
    }


@pytest.mark.parametrize("filtered", [0, 3])
def test_filtered_is_written_if_set(filtered: int, tmp_path: Path) -> None:
    logged = written(tmp_path, StepEvent(**STEP, filtered=filtered))
    assert logged == {"event": "step", **STEP, "filtered": filtered}
    assert list(logged)[-3:] == ["filtered", "source", "replayed"]


def test_an_event_can_be_rebuilt_from_its_name_and_fields() -> None:
    for event in (StepEvent(**STEP), StepEvent(**STEP, filtered=1), PhaseEvent(name="x")):
        assert EVENTS[event.event_name()](**event.model_dump()) == event


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(ValidationError):
        PhaseEvent(name="x", of="the future")  # type: ignore[call-arg]


def test_a_run_limits_its_log(tmp_path: Path) -> None:
    def files_after(megabytes: int) -> int:
        (root := tmp_path / str(megabytes)).mkdir()
        emit = open_log({"node_dir": str(root), "config": {"report": {"events_mb": megabytes}}})
        for _ in range(3):
            emit(PhaseEvent(name="x" * 60_000))
        return len(list(root.glob("events*.jsonl")))

    assert (files_after(1), files_after(0)) == (2, 1)


def test_every_event_and_field_is_described() -> None:
    for model in EVENTS.values():
        assert model.__doc__
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"


def test_the_table_in_the_docs_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().out
