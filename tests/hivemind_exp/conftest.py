"""One torch thread for the tests of ``hivemind_exp``, and API processes that need no imports."""

from __future__ import annotations

import pytest
import torch

from hivemind_exp.offload.process import client
from tests.support.forked_engines import ForkedEngine


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _forked_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the API processes of nodes in this process."""
    monkeypatch.setattr(client, "spawn", ForkedEngine)
