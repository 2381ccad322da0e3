"""Where a node trains, in words."""

from collections.abc import Mapping
from typing import Any


def devices(start: Mapping[str, Any], *, by_name: bool = False) -> str | None:
    """Return where a node trains: ``cpu``, ``cuda:1``, ``2 GPUs`` or ``cpu, in 2 processes``; None in a relay.

    ``start``: fields of the event of this name. ``by_name``: ``NVIDIA H200`` instead of ``cuda``.
    """
    device, processes = start.get("device"), start.get("processes") or 1
    accelerator = (start.get("accelerator") if by_name else None) or device
    if device is None or processes == 1:
        return accelerator
    return f"cpu, in {processes} processes" if device == "cpu" else f"{processes} GPUs"
