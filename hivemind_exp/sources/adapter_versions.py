"""Copies of the adapters that were pushed to a server, and what this machine computes with them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from hivemind_exp.config import Config
from hivemind_exp.node_files import NodeFiles

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

Tokens = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and of its completion."""
NEWEST = -1
"""Stands for the weights as they are now."""
BASE = -2
"""Stands for the model without its adapter."""


def adapter_folder(config: Config, files: NodeFiles) -> tuple[Path, str]:
    """Return the directory for a node's adapters, which then exists, and how their names begin there.

    What an earlier run left there is deleted.
    """
    chosen = config.offload.serving.folder
    folder = Path(chosen).expanduser().resolve() if chosen else files.served
    folder.mkdir(parents=True, exist_ok=True)
    node = f"swarmctl-{hashlib.sha256(b'served' + files.secret()).hexdigest()[:8]}-"
    for left in (each for pattern in (f"{node}*", f".partial-{node}*") for each in folder.glob(pattern)):
        shutil.rmtree(left, ignore_errors=True)
    return folder, node


class AdapterVersions:
    """Remembers the adapters of the last pushes, by serial.

    Nothing may change the weights without a call of ``moved``.
    """

    def __init__(self, model: PreTrainedModel, kept: int) -> None:
        """``kept``: how many pushes are remembered."""
        self._model = cast("PeftModel", model)
        self._kept = kept
        self._copies: dict[int, dict[str, Tensor]] = {}
        self._same: int | None = None
        """The push whose weights the model has; None if they have moved since."""
        self._loaded = NEWEST
        """What the model has at the moment. ``NEWEST``: its own weights."""
        self._own: dict[str, Tensor] | None = None
        """A copy of the model's own weights, while it has others and no push has the same."""
        self._comparing = False

    @property
    def serials(self) -> list[int]:
        """The pushes that are remembered, the oldest first."""
        return list(self._copies)

    @property
    def most_pushes(self) -> int:
        """How many pushes may be under way, so that those and the one before them are remembered.

        As many as a node has that never stops waiting for a round's completions, so that these are not too old.
        """
        return self._kept - 1

    def moved(self) -> None:
        """Take note that the model's weights have changed."""
        self._same = None

    def remember(self, serial: int, needed: Collection[int] = ()) -> Mapping[str, Tensor]:
        """Copy the adapter as it is now; return its weights, on the CPU, under the names that peft gives files.

        Forgets the oldest pushes that there is no room for, but none of ``needed``.
        """
        from peft import get_peft_model_state_dict

        self._remember(serial, needed)
        state = get_peft_model_state_dict(self._model)
        return {name: each.detach().to("cpu", copy=True).contiguous() for name, each in state.items()}

    def _remember(self, serial: int, needed: Collection[int]) -> dict[str, Tensor]:
        for old in [each for each in self._copies if each not in needed]:
            if len(self._copies) < self._kept:
                break
            del self._copies[old]
        copy = self._copies[serial] = self._now()
        self._same = serial
        return copy

    def write(self, weights: Mapping[str, Tensor], directory: Path) -> None:
        """Write an adapter in peft's format."""
        from safetensors.torch import save_file

        directory.mkdir(parents=True)
        save_file(dict(weights), directory / "adapter_model.safetensors")
        self._model.peft_config[self._model.active_adapter].save_pretrained(str(directory))

    @contextmanager
    def comparing(self) -> Iterator[None]:
        """Let several calls of ``logps`` share what they copy. The model has its own weights again at the end."""
        if self._comparing:
            yield
            return
        self._comparing = True
        try:
            yield
        finally:
            try:
                self._load(NEWEST)
            finally:
                self._comparing, self._own = False, None

    def logps(self, serial: int, rows: Sequence[Tokens], temperature: float) -> list[list[float]]:
        """Return the log-probability of each completion's tokens. Leaves the model as it was.

        ``serial``: a push that is remembered, ``NEWEST`` or ``BASE``.
        """
        training = self._model.training
        self._model.eval()
        try:
            with torch.no_grad(), self.comparing(), self._as(serial):
                return self._score(rows, temperature)
        finally:
            self._model.train(training)

    @contextmanager
    def _as(self, serial: int) -> Iterator[None]:
        if serial == BASE:
            with self._model.disable_adapter():
                yield
            return
        self._load(serial)
        yield

    def _load(self, serial: int) -> None:
        """Give the model the weights of a push, or its own, unless it has them."""
        wanted = NEWEST if serial == self._same else serial
        if wanted == self._loaded:
            return
        if self._loaded == NEWEST and self._same is None:
            self._own = self._now()
        own = self._own if self._same is None else self._copies[self._same]
        values = own if wanted == NEWEST else self._weights(wanted)
        assert values is not None
        with torch.no_grad():
            self._put(values)
        self._loaded = wanted

    def _weights(self, serial: int) -> Mapping[str, Tensor]:
        return self._copies[serial]

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, each) for name, each in self._model.named_parameters() if each.requires_grad)

    def _now(self) -> dict[str, Tensor]:
        """Return a copy of the model's weights."""
        return {name: each.detach().clone() for name, each in self._trained()}

    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, each in self._trained():
            each.copy_(values[name])

    def _score(self, rows: Sequence[Tokens], temperature: float) -> list[list[float]]:
        device, width = self._model.device, max(len(prompt) + len(completion) for prompt, completion in rows)
        ids, mask = torch.zeros((len(rows), width), dtype=torch.long), torch.zeros((len(rows), width), dtype=torch.long)
        for place, (prompt, completion) in enumerate(rows):  # padded on the left, as in generation
            ids[place, width - len(prompt) - len(completion) :] = torch.tensor([*prompt, *completion])
            mask[place, width - len(prompt) - len(completion) :] = 1
        longest = max(len(completion) for _, completion in rows)
        how: dict[str, Any] = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0).to(device)}
        how["logits_to_keep"] = longest + 1  # the logits of long prompts would fill the memory
        ids, mask = ids.to(device), mask.to(device)
        logits = self._model(input_ids=ids, attention_mask=mask, **how).logits[:, :-1]
        logps = torch.log_softmax(logits.float() / temperature, dim=-1)
        picked = logps.gather(2, ids[:, -longest:].unsqueeze(2)).squeeze(2).tolist()
        return [values[longest - len(completion) :] for values, (_, completion) in zip(picked, rows, strict=True)]
