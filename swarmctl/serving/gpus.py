"""Which GPU a server gets that runs beside the trainer."""

from collections.abc import Mapping

from hivemind_exp.config import Config


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


def nvidia_gpus() -> int:
    """Return how many NVIDIA GPUs the driver lists; 0 without a driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return int(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return 0


def _used(config: Config, visible: list[str]) -> list[str]:
    """Return which of the visible GPUs the node trains on."""
    device = config.model.device
    if device not in ("auto", "cuda") and not device.startswith("cuda:"):
        return []
    first = int(device.partition(":")[2] or 0)
    return visible[first : first + max(1, config.train.processes)]
