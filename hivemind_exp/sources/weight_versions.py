"""Copies of the whole weights that were pushed to a server, and what this machine computes with them.

Each copy takes as much of the computer's memory as the model's weights (4 bytes each, because trained weights are in
float32). Computing with one exchanges the model's weights in place, so that a GPU holds only one set; with the
weights that the model has anyway, nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from hivemind_exp.sources.adapter_versions import BASE, AdapterVersions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hivemind_exp.sources.source import NodeParts


class WeightVersions(AdapterVersions):
    """Remembers the weights of the last pushes, by serial."""

    def __init__(self, model: PreTrainedModel, kept: int, load_base: Callable[[], PreTrainedModel]) -> None:
        """``kept``: how many pushes are remembered. ``load_base``: returns the model before its first step."""
        super().__init__(model, kept)
        self._load_base = load_base

    def remember(self, serial: int, needed: Collection[int] = ()) -> Mapping[str, Tensor]:
        """Copy the weights as they are now; return them, on the CPU, under their names in the model."""
        return self._remember(serial, needed)

    def write(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write a checkpoint that servers load."""
        tied = {name: weights[first] for name, first in self._tied().items()}
        self._model.save_pretrained(directory, state_dict={**weights, **tied})

    @contextmanager
    def _as(self, serial: int) -> Iterator[None]:
        self._load(serial)
        yield

    def _weights(self, serial: int) -> Mapping[str, Tensor]:
        return _first_of_each(self._load_base()) if serial == BASE else self._copies[serial]

    def _now(self) -> dict[str, Tensor]:
        return {name: each.to("cpu", copy=True) for name, each in _first_of_each(self._model).items()}

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, each in _first_of_each(self._model).items():
            each.copy_(values[name])

    def _tied(self) -> dict[str, str]:
        """Return the names of weights that are also others, with the names of these."""
        first: dict[int, str] = {}
        found = {}
        for name, each in self._model.state_dict(keep_vars=True).items():
            if (same := first.setdefault(id(each), name)) != name:
                found[name] = same
        return found


def _first_of_each(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return a model's weights by name, those that several names have under the first."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, each in model.state_dict(keep_vars=True).items():
        found.setdefault(id(each), (name, each.detach()))
    return dict(found.values())


def versions_of(parts: NodeParts, kept: int) -> AdapterVersions:
    """Return what remembers the last ``kept`` pushes of a node."""
    config, model, tokenizer, files = parts.config, parts.model, parts.tokenizer, parts.files
    assert model is not None
    assert tokenizer is not None
    assert files is not None
    if config.model.lora is not None:
        return AdapterVersions(model, kept)

    def load_base() -> PreTrainedModel:
        from hivemind_exp.models.loading import load_model  # imports transformers

        name = str(files.base) if files.base.exists() else config.model.name
        located = config.model.model_copy(update={"name": name})
        return load_model(located, tokenizer, dtype="float32", seed=config.node.seed)

    return WeightVersions(model, kept, load_base)
