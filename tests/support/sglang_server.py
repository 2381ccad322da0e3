"""A small stand-in for SGLang, with a real tiny model: the interface and the errors of SGLang 0.5.23.

It fails on command as the stand-in for vLLM does. Like SGLang, it ends if it is asked twice to sleep or to wake up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.policy_server import PolicyServer, Shape

_NEUTRAL = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


@dataclass
class SglangStandIn(PolicyServer):
    """The server's state. ``sleeps``: whether it has --enable-memory-saver and --enable-weights-cpu-backup."""

    most_loaded: int | None = None
    """--max-loaded-loras."""
    busy: bool = False
    """Whether requests are running that this test has not sent."""

    def answer(self, method: str, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        if path == "/resume_memory_occupation" and self.hangs is not None:
            self.hangs.wait()
        if path == "/generate":
            self._hold()
        with self._lock:
            if self.down:
                return 503, ""
            if path in ("/generate", "/load_lora_adapter"):
                self.turns.append("load" if "load" in path else "complete")
                self.while_asleep += self.turns[-1:] if self.asleep else []
            change = {"/load_lora_adapter": self._load, "/unload_lora_adapter": self._unload} if self.updates else {}
            plain = {"/v1/models": self._models, "/server_info": self._info, "/flush_cache": self._flush}
            asking = {"/generate": self._generate, "/update_weight_version": self._mark, **change}
            asking |= {"/update_weights_from_disk": self._update_weights}
            plain |= {"/model_info": lambda: (200, {"weight_version": self.version})}
            plain |= {"/release_memory_occupation": self._sleep, "/resume_memory_occupation": self._wake}
            name = path.partition("?")[0]
            if name in plain:
                return plain[name]()
            return asking[name](asked) if name in asking and method == "POST" else (404, {"detail": "Not Found"})

    def _models(self) -> tuple[int, Any]:
        names = [("policy", None), *((name, "policy") for name in self._adapters)]
        return 200, {"object": "list", "data": [{"id": name, "parent": parent} for name, parent in names]}

    def _flush(self) -> tuple[int, Any]:
        return (400, "Flush cache failed.\n") if self.busy else (200, "Cache flushed.\n")

    def _mark(self, asked: dict[str, Any]) -> tuple[int, Any]:
        self.version = asked["new_version"]
        return 200, {"success": True, "message": "", "new_version": self.version}

    def _update_weights(self, asked: dict[str, Any]) -> tuple[int, Any]:
        why = self.replace(Path(asked["model_path"]))
        if why is None:
            self.version = asked["weight_version"]
        text = why and f"Failed to get weights iterator: {why}."
        return 200 if why is None else 400, {"success": why is None, "message": text, "num_paused_requests": 0}

    def _sleep(self) -> tuple[int, Any]:
        return self._take_turns(wakes=False)

    def _wake(self) -> tuple[int, Any]:
        return self._take_turns(wakes=True)

    def _info(self) -> tuple[int, Any]:
        limits = {"max_loras_per_batch": self.most, "max_loaded_loras": self.most_loaded}
        limits["weight_cache_mode"] = "off" if self.reloads else "daemon"
        return 200, limits | {"enable_memory_saver": self.sleeps, "enable_weights_cpu_backup": self.sleeps}

    def _take_turns(self, *, wakes: bool) -> tuple[int, Any]:
        self.turns.append("wake_up" if wakes else "sleep")
        if self.asleep != wakes or (not wakes and self.busy):
            self.down = True  # an assertion ends it
        if self.refuses_to_wake if wakes else self.refuses_sleep:
            return 400, {"error": {"message": "CUDA error: out of memory"}}
        if wakes and self.loses_adapters:
            self._adapters = {}
        self.asleep = not wakes
        return 200, None

    def _update(self, why: str | None) -> tuple[int, Any]:
        loaded = dict.fromkeys(self._adapters, "path")
        document = {"rid": None, "http_worker_ipc": None, "success": why is None, "error_message": why or ""}
        return 200 if why is None else 400, document | {"loaded_adapters": loaded}

    def _unload(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if self._adapters.pop(asked["lora_name"], None) is None:
            return self._update(f"LoRA with name {asked['lora_name']} does not exist. Loaded LoRAs: odict_keys([])")
        return self._update(None)

    def _load(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name = asked["lora_name"]
        match self.take(name, Path(asked["lora_path"])):
            case "disabled":
                return self._update("LoRA is not enabled. Please set `--enable-lora` to enable LoRA.")
            case "loaded":
                return self._update(f"Failed to load LoRA adapter {name} because it is already loaded")
            case "missing":
                return self._update(
                    "Repo id must be in the form 'repo_name' or 'namespace/repo_name': '<path>'. Use `repo_type` "
                    "argument if needed."
                )
            case "weights":
                return self._update("Error while deserializing header: incomplete metadata, file not fully covered")
            case int(rank):
                return self._update(
                    f"LoRA adapter {name} with rank {rank} is incompatible with the current LoRA memory pool "
                    "configuration. Please ensure that the LoRA adapter's rank is within the configured "
                    "`--max-lora-rank` and that the target modules are included in `--lora-target-modules`."
                )
        return self._update(None)

    def _generate(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name, documents = asked.get("lora_path", "policy"), []
        for prompt, params in zip(asked["input_ids"], asked["sampling_params"], strict=True):
            shape = Shape(params["temperature"], params["max_new_tokens"], params.get("stop_token_ids", []))
            top = asked.get("top_logprobs_num", 0)
            found = self.sample(name, prompt, [params.get("sampling_seed", 42)], shape, top)
            if found is None:
                keys = list(self._adapters)
                text = f"Got LoRA adapter that has never been loaded: {name}\nAll loaded adapters: dict_keys({keys})."
                return 400, {"error": {"message": text}}
            (row,) = found
            likely = [[[value, each, None] for each, value in row.top.items()]]
            meta: dict[str, Any] = {
                "finish_reason": {"type": row.reason},
                "output_top_logprobs": likely,
            }
            if not self.outdated:
                meta["weight_versions"] = [{"version": self.version, "start": 0, "end": len(row.ids)}]
            meta["output_token_logprobs"] = [[logp, each, None] for logp, each in zip(row.logps, row.ids, strict=True)]
            document = {"text": "", "output_ids": row.ids, "meta_info": meta}
            documents.append(
                document | ({"prompt_token_ids": row.prompt} if "return_prompt_token_ids" in asked else {})
            )
        first = asked["sampling_params"][0]
        flat = {each: first.get(each) for each in (*_NEUTRAL, "presence_penalty", "frequency_penalty")}
        seeds = [each.get("sampling_seed") for each in asked["sampling_params"]]
        self.asked.append(
            flat | {"prompt": asked["input_ids"][0], "seeds": seeds, "stop_token_ids": first.get("stop_token_ids")}
        )
        return 200, documents
