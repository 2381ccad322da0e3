"""Fixtures that the tests of both packages share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_api.transformers_server import TransformersServer, transformers_server


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformersServer]:
    """One ``transformers serve`` for all tests, started by the first test that uses it."""
    with transformers_server(tmp_path_factory.mktemp("transformers")) as server:
        yield server
