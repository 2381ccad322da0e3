"""The engines that can serve this node's own weights: one line each."""

from hivemind_exp.config import Config
from hivemind_exp.offload.api.policy_server import PolicyServer
from hivemind_exp.offload.api.sglang import SglangServer
from hivemind_exp.offload.api.vllm import VllmServer
from hivemind_exp.offload.api.whole_weights import WholeWeights
from hivemind_exp.offload.settings import Endpoint, inference_engine_name

INFERENCE_ENGINES: dict[str, type[PolicyServer]] = {
    "vllm": VllmServer,
    "sglang": SglangServer,
}
"""By the values of ``offload.serving.engine``. A built-in provider with the name of an engine is that engine."""


def inference_engine(config: Config) -> type[PolicyServer]:
    """Return the engine to which a node with ``offload.kind = "policy"`` pushes its weights."""
    return INFERENCE_ENGINES[inference_engine_name(config)]


def open_engine(config: Config, endpoint: Endpoint) -> PolicyServer:
    """Return a client of one replica, which can do all that the engine can.

    Raises ``NodeError`` if a proxy cannot be used.
    """
    return inference_engine(config)(endpoint, config.offload.limits.timeout)


def open_server(config: Config, endpoint: Endpoint) -> PolicyServer:
    """Return a client of one replica, which loads what the node trains: its adapter, or all weights.

    Raises ``NodeError`` if a proxy cannot be used.
    """
    server = open_engine(config, endpoint)
    return server if config.model.lora is not None else WholeWeights(server)
