"""Keeps the events that decide something in ``run.json`` as well as in the log."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hivemind_exp.events import Emit, ErrorEvent, Event, StartEvent, StopEvent
from hivemind_exp.run_record import PASSING, RunRecord, read_record, write_record


class RunRecorder:
    """Receives a run's events, keeps those that belong in ``run.json``, and passes all of them to the log."""

    def __init__(self, path: Path, log: Emit) -> None:
        self._path = path
        self._log = log
        self._record = RunRecord(begun=(read_record(path) or RunRecord()).begun)

    def __call__(self, event: Event, /) -> None:
        """Raises OSError if the log or the record cannot be written."""
        if isinstance(event, StartEvent):  # before the log, so that readers of the log find the record
            self._keep(event, begun=True)
        self._log(event)
        if isinstance(event, StopEvent) or (isinstance(event, ErrorEvent) and event.code not in PASSING):
            self._keep(event)

    def _keep(self, event: Event, **changes: Any) -> None:
        name = event.event_name()
        stored = {"t": round(time.time(), 3), "event": name, **event.model_dump(mode="json")}
        changes[name] = stored
        self._record = replace(self._record, **changes)
        write_record(self._path, self._record)
