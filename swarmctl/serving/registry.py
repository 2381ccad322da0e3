"""The engines that ``run --serve`` can start: one line each."""

from hivemind_exp.config import Config
from hivemind_exp.offload.settings import inference_engine_name
from swarmctl.serving import sglang, vllm
from swarmctl.serving.engine import ServerEngine

SERVER_ENGINES: dict[str, ServerEngine] = {
    "vllm": vllm.ENGINE,
    "sglang": sglang.ENGINE,
}
"""By the values of ``offload.serving.engine``."""


def server_engine(config: Config) -> ServerEngine:
    """Return the engine of the server that a node starts."""
    return SERVER_ENGINES[inference_engine_name(config)]
