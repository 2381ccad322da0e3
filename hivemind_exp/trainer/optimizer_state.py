"""The optimizer, its schedule and the random state, as a file of a checkpoint."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hivemind_exp import formats

_OF_SETTINGS = ("initial_lr", "weight_decay")
"""Keys of the optimizer's parameter groups that settings define, not the training so far."""


class _CheckedFile:
    """A file that calls ``check`` before each write. What it raises ends the writing."""

    def __init__(self, file: BinaryIO, check: Callable[[], None]) -> None:
        self._file, self._check = file, check
        self.flush = file.flush
        self.raised: Exception | None = None

    def write(self, piece: bytes) -> int:
        try:
            self._check()
        except Exception as error:
            self.raised = error
            raise
        return self._file.write(piece)


def save_state(
    path: Path, optimizer: Mapping[str, Any], schedule: LambdaLR, check: Callable[[], None] = lambda: None
) -> None:
    """Write the optimizer's state, its schedule and the random state.

    ``check``: called between pieces; what it raises ends the writing, with an incomplete file.
    """
    rng = torch.get_rng_state()
    state = {
        "schema": formats.FORMAT,
        "optimizer": optimizer,
        "schedule": schedule.state_dict(),
        "rng": rng,
    }
    with path.open("wb") as file:
        checked = _CheckedFile(file, check)
        try:
            torch.save(state, cast(IO[bytes], checked))
        except RuntimeError:  # torch's own, about the unfinished file, replaces what ``check`` raised
            if checked.raised is None:
                raise
            raise checked.raised from None


def load_state(
    path: Path,
    optimizer: Optimizer,
    schedule: LambdaLR,
    divided: Callable[[dict[str, Any]], dict[str, Any]] = lambda state: state,
) -> None:
    """Restore what ``save_state`` wrote. ``divided``: returns the optimizer's state as this process holds it.

    The learning rate and weight decay are those of this run's settings, which may have changed since. Raises
    ``NewerFormat`` if a newer version wrote the file.
    """
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    formats.check_number(path, state.get("schema"))
    settings = [{name: group[name] for name in _OF_SETTINGS} for group in optimizer.param_groups]
    base_rates = schedule.base_lrs
    optimizer.load_state_dict(divided(state["optimizer"]))
    schedule.load_state_dict(state["schedule"] | {"base_lrs": base_rates})
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    rates = [base * factor for base, factor in zip(base_rates, factors, strict=True)]
    schedule._last_lr = rates
    for group, kept, rate in zip(optimizer.param_groups, settings, rates, strict=True):
        group.update(kept, lr=rate)
    torch.set_rng_state(state["rng"])
