"""Estimate the GPU memory of a server of a node's own weights. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

from hivemind_exp.config import Config
from hivemind_exp.models.memory import Shape, adapter_weights
from hivemind_exp.models.nvidia import Gpu
from hivemind_exp.offload.settings import share_of
from hivemind_exp.sources.schedule import rounds_ahead
from swarmctl.serving.gpus import Place
from swarmctl.serving.registry import server_engine

USUAL_SHARE = 0.9
"""The share of the memory of a GPU of its own, if no flag says otherwise: vLLM's own default."""
MOST_AT_ONCE = 256
"""How many completions vLLM generates at a time, at most, by default on most cards (``--max-num-seqs``). SGLang has no
such limit, but reserves no memory for them either."""
BATCHED_TOKENS = 8192
"""Tokens that vLLM and SGLang take at a time, by default on large cards; they need memory for their intermediate
results."""
RUNTIME = 3 * 2**29
"""CUDA, its libraries and CUDA graphs: an allowance."""
ASLEEP = 2 * 2**30
"""What a server keeps on the GPU while it sleeps: the same, and what lies outside its pools. An allowance."""


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Bytes on the GPU, by use."""

    weights: int
    adapters: int
    """Room for as many adapters as the node uses at a time; 0 if it trains all weights."""
    working: int
    """Intermediate results, logits, CUDA graphs, and CUDA itself."""
    cache: int
    """Keys and values of all completions that the node asks for at a time, at full length."""
    shortest_cache: int
    """The same for one completion. A server is of no use with less, and vLLM does not start."""

    @property
    def total(self) -> int:
        """What lets it generate all completions together."""
        return self.weights + self.adapters + self.working + self.cache

    @property
    def least(self) -> int:
        """What it needs to start. Then completions wait for each other."""
        return self.weights + self.adapters + self.working + self.shortest_cache


def server_memory(config: Config, shape: Shape, place: Place) -> ServerMemory:
    """Return the memory that the node's own server needs.

    The keys and values of a prompt are kept once for all its completions.
    """
    width = 4 if config.model.dtype == "float32" else 2
    rank = 0 if config.model.lora is None else config.model.lora.rank
    slots = (0 if place.turns else rounds_ahead(config)) + 2
    ranks = server_engine(config).ranks or (rank,)
    served = next((each for each in ranks if each >= rank), ranks[-1]) if rank else 0
    asked, completed = config.generation.max_prompt_tokens, config.generation.max_completion_tokens
    prompts = min(config.game.groups, config.offload.limits.concurrency)
    together = min(MOST_AT_ONCE, prompts * share_of(config.offload, config.game.group_size))
    per_token = shape.layers * 2 * shape.kv_heads * shape.head_dim * width
    results = BATCHED_TOKENS * (3 * shape.intermediate + 4 * shape.hidden) * width
    logits = MOST_AT_ONCE * shape.vocabulary * 4 * 3  # as they are, scaled, and as log-probabilities
    return ServerMemory(
        weights=shape.parameters * width,
        adapters=slots * adapter_weights(shape, served) * width,
        working=results + logits + RUNTIME,
        cache=(prompts * asked + together * completed) * per_token,
        shortest_cache=(asked + completed) * per_token,
    )


def memory_share(config: Config, place: Place) -> float:
    """Return the share of the GPU's memory that the server takes while it is awake."""
    words, engine = config.offload.serving.arguments, server_engine(config)
    for place_of, word in reversed(list(enumerate(words))):
        name, equals, value = word.partition("=")
        if name.replace("_", "-") == engine.share_flag:
            try:
                return float(value if equals else words[place_of + 1]) + engine.outside
            except (ValueError, IndexError):
                break  # the server refuses it
    return USUAL_SHARE if place.memory is None else place.memory


def kept_beside_node(config: Config, place: Place, gpu: Gpu) -> int:
    """Return the bytes of a GPU that the server keeps while the node trains on it; 0 if they share none."""
    if not place.shared or place.gpu != str(gpu.index):
        return 0
    return ASLEEP if place.turns else int(memory_share(config, place) * gpu.total)


def left_to_node(config: Config, place: Place, gpus: Sequence[Gpu], room: int) -> int:
    """Return the bytes that the server leaves to the node on each of its GPUs. ``room``: without a server."""
    kept = {gpu: kept_beside_node(config, place, gpu) for gpu in gpus}
    return min([room, *(max(0, gpu.free - each) for gpu, each in kept.items() if each)])


def with_share(config: Config, share: float) -> list[str]:
    """Return the server's further arguments, with another share of the memory."""
    engine = server_engine(config)
    kept, words = list[str](), iter(config.offload.serving.arguments)
    for word in words:
        name, equals, _ = word.partition("=")
        if name.replace("_", "-") != engine.share_flag:
            kept.append(word)
        elif not equals:
            next(words, None)
    return [*kept, f"{engine.share_flag}={max(0.01, round(share - engine.outside, 2)):g}"]
