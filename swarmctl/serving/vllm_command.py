"""The command line and the environment with which vLLM serves this node's weights."""

import itertools
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models import smollm2
from hivemind_exp.offload.settings import first_endpoint
from hivemind_exp.secrets import without_secrets
from hivemind_exp.sources.schedule import rounds_ahead
from swarmctl.serving.gpus import Place

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for ``--max-lora-rank``."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Torch's settings, which are meant for the node. With expandable segments, older versions of vLLM cannot sleep."""
INSTALL = "uv tool install vllm"


def program(config: Config) -> list[str]:
    """Return the program of ``offload.serving.command``, with its path. Raises ``ConfigurationError``."""
    first, *rest = shlex.split(config.offload.serving.command)
    path = shutil.which(os.path.expanduser(first))
    if path is None:
        raise ConfigurationError(
            f"offload.serving.command: no program {foreign(first)} on the PATH. vLLM needs an environment of its own, "
            "because it brings its own torch; if it is installed elsewhere, give its path: --serve /PATH/TO/bin/vllm",
            next=INSTALL,
        )
    return [str(Path(path).absolute()), *rest]


def arguments(config: Config, port: int, place: Place) -> list[str]:
    """Return what follows the program.

    Those of ``offload.serving.arguments`` come last, so they win. Raises ``ConfigurationError``.
    """
    lora, generation, serving = config.model.lora, config.generation, config.offload.serving
    assert lora is not None, "offload.kind = policy needs adapters"
    rank = next((each for each in RANKS if each >= lora.rank), None)
    if rank is None:
        raise ConfigurationError(
            f"vLLM serves adapters up to rank {RANKS[-1]}, but model.lora.rank is {lora.rank}",
            next=f"swarmctl run --set model.lora.rank={RANKS[-1]}",
        )
    chosen = {
        "--served-model-name": first_endpoint(config).model,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--max-lora-rank": str(rank),
        "--max-loras": str(rounds_ahead(config.offload) + 2),
        "--logprobs-mode": "processed_logprobs",
        "--max-model-len": str(generation.max_prompt_tokens + generation.max_completion_tokens),
    }
    if config.model.dtype != "auto":
        chosen["--dtype"] = config.model.dtype
    if config.model.revision is not None:
        chosen["--revision"] = config.model.revision
    if place.memory is not None:
        chosen["--gpu-memory-utilization"] = str(place.memory)
    words = ["--enable-lora", "--disable-uvicorn-access-log", *(word for pair in chosen.items() for word in pair)]
    if place.turns:
        _check_host(serving.arguments)
        words.append("--enable-sleep-mode")
    return ["serve", _model(config), *words, *serving.arguments]


def _check_host(words: Sequence[str]) -> None:
    """Raise ``ConfigurationError`` if arguments open the server to other machines."""
    for word, following in itertools.pairwise([*words, ""]):
        name, equals, value = word.partition("=")
        if len(name) > len("--h") and "--host".startswith(name) and (value if equals else following) not in LOOPBACK:
            raise ConfigurationError(
                "offload.serving.arguments opens the server to other machines (--host). While it takes turns with the "
                "node, it has vLLM's interface for development, with which anyone who reaches it controls it",
                next="swarmctl run --set offload.serving.turns=off",
            )


def environment(before: Mapping[str, str], place: Place) -> dict[str, str]:
    """Return vLLM's environment: ``before`` without keys."""
    switches = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    kept = {name: value for name, value in without_secrets(before).items() if name != "PYTHONPATH"}
    if place.turns:
        switches["VLLM_SERVER_DEV_MODE"] = "1"  # for /sleep and /wake_up
        for name in ALLOCATOR:
            kept.pop(name, None)
    if place.gpu is not None:
        switches |= {"CUDA_VISIBLE_DEVICES": place.gpu, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return kept | switches


def _model(config: Config) -> str:
    """Return the model as vLLM finds it. Raises ``ConfigurationError`` for the demo's model."""
    name = config.model.name
    if name == "tiny":
        again = "swarmctl run --model smollm2 --serve vllm"
        raise ConfigurationError("vLLM cannot serve the demo's tiny model", next=again)
    if name == smollm2.NAME:
        stored = smollm2.stored(os.environ)
        return smollm2.HUB_ID if stored is None else str(stored)
    return name
