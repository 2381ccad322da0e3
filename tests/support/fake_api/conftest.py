"""A server that behaves until a test changes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_api.server import ApiServer, api_server


@pytest.fixture
def server() -> Iterator[ApiServer]:
    with api_server() as server:
        yield server
