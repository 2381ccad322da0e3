"""Nodes whose weights a stand-in for vLLM or SGLang serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch

from hivemind_exp.offload import replicas
from tests.support.policy_server_nodes import Node, served_node
from tests.support.tiny_models import save_llama


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_llama(tmp_path_factory.mktemp("served") / "llama")


@pytest.fixture
def engine() -> str:
    """Return what the servers are. Tests of several engines replace this."""
    return "vllm"


@pytest.fixture
def make_node(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> Iterator[Callable[..., Node]]:
    """Return what makes such a node, which asks a server that fails again at once."""
    monkeypatch.setattr(replicas, "PAUSES_S", (0.01, 0.01))
    with ExitStack() as ends:
        yield partial(served_node, directory, tmp_path, ends, engine=engine)
