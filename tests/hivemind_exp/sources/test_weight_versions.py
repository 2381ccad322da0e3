"""What is copied to check a server of whole weights, and that its results and the model stay the same, to the bit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from hivemind_exp.config import Config
from hivemind_exp.models.memory import Shape
from hivemind_exp.sources.adapter_versions import BASE, NEWEST
from hivemind_exp.sources.pushed_weights import COMPARING, pushed_weights, remembered
from hivemind_exp.sources.weight_versions import WeightVersions
from tests.support.policy_server_nodes import Node, rows

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
ROWS = [((1, 2, 3), (4, 5)), ((6, 7), (8, 9, 1))]
_COPIES = (torch.ops.aten._to_copy, torch.ops.aten.clone, torch.ops.aten.copy_)


class WeightCopies(TorchDispatchMode):
    """Counts the copies of tensors that have the shapes of a model's weights, in this thread."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._shapes = {each.shape for each in model.parameters()}
        self._size = sum(each.numel() for each in model.parameters())
        self._copied = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func.overloadpacket in _COPIES and made.shape in self._shapes and made.dtype == torch.float32:
            self._copied += made.numel()
        return made

    @property
    def times(self) -> float:
        """How often the whole weights were copied."""
        return self._copied / self._size


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, tie_word_embeddings=True, **SHAPE))


def move(model: Any, versions: WeightVersions) -> None:
    with torch.no_grad():
        for each in model.parameters():
            each.add_(0.1 * torch.randn(each.shape))
    versions.moved()


@pytest.fixture
def model() -> Any:
    return llama()


@pytest.fixture
def versions(model: Any) -> WeightVersions:
    """Return three versions; the model has the newest."""
    made = WeightVersions(model, 3, llama)
    for serial in range(3):
        move(model, made)
        made.remember(serial)
    return made


def plain(model: Any, versions: WeightVersions, serial: int) -> list[list[float]]:
    """Return what a model of its own with the weights of a push computes."""
    other = llama().eval()
    if serial != BASE:
        source = model.state_dict() if serial == NEWEST else versions._copies[serial]
        other.load_state_dict(source, strict=False)
    with torch.no_grad():
        return WeightVersions(other, 1, llama)._score(ROWS, 0.7)


@pytest.mark.parametrize("moves", [False, True], ids=["as pushed", "moved since"])
def test_the_results_and_the_model_are_the_same_to_the_bit(model: Any, versions: WeightVersions, moves: bool) -> None:
    if moves:
        move(model, versions)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    kept = {serial: {name: each.clone() for name, each in copy.items()} for serial, copy in versions._copies.items()}
    every = (2, NEWEST, BASE, 0, 1, 2, BASE, 1)
    expected = [plain(model, versions, serial) for serial in every]
    with versions.comparing():
        assert [versions.logps(serial, ROWS, 0.7) for serial in every] == expected
    assert [versions.logps(serial, ROWS, 0.7) for serial in every] == expected
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    for serial, copy in versions._copies.items():
        assert all(torch.equal(each, kept[serial][name]) for name, each in copy.items())


@pytest.mark.parametrize(
    ("moves", "serials", "times"),
    [
        (False, [2, NEWEST, 2], 0),
        (True, [NEWEST], 0),
        (False, [1], 2),  # into the model, and the newest back
        (False, [1, 1, 1], 2),
        (False, [1, 0], 3),
        (True, [2, 2], 3),  # the model's own weights are copied aside before
    ],
)
def test_weights_are_copied_only_if_the_model_has_others(
    model: Any, versions: WeightVersions, moves: bool, serials: list[int], times: float
) -> None:
    if moves:
        move(model, versions)
    with WeightCopies(model) as copies, versions.comparing():
        for serial in serials:
            versions.logps(serial, ROWS, 0.7)
    assert copies.times == times


def test_an_error_leaves_the_model_as_it_was(model: Any, versions: WeightVersions) -> None:
    move(model, versions)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(IndexError):
        versions.logps(0, [((1, 2), (400,))], 0.7)
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    with WeightCopies(model) as copies:
        versions.logps(NEWEST, ROWS, 0.7)
    assert copies.times == 0


