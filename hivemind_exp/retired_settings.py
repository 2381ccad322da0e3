"""Settings that no longer exist. Old configurations still contain them."""

from typing import NamedTuple


class Retired(NamedTuple):
    """A setting that no longer exists, because it had no effect."""

    default: float
    """The value that every old configuration contains. It is ignored without a message."""
    reason: str


_NOTHING_TO_CLIP = (
    "each rollout is used for one optimizer step, so the ratio to the policy at its start is 1 and there is nothing to "
    "clip. To limit the size of a step, set train.max_grad_norm"
)
RETIRED: dict[tuple[str, ...], Retired] = {
    ("train", "epsilon"): Retired(0.2, _NOTHING_TO_CLIP),
    ("train", "epsilon_high"): Retired(0.28, _NOTHING_TO_CLIP),
    ("train", "delta"): Retired(4.0, _NOTHING_TO_CLIP),
}
"""Refused with the reason where someone sets them to another value; ignored in the records of existing nodes."""
