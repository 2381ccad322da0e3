"""Which GPU a server gets that runs beside the trainer, and how the two share it."""

from collections.abc import Mapping
from dataclasses import dataclass

from hivemind_exp.config import Config

SHARED_MEMORY = 0.45
"""Share of the GPU's memory for the server if the node trains on the same GPU while the server generates."""
MEMORY_IN_TURN = 0.6
"""The same if they take turns. The rest is for what the node keeps meanwhile: its weights and the optimizer's state."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the node's own server runs."""

    gpu: str | None
    """As in CUDA_VISIBLE_DEVICES. None: whatever the server finds."""
    shared: bool
    """Whether the node trains on the same GPU."""
    turns: bool
    """Whether the server sleeps while the node trains."""
    why: str
    """Why, as a clause. Empty if the server shares nothing."""

    @property
    def memory(self) -> float | None:
        """The share of the GPU's memory that the server gets; None: the engine's own default."""
        if not self.shared:
            return None
        return MEMORY_IN_TURN if self.turns else SHARED_MEMORY


def place_server(config: Config, environment: Mapping[str, str], count: int) -> Place:
    """Return where the server runs, and whether it takes turns with the node. ``count``: as in ``gpu_for_server``."""
    gpu, shared = gpu_for_server(config, environment, count)
    chosen = config.offload.serving.turns
    if chosen != "auto":
        return Place(gpu, shared, chosen == "on", f"offload.serving.turns = {chosen}")
    if not shared:
        return Place(gpu, shared=False, turns=False, why="")
    if config.train.processes > 1:
        return Place(gpu, shared, turns=False, why=f"train.processes = {config.train.processes}")
    if config.offload.ahead:
        return Place(gpu, shared, turns=False, why=f"offload.ahead = {config.offload.ahead}")
    return Place(gpu, shared, turns=True, why="neither needs the memory while the other works")


def gpu_for_server(config: Config, environment: Mapping[str, str], count: int) -> tuple[str | None, bool]:
    """Return the server's GPU, as in CUDA_VISIBLE_DEVICES, and whether the node trains on it.

    The last GPU, if the node does not use it. ``count``: how many NVIDIA GPUs the machine has. With none, or with a
    node on the CPU, the server may use whatever it finds, and shares nothing.
    """
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    visible = [str(index) for index in range(count)] if listed is None else [each for each in listed.split(",") if each]
    if config.offload.serving.gpu is not None:
        chosen = str(config.offload.serving.gpu)
        return chosen, chosen in _used(config, visible)
    if not visible:
        return None, False
    used = _used(config, visible)
    return visible[-1], visible[-1] in used


def _used(config: Config, visible: list[str]) -> list[str]:
    """Return which of the visible GPUs the node trains on."""
    device = config.model.device
    if device not in ("auto", "cuda") and not device.startswith("cuda:"):
        return []
    first = int(device.partition(":")[2] or 0)
    return visible[first : first + max(1, config.train.processes)]