@contextmanager
def only_new_objects() -> Iterator[None]:
    """Let ``live_bytes`` look at nothing that existed before: a process of tests has millions of objects."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def live_bytes() -> int:
    """Return the bytes of all tensors of this process, each storage once."""
    gc.collect()
    found = [each for each in gc.get_objects() if isinstance(each, torch.Tensor)]
    return sum({each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found}.values())


@contextmanager
def most_bytes(monkeypatch: pytest.MonkeyPatch, versions: WeightVersions) -> Iterator[Callable[[], int]]:
    """Yield what returns the most bytes of tensors that existed whenever weights had just been copied."""
    seen: list[int] = []

    def watched(call: Any, *given: Any) -> Any:
        seen.append(live_bytes())
        try:
            return call(*given)
        finally:
            seen.append(live_bytes())

    for name in ("_put", "_score", "_remember"):
        monkeypatch.setattr(versions, name, partial(watched, getattr(versions, name)))
    yield lambda: max(seen)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_no_more_versions_exist_than_doctor_counts(monkeypatch: pytest.MonkeyPatch, ahead: int) -> None:
    """At most: every push is remembered, no push has the weights as they are now, and the first model is loaded."""
    model = llama()
    parameters = sum(each.numel() for each in model.parameters())
    shape = Shape.read({"model_type": "llama", "vocab_size": 20, "tie_word_embeddings": True, **SHAPE}, parameters)
    assert shape is not None
    versions = WeightVersions(model, remembered(ahead), llama)
    with only_new_objects(), most_bytes(monkeypatch, versions) as most:
        for serial in range(ahead + 5):
            move(model, versions)
            versions.remember(serial)
        move(model, versions)
        with versions.comparing():
            for serial in (versions.serials[0], BASE):
                versions.logps(serial, ROWS, 0.7)
        found = most()
    offload = {"provider": "vllm", "kind": "policy", "ahead": ahead}
    counted = pushed_weights(Config.model_validate({"offload": offload}), shape, ahead)
    assert counted.versions == ahead + 2 + COMPARING
    assert counted.memory - 4096 <= found <= counted.memory + 4096, (found / shape.parameters / 4, counted.versions)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_check_of_the_newest_push_copies_no_weights(make_node: Callable[..., Node]) -> None:
    node = make_node(whole=True, temperature=0.7)
    for round_ in range(2):
        node.step()
        node.source.request(node.ask(round_))
        with WeightCopies(node.model) as copies:
            found = [group for batch in node.source.collect(node.ask(round_)) for group in batch]
        assert {row.lag for row in rows(found)} == {0}
        assert copies.times == 0
    node.source.request(node.ask(2))
    node.step()
    node.source.request(node.ask(3))
    with WeightCopies(node.model) as copies:
        found = [group for batch in node.source.collect(node.ask(2)) for group in batch]
    assert {row.lag for row in rows(found)} == {1}
    assert copies.times == 2, "the push before into the model, and the newest back"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sglang"])
def test_replicas_share_what_is_copied(make_node: Callable[..., Node]) -> None:
    node = make_node(whole=True, urls=2)
    node.step()
    node.source.request(node.ask(0))
    node.step()
    node.source.request(node.ask(1))
    with WeightCopies(node.model) as copies:
        found = [group for batch in node.source.collect(node.ask(0)) for group in batch]
    assert len(rows(found)) == 12
    assert copies.times == 2


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_a_node_keeps_the_files_that_doctor_counts(
    make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    node = make_node(whole=True, offload={"ahead": ahead})
    folder, seen = node.source._replicas.folder, []
    write = node.source._adapters.write

    def written(weights: Any, directory: Any) -> None:
        write(weights, directory)
        seen.append(len(list(folder.glob("*/*.safetensors"))))

    monkeypatch.setattr(node.source._adapters, "write", written)
    for round_ in range(ahead + 3):
        node.step()
        assert node.play(round_)
    shape = Shape.read({"model_type": "llama", "vocab_size": 20, **SHAPE})
    assert shape is not None
    offload = {"provider": "vllm", "kind": "policy", "ahead": ahead}
    counted = pushed_weights(Config.model_validate({"offload": offload}), shape, ahead)
    assert max(seen) * 4 * shape.parameters == counted.disk
    assert len(node.source._adapters.serials) == remembered(ahead)
