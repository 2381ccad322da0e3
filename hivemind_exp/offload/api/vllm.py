"""vLLM as a server of this node's weights: adapters are loaded under names of their own while it runs.

It needs ``--enable-lora`` and ``VLLM_ALLOW_RUNTIME_LORA_UPDATING=1``, and reads adapters from a directory that both
see. Tested with vLLM 0.32.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from hivemind_exp.foreign_text import foreign
from hivemind_exp.offload.api.chat import ChatClient, read_document
from hivemind_exp.offload.api.dialect import PLAIN
from hivemind_exp.offload.api.faults import RequestFailed, broken
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

_SEED_BITS = 0x7FFFFFFF
_NO_PENALTY = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
_MISSING = re.compile(r"does not exist|cannot be found|not found", re.IGNORECASE)
CAUSES: Causes = (
    (
        r"greater than max_lora_rank (\d+)",
        "allows adapters up to rank {0}",
        "Start it with a --max-lora-rank of at least model.lora.rank, or lower model.lora.rank.",
    ),
    (
        r"No adapter found|No such file|Permission denied",
        "cannot read the directory of the adapter",
        "Set offload.serving.folder to a directory that this machine and the server share, and "
        "offload.serving.server_folder to its path on the server.",
    ),
    (
        r"doesn't contain tensors|deserializ|incomplete|corrupt",
        NO_WEIGHTS,
        "If the directory is on a network, check that files arrive there complete.",
    ),
    (r"LoRA is not enabled|lora_config|enable.lora", "does not serve adapters", "Start it with --enable-lora."),
    (
        r"HTTP 40[45]: (?:\"?Not Found|\"?Method Not)",
        "has no interface to load adapters",
        "Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 in its environment, and with --enable-lora.",
    ),
)
"""What vLLM says when it does not load an adapter, what that means, and what helps."""
RELOAD_CAUSES: Causes = (
    (
        CAUSES[1][0] + "|Repo id must be|Can't load|not a local folder",
        "cannot read the directory of the weights",
        CAUSES[1][2],
    ),
    (CAUSES[2][0], "could not read the weights", CAUSES[2][2]),
)
"""The same for whole weights."""
ADVICE = Advice(
    adapters="Start it with --enable-lora",
    most_adapters="Start it with --max-loras {needed}",
    sampled_logps="Start it with --logprobs-mode processed_logprobs",
    precision="Start it without --quantization and with --kv-cache-dtype auto",
    turns="Start it with --enable-sleep-mode and with VLLM_SERVER_DEV_MODE=1 in its environment",
    reloads="Start it with VLLM_SERVER_DEV_MODE=1 in its environment",
    seeds="Put no proxy in front of it that drops parameters of requests",
)
OUTDATED = "Update it: swarmctl is tested with vLLM 0.32"


class VllmServer(ListsModels):
    """One vLLM server."""

    advice: ClassVar[Advice] = ADVICE
    modules: ClassVar[tuple[str, ...]] = ("q_proj", "v_proj")

    def __init__(self, endpoint: Endpoint, seconds: float) -> None:
        self.url = endpoint.base_url
        self._client = ChatClient(endpoint, None, seconds=seconds)
        self._root = self.url.removesuffix("/v1")
        self._base = ""
        """The name of the model under the adapters, once known."""
        self._reloading = asyncio.Lock()

    async def most_adapters(self) -> int | None:
        """Return ``--max-loras``, from the server's metrics."""
        try:
            found = re.search(
                r'lora_requests_info\{max_lora="(\d+)"', (await self._client.call(f"{self._root}/metrics")).decode()
            )
        except (RequestFailed, UnicodeDecodeError):
            return None
        return None if found is None else int(found[1])

    async def load(self, name: str, folder: str) -> None:
        try:
            await self._client.call("/load_lora_adapter", {"lora_name": name, "lora_path": folder})
        except RequestFailed as fault:
            raise explain(fault, CAUSES) from fault

    async def unload(self, name: str) -> None:
        try:
            await self._client.call("/unload_lora_adapter", {"lora_name": name})
        except RequestFailed as fault:
            if not _MISSING.search(fault.detail):
                raise

    async def reload_problem(self) -> str | None:
        if await self._version() is None:
            return f"It cannot replace all its weights. {await self._remedy()}."
        return None

    async def _remedy(self) -> str:
        """Return what would let the server replace its weights."""
        # Older versions have the rest of the interface that VLLM_SERVER_DEV_MODE turns on.
        return ADVICE.reloads if await self.is_asleep() is None else OUTDATED

    async def _version(self) -> str | None:
        """Return the version of the weights; None if the server has no interface for that."""
        try:
            content = await self._client.call(f"{self._root}/weight_info")
        except RequestFailed as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        try:
            return str(json.loads(content)["weight_version"])
        except (ValueError, LookupError, TypeError) as error:
            raise broken("the answer to /weight_info is not what vLLM sends") from error

    async def reload(self, name: str, folder: str) -> None:
        """Requests wait meanwhile. A vLLM that fails to reload often ends with the next request."""
        async with self._reloading:
            try:
                await self._reload(name, folder)
            except RequestFailed as fault:
                raise explain(fault, RELOAD_CAUSES) from fault

    async def _reload(self, name: str, folder: str) -> None:
        version = await self._version()
        if version is None:
            raise PushFailed("cannot replace all its weights", f"{await self._remedy()}.")
        if version == name:  # another request had it loaded again
            return
        await self._do("/update_weight_version", {"new_version": RELOADING})
        try:
            await self._do("/pause?mode=wait", {})
            await self._do("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}})
            if b"true" not in await self._do("/reset_prefix_cache", {}):
                raise PushFailed("did not drop the keys and values of the weights before")
            await self._do("/update_weight_version", {"new_version": name})
        finally:
            await self._do("/resume", {})

    async def _do(self, path: str, asked: dict[str, Any]) -> bytes:
        return await self._client.call(f"{self._root}{path}", asked)

    async def complete_whole(
        self, version: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        self._base = self._base or await self.base_model() or ""
        # Both looks are needed: another request may have had the weights loaded again in between.
        if await self._version() != version:
            raise AdapterMissing
        answer = await self.complete(self._base, prompt, count, sampling, seed)
        if await self._version() != version:
            raise AdapterMissing
        return answer

    async def is_asleep(self) -> bool | None:
        try:
            content = await self._client.call(f"{self._root}/is_sleeping")
        except RequestFailed as fault:
            if fault.status == HTTPStatus.NOT_FOUND:
                return None
            raise
        try:
            return bool(json.loads(content)["is_sleeping"])
        except (ValueError, LookupError, TypeError) as error:
            raise broken("the answer to /is_sleeping is not what vLLM sends") from error

    async def sleep(self) -> None:
        """Level 1: the weights, with room for adapters, go to the CPU's memory; keys and values are dropped."""
        await self._client.call(f"{self._root}/sleep?level=1", {})
        if not await self.is_asleep():
            raise broken("it is still awake")

    async def wake(self) -> None:
        await self._client.call(f"{self._root}/wake_up", {})
        if await self.is_asleep():
            raise broken("it is still asleep")

    async def complete(
        self, adapter: str, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> SampledAnswer:
        asked = {
            "model": adapter,
            "prompt": list(prompt),
            "n": count,
            "seed": seed & _SEED_BITS,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "stop_token_ids": list(sampling.end_ids),
            "logprobs": 0,
            "return_token_ids": True,
            **PLAIN,
            **_NO_PENALTY,
        }
        document = await self._completion(adapter, asked)
        choices = document["choices"]
        if len(choices) != count:
            raise broken(f"the answer has {len(choices)} completions instead of {count}")
        rows, same = [], True
        for choice in choices:
            if isinstance(choice, dict) and choice.get("finish_reason") == "abort":
                raise broken("the server ended a completion before its end")
            table = choice.get("logprobs") if isinstance(choice, dict) else None
            logps = table.get("token_logprobs") if isinstance(table, dict) else None
            rows.append(checked_row(choice.get("token_ids") if isinstance(choice, dict) else None, logps, sampling))
            sent = choice.get("prompt_token_ids")
            same = same and (sent is None or sent == list(prompt))
        return SampledAnswer(tuple(rows), same)

    async def logps_at(self, model: str, prompt: Sequence[int], temperature: float) -> dict[Any, float]:
        asked = {"model": model, "prompt": list(prompt), "max_tokens": 1, "logprobs": 5, "temperature": temperature}
        document = await self._completion(model, {**asked, **PLAIN})
        try:
            found = document["choices"][0]["logprobs"]["top_logprobs"][0]
            return {name: float(value) for name, value in found.items()}
        except (LookupError, TypeError, AttributeError, ValueError) as error:
            raise broken("the answer has no log-probabilities") from error

    async def _completion(self, model: str, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            document = read_document(*await self._client.complete_raw(asked))
        except RequestFailed as fault:
            if "HTTP 404" in fault.detail and _MISSING.search(fault.detail):
                raise AdapterMissing from fault
            raise
        if document.get("model") != model:
            raise broken(f"{foreign(str(document.get('model')))} answered instead of {model}")
        return document

    async def close(self) -> None:
        await self._client.close()
