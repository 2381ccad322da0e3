"""SGLang as a server of this node's weights: adapters are loaded under names of their own while it runs.

It needs ``--enable-lora``, ``--max-lora-rank`` and ``--lora-target-modules``, and reads adapters from a directory that
both see. Completions are asked of its own interface (``/generate``), which takes and returns token ids, and a seed for
each completion. Its log-probabilities are those of the sampling temperature, unless SGLANG_RETURN_ORIGINAL_LOGPROB is
set. It ignores seeds without ``--enable-deterministic-inference``.

Written against the source of SGLang 0.5.23, and tested with that version on a CPU (``make test-sglang``): loading,
unloading, completions and errors. Sleep needs a GPU, and was tested with a stand-in only.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from hivemind_exp.offload.api.chat import ChatClient
from hivemind_exp.offload.api.faults import FaultKind, RequestFailed, broken
from hivemind_exp.offload.api.model_list import ListsModels
from hivemind_exp.offload.api.policy_server import (
    NO_WEIGHTS,
    RELOADING,
    AdapterMissing,
    Advice,
    Causes,
    PushFailed,
    SampledAnswer,
    Sampling,
    checked_row,
    explain,
)
from hivemind_exp.offload.settings import Endpoint

_SEED_STEP = 0x9E3779B97F4A7C15
"""Between the seeds of one prompt's completions: odd and large, so that two prompts' seeds don't overlap."""
_SEED_BITS = 0x7FFFFFFF
NEUTRAL: Mapping[str, float] = {
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Nothing but the temperature shapes the distribution, whatever the server's own defaults are."""
_MISSING = re.compile(r"never been loaded|not loaded|does not exist|Failed to implicitly load", re.IGNORECASE)
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""SGLang's names of the linear layers of a block, for ``--lora-target-modules``: those of ``all-linear`` in peft."""
_ADAPTERS = f"--enable-lora --max-lora-rank RANK --lora-target-modules {' '.join(MODULES)}"
CAUSES: Causes = (
    (
        r"rank (\d+) is incompatible",
        "does not take adapters of rank {0} for these modules",
        "Start it with a --max-lora-rank of at least model.lora.rank, and with --lora-target-modules "
        f"{' '.join(MODULES)} or those of model.lora.targets; or lower model.lora.rank.",
    ),
    (
        r"Repo id must be|No such file|Permission denied|not a local folder|Can't load|offline mode",
        "cannot read the directory of the adapter",
        "Set offload.serving.folder to a directory that this machine and the server share, and "
        "offload.serving.server_folder to its path on the server.",
    ),
    (
        r"Cannot find any model weights|deserializ|incomplete|corrupt",
        NO_WEIGHTS,
        "If the directory is on a network, check that files arrive there complete.",
    ),
    (r"LoRA is not enabled", "does not serve adapters", f"Start it with {_ADAPTERS}."),
    (
        r"HTTP 40[45]: (?:\"?Not Found|\"?Method Not)",
        "has no interface to load adapters",
        "Use SGLang 0.5 or later, or set offload.serving.engine to what the server runs.",
    ),
)
"""What SGLang says when it does not load an adapter, what that means, and what helps."""
RELOAD_CAUSES: Causes = (
    (CAUSES[1][0], "cannot read the directory of the weights", CAUSES[1][2]),
    (CAUSES[2][0], "could not read the weights", CAUSES[2][2]),
)
"""The same for whole weights."""
ADVICE = Advice(
    adapters=f"Start it with {_ADAPTERS}",
    most_adapters="Start it with --max-loras-per-batch {needed} or more, and without a lower --max-loaded-loras",
    sampled_logps="Start it without SGLANG_RETURN_ORIGINAL_LOGPROB in its environment",
    precision="Start it without --quantization and with --kv-cache-dtype auto",
    turns="Start it with --enable-memory-saver and --enable-weights-cpu-backup",
    reloads="Use SGLang 0.5 or later, without --weight-cache-mode",
    seeds="Start it with --enable-deterministic-inference",
)
ASLEEP = "swarmctl-asleep:"
"""How the weight version of a server begins that this node put to sleep. The version that it had follows.

SGLang does not say whether it sleeps, and ends if it is asked twice to sleep or to wake up. But it keeps this text
until it ends, also for a node that was restarted meanwhile.
"""
TURNING = "swarmctl-turning:"
"""The same for a server that is being put to sleep or woken up. If the node is killed meanwhile, nothing says whether
the server sleeps, so it is asked neither to sleep nor to wake up until it was restarted."""
_UNNAMED = "does not say which weights wrote a completion"
_OUTDATED = "Update it: swarmctl is tested with SGLang 0.5.23."
_ECHO = {"return_prompt_token_ids": True}
_IDLE_S = 30
"""Seconds that the server gets to finish what it still does, before it falls asleep."""


class SglangServer(ListsModels):
    """One SGLang server."""

    advice: ClassVar[Advice] = ADVICE
    modules: ClassVar[tuple[str, ...]] = MODULES

    def __init__(self, endpoint: Endpoint, seconds: float) -> None:
        self.url = endpoint.base_url
        self._client = ChatClient(endpoint, None, seconds=seconds)
        self._root = self.url.removesuffix("/v1")
        self._base: str | None = None
        """The name of the model under the adapters, once known."""
        self._reloading = asyncio.Lock()

    async def most_adapters(self) -> int | None:
        """Return the smaller of ``--max-loras-per-batch`` and ``--max-loaded-loras``."""
        try:
            info = await self._document("/server_info")
        except RequestFailed:
            return None
        limits = [info.get(name) for name in ("max_loras_per_batch", "max_loaded_loras")]
        return min((each for each in limits if type(each) is int), default=None)

    async def load(self, name: str, folder: str) -> None:
        try:
            await self._call("/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        except RequestFailed as fault:
            raise explain(fault, CAUSES) from fault

    async def unload(self, name: str) -> None:
        try:
            await self._call("/unload_lora_adapter", {"lora_name": name})
        except RequestFailed as fault:
            if not _MISSING.search(fault.detail):
                raise

    async def reload_problem(self) -> str | None:
        info = await self._document("/server_info")
        off = info.get("weight_cache_mode", "off") == "off"
        if not off:
            return f"It cannot replace all its weights. {ADVICE.reloads}."
        params = [{"max_new_tokens": 1, "temperature": 1.0, **NEUTRAL}]
        (document,) = await self._generate(await self.base_model(), [0], params, {})
        return f"It {_UNNAMED}. {_OUTDATED}" if _versions(document) is None else None

    async def reload(self, name: str, folder: str) -> None:
        """Requests in flight are completed before, and new ones wait."""
        async with self._reloading:
            try:
                if await self._version() == name:  # another request had it loaded again
                    return
                # If it fails, it may have read a part, and would still call that by the version before.
                await self._mark(RELOADING)
                asked = {"model_path": folder, "weight_version": name, "flush_cache": True}
                await self._call("/update_weights_from_disk", asked)
            except RequestFailed as fault:
                raise explain(fault, RELOAD_CAUSES) from fault

    async def is_asleep(self) -> bool | None:
        """Return whether this node put the server to sleep; None if it could not wake up with its weights."""
        version = await self._version()
        if version.startswith(TURNING):
            raise state_unknown()
        if version.startswith(ASLEEP):
            return True
        info = await self._document("/server_info")
        able = info.get("enable_memory_saver") is True and info.get("enable_weights_cpu_backup") is True
        return False if able else None

    async def sleep(self) -> None:
        """Keys and values are dropped; the weights go to the CPU's memory."""
        asleep = await self.is_asleep()
        if asleep is None:
            text = "it does not keep its weights in the CPU's memory"
            raise RequestFailed(FaultKind.BAD_REQUEST, text, status=HTTPStatus.NOT_IMPLEMENTED)
        if asleep:
            return
        # Asked while a request is running, it would end. This waits until none is.
        await self._call(f"/flush_cache?timeout={_IDLE_S}", {})
        version = await self._version()
        await self._turn("/release_memory_occupation", version, before=version, after=ASLEEP + version)

    async def wake(self) -> None:
        marked = await self._version()
        if marked.startswith(TURNING):
            raise state_unknown()
        if marked.startswith(ASLEEP):
            version = marked.removeprefix(ASLEEP)
            await self._turn("/resume_memory_occupation", version, before=marked, after=version)

    async def _turn(self, path: str, version: str, *, before: str, after: str) -> None:
        """Have the server fall asleep or wake up. No text is ever there that could be wrong, whenever the node ends."""
        await self._mark(TURNING + version)
        try:
            await self._call(path, {})
        except RequestFailed as fault:
            if fault.status is not None:  # it refused
                await self._mark(before)
            elif fault.sent:  # it is slow, and does this before anything else that it is asked
                await self._mark(after)
            raise
        await self._mark(after)

    async def _version(self) -> str:
        return str((await self._document("/model_info")).get("weight_version"))

    async def _mark(self, version: str) -> None:
        await self._call("/update_weight_version", {"new_version": version, "abort_all_requests": False})

    async def complete(
        self, adapter: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        documents = await self._generate(adapter, prompt, self._params(count, sampling, seed), _ECHO)
        return self._answer(documents, prompt, sampling)

    def _params(self, count: int, sampling: Sampling, seed: int) -> list[dict[str, Any]]:
        """Return the parameters of each completion."""
        shape = {
            "max_new_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stop_token_ids": list(sampling.end_ids),
            **NEUTRAL,
        }
        seeds = [(seed + index * _SEED_STEP) >> 16 & _SEED_BITS for index in range(count)]
        # SGLang gives all completions of one request for several (n) the same seed.
        return [shape | {"sampling_seed": each} for each in seeds]

    async def complete_whole(
        self, version: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        self._base = self._base or await self.base_model()
        documents = await self._generate(self._base, prompt, self._params(count, sampling, seed), _ECHO)
        for document in documents:
            found = _versions(document)
            if found is None:
                raise PushFailed(_UNNAMED, _OUTDATED)
            if found != {version}:
                raise AdapterMissing
        return self._answer(documents, prompt, sampling)

    def _answer(self, documents: Sequence[Any], prompt: Sequence[int], sampling: Sampling) -> SampledAnswer:
        rows, same = [], True
        for document in documents:
            reason = _part(document, "meta_info", "finish_reason", "type")
            if reason == "abort":
                raise broken("the server ended a completion before its end")
            entries = _part(document, "meta_info", "output_token_logprobs")
            if not isinstance(entries, list) or not all(isinstance(each, list) and len(each) > 1 for each in entries):
                raise broken("the answer has no token ids or no log-probabilities")
            rows.append(checked_row([each[1] for each in entries], [each[0] for each in entries], sampling))
            sent = _part(document, "prompt_token_ids")
            same = same and (sent is None or sent == list(prompt))
        return SampledAnswer(tuple(rows), same)

    async def logps_at(self, model: str, prompt: Sequence[int], temperature: float) -> dict[Any, float]:
        params = [{"max_new_tokens": 1, "temperature": temperature, **NEUTRAL}]
        (document,) = await self._generate(model, prompt, params, {"top_logprobs_num": 5})
        try:
            found = document["meta_info"]["output_top_logprobs"][0]
            return {each[1]: float(each[0]) for each in found}
        except (LookupError, TypeError, ValueError) as error:
            raise broken("the answer has no log-probabilities") from error

    async def _generate(
        self, model: str | None, prompt: Sequence[int], params: Sequence[Mapping[str, Any]], more: Mapping[str, Any]
    ) -> list[Any]:
        """Return a document for each of ``params``. Raises ``AdapterMissing``."""
        asked: dict[str, Any] = {"input_ids": [list(prompt)] * len(params), "sampling_params": list(params)}
        asked |= {"return_logprob": True, **more}
        self._base = self._base or await self.base_model()
        if model != self._base:
            asked["lora_path"] = model
        try:
            content = await self._call("/generate", asked)
        except RequestFailed as fault:
            if _MISSING.search(fault.detail):
                raise AdapterMissing from fault
            raise
        documents = _parsed(content)
        if not isinstance(documents, list) or len(documents) != len(params):
            raise broken(f"the answer has not the {len(params)} completions that were requested")
        return documents

    async def _document(self, path: str) -> dict[str, Any]:
        found = _parsed(await self._client.call(f"{self._root}{path}"))
        if not isinstance(found, dict):
            raise broken(f"the answer to {path} is not what SGLang sends")
        return found

    async def _call(self, path: str, asked: Mapping[str, Any]) -> bytes:
        return await self._client.call(f"{self._root}{path}", asked)

    async def close(self) -> None:
        await self._client.close()


def state_unknown() -> RequestFailed:
    """Return the failure of a server of which nobody knows whether it sleeps."""
    text = "a node was killed while this server fell asleep or woke up, so nobody knows whether it sleeps"
    return RequestFailed(FaultKind.BAD_REQUEST, text, status=HTTPStatus.CONFLICT)


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise broken("the answer is not JSON") from error


def _versions(document: Any) -> set[Any] | None:
    """Return the versions of the weights that wrote a completion; None if the server does not say."""
    spans = _part(document, "meta_info", "weight_versions")
    return {_part(each, "version") for each in spans} if isinstance(spans, list) else None


def _part(document: Any, *names: str) -> Any:
    for name in names:
        document = document.get(name) if isinstance(document, dict) else None
    return document
