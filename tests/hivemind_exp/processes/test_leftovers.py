"""What loaded code has left in a process before its sandbox closes."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import tqdm

from hivemind_exp.processes.leftovers import threads_left


class OwnBar(tqdm.tqdm):  # type: ignore[type-arg]
    """Libraries derive their own bars, which start a thread of their own."""


@pytest.fixture
def interval(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tqdm.tqdm, "monitor_interval", 10)
    yield
    OwnBar.monitor = None


@pytest.mark.usefixtures("interval")
def test_the_thread_of_a_progress_bar_is_stopped_and_stays_away() -> None:
    with OwnBar(total=1):
        assert "tqdm_monitor" in [thread.name for thread in threading.enumerate()]
        before = threads_left()
        assert "tqdm" not in before
    with OwnBar(total=1):
        assert "tqdm_monitor" not in [thread.name for thread in threading.enumerate()]


def test_other_threads_are_named_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()
    threads = [threading.Thread(target=end.wait, name=f"watcher {n}\nerror: forged") for n in range(5)]
    for thread in threads:
        thread.start()
    monkeypatch.setattr(threading, "enumerate", lambda: [threading.main_thread(), *threads])  # without other tests'
    found = threads_left()
    end.set()
    for thread in threads:
        thread.join()
    assert '"watcher 0 error: forged"' in found
    assert found.endswith(", …")
    assert found.isprintable()


def test_the_address_space_grows_with_what_is_allocated() -> None:
    # In a process of its own: here, other tests' memory may be returned to the system meanwhile.
    program = (
        "from hivemind_exp.processes.leftovers import mapped_bytes\n"
        "before = mapped_bytes()\n"
        "held = bytearray(2**28)\n"
        "print(mapped_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 2**27
