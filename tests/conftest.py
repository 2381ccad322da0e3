"""Fixtures that the tests of both packages share."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.fake_api.transformers_server import TransformersServer, transformers_server

# A shell ignores SIGINT in the jobs that a script starts in the background, and every process that they start inherits
# that. Tests press Ctrl-C, so they need the default. ``test_run`` covers such a job.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersServer]:
    """One ``transformers serve`` for all tests, started by the first test that uses it."""
    with transformers_server(tmp_path_factory.mktemp("transformers")) as server:
        yield server
