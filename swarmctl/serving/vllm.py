"""The command line and the environment with which vLLM serves this node's weights."""

from collections.abc import Mapping

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.sources.schedule import rounds_ahead
from swarmctl.serving.engine import ServerEngine, base_environment, is_open
from swarmctl.serving.gpus import Place

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for ``--max-lora-rank``."""
_SHARE = "--gpu-memory-utilization"
_CAUSES = (
    (
        r"out of memory|No available memory for the cache blocks|less than desired GPU memory",
        "The GPU has too little free memory for it. Give it a GPU of its own (offload.serving.gpu), or less memory: "
        f"--set 'offload.serving.arguments=[\"{_SHARE}=0.3\"]'",
    ),
    (
        r"Sleep mode is not supported",
        "It cannot sleep on this machine, so it cannot take turns with the node: --set offload.serving.turns=off",
    ),
    (
        r"max_model_len \(\d+\) is greater than",
        "Its model has fewer positions than a prompt and a completion may have together: lower "
        "generation.max_prompt_tokens or generation.max_completion_tokens",
    ),
    (r"unrecognized arguments|invalid choice", "Its version does not know a flag; swarmctl is tested with vLLM 0.32"),
    (r"Address already in use", "Another program took its port; run the command again"),
)


def arguments(config: Config, port: int, place: Place) -> list[str]:
    """Return what follows the program. Raises ``ConfigurationError``."""
    generation, serving = config.generation, config.offload.serving
    chosen = {
        "--served-model-name": first_endpoint(config).model,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--logprobs-mode": "processed_logprobs",
        "--max-model-len": str(generation.max_prompt_tokens + generation.max_completion_tokens),
    }
    if config.model.dtype != "auto":
        chosen["--dtype"] = config.model.dtype
    if config.model.revision is not None:
        chosen["--revision"] = config.model.revision
    if place.memory is not None:
        chosen[_SHARE] = str(place.memory)
    words = [*_adapters(config), "--disable-uvicorn-access-log", *(word for pair in chosen.items() for word in pair)]
    if is_open(serving.arguments):
        _check_closed(config, place)
    if place.turns:
        words.append("--enable-sleep-mode")
    return ["serve", ENGINE.model(config), *words, *serving.arguments]


def _adapters(config: Config) -> list[str]:
    """Return the flags for the node's adapters; none if it trains all weights. Raises ``ConfigurationError``."""
    if (lora := config.model.lora) is None:
        return []
    rank = next((each for each in RANKS if each >= lora.rank), None)
    if rank is None:
        raise ConfigurationError(
            f"vLLM serves adapters up to rank {RANKS[-1]}, but model.lora.rank is {lora.rank}",
            next=f"swarmctl run --set model.lora.rank={RANKS[-1]}",
        )
    room = str(rounds_ahead(config) + 2)
    return ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", room]


def _check_closed(config: Config, place: Place) -> None:
    """Raise ``ConfigurationError`` if a server that is open to other machines has an interface that must not be."""
    text = (
        "offload.serving.arguments opens the server to other machines (--host). {}, it has vLLM's interface for "
        "development, with which anyone who reaches it controls it"
    )
    if config.model.lora is None:
        raise ConfigurationError(
            text.format("Because the node trains all weights"),
            next="swarmctl run --set offload.serving.arguments=[]",
        )
    if place.turns:
        raise ConfigurationError(
            text.format("While it takes turns with the node"), next="swarmctl run --set offload.serving.turns=off"
        )


def environment(before: Mapping[str, str], place: Place, whole: bool = False) -> dict[str, str]:
    """Return vLLM's environment: ``before`` without keys. ``whole``: whether the node trains all weights."""
    switches = {"VLLM_NO_USAGE_STATS": "1"} | ({} if whole else {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"})
    if place.turns or whole:
        switches["VLLM_SERVER_DEV_MODE"] = "1"  # for /sleep, /wake_up, and what reloads weights
    return base_environment(before, place) | switches


ENGINE = ServerEngine("vllm", "vLLM", arguments, environment, _CAUSES, _SHARE, outside=0.0, ranks=RANKS)
