"""The command line and the environment with which SGLang serves this node's weights."""

import shlex
from collections.abc import Mapping

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.offload.api.sglang import MODULES, TURNING
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.sources.schedule import rounds_ahead
from swarmctl.serving.engine import ServerEngine, base_environment, is_open
from swarmctl.serving.gpus import Place

OUTSIDE = 0.1
"""The share of the GPU's memory for what lies outside SGLang's ``--mem-fraction-static``: intermediate results, CUDA
graphs, and CUDA itself. An allowance, not measured."""
ALONE = 0.9
"""The share of the memory of a GPU of its own, with ``OUTSIDE``."""
_SHARE = "--mem-fraction-static"
_TURNING = ("/model_info", "weight_version", TURNING)
_CAUSES = (
    (
        r"out of memory|Not enough memory|leave no GPU memory for the KV cache",
        "The GPU has too little free memory for it. Give it a GPU of its own (offload.serving.gpu), or another share: "
        f"--set 'offload.serving.arguments=[\"{_SHARE}=0.3\"]'",
    ),
    (
        r"torch-memory-saver is not installed|torch_memory_saver",
        "It cannot sleep on this machine, so it cannot take turns with the node: --set offload.serving.turns=off",
    ),
    (
        r"unrecognized arguments|invalid choice",
        "Its version does not know a flag or a module of model.lora.targets; swarmctl is tested with SGLang 0.5.23",
    ),
    (r"Address already in use|port \d+ is (?:already|not) ", "Another program took its port; run the command again"),
)


def arguments(config: Config, port: int, place: Place) -> list[str]:
    """Return what follows the program. Raises ``ConfigurationError``."""
    serving = config.offload.serving
    if is_open(serving.arguments):
        raise ConfigurationError(
            "offload.serving.arguments opens the server to other machines (--host). Anyone who reaches an SGLang "
            "server can replace its weights",
            next="swarmctl run --set offload.serving.arguments=[]",
        )
    chosen = {
        "--model-path": ENGINE.model(config),
        "--served-model-name": first_endpoint(config).model,
        "--host": "127.0.0.1",
        "--port": str(port),
        _SHARE: f"{(ALONE if place.memory is None else place.memory) - OUTSIDE:g}",
    }
    if config.model.dtype != "auto":
        chosen["--dtype"] = config.model.dtype
    if config.model.revision is not None:
        chosen["--revision"] = config.model.revision
    words = [*_adapters(config), *(word for pair in chosen.items() for word in pair)]
    if place.turns:
        words += ["--enable-memory-saver", "--enable-weights-cpu-backup"]
    # The program sglang needs a subcommand; python -m sglang.launch_server does not.
    first = ["serve"] if len(shlex.split(serving.command)) == 1 else []
    return [*first, *words, *serving.arguments]


def _adapters(config: Config) -> list[str]:
    """Return the flags for the node's adapters; none if it trains all weights."""
    if (lora := config.model.lora) is None:
        return []
    targets = MODULES if lora.targets == "all-linear" else tuple(each.strip() for each in lora.targets.split(","))
    room = str(rounds_ahead(config) + 2)
    shape = ["--max-lora-rank", str(lora.rank), "--max-loras-per-batch", room]
    return ["--enable-lora", *shape, "--lora-target-modules", *targets]


def environment(before: Mapping[str, str], place: Place, _whole: bool = False) -> dict[str, str]:
    """Return SGLang's environment: ``before`` without keys."""
    kept = base_environment(before, place)
    kept.pop("SGLANG_RETURN_ORIGINAL_LOGPROB", None)
    # Otherwise each look at /health generates a token, and takes a second.
    return kept | {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "false"}


ENGINE = ServerEngine(
    "sglang", "SGLang", arguments, environment, _CAUSES, _SHARE, outside=OUTSIDE, ranks=(), unknown=_TURNING
)
