"""Waiting for other threads' work, which a stop interrupts."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from hivemind_exp.stop import StopFlag, StopRequested


def test_it_waits_for_all_of_the_work_whether_it_succeeds_or_not() -> None:
    first, second = Future[Any](), Future[Any]()
    checked: list[int] = []

    class Flag(StopFlag):
        def check(self) -> None:
            checked.append(1)
            if len(checked) == 2:
                first.set_exception(ValueError())
            if len(checked) == 4:
                second.set_result(None)

    Flag().wait_for([first, second])
    assert first.done()
    assert second.done()
    assert len(checked) == 4


def test_a_stop_interrupts_it() -> None:
    stop = StopFlag()
    threading.Timer(0.1, stop.set).start()
    with pytest.raises(StopRequested):
        stop.wait_for([Future()])


def test_it_ends_at_the_deadline_and_without_work() -> None:
    StopFlag().wait_for([Future()], deadline=time.monotonic())
    StopFlag().wait_for([])
