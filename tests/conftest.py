"""Fixtures that the tests of both packages share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.fake_api.transformers_server import TransformersServer, transformers_server

# If a script starts a job in the background, the shell makes it ignore SIGINT, and its child processes inherit that.
# Tests press Ctrl-C, so they need the default. ``test_run`` covers such a job.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup makes them ignore this one


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersServer]:
    """One ``transformers serve`` for all tests, started by the first test that uses it."""
    with transformers_server(tmp_path_factory.mktemp("transformers")) as server:
        yield server
