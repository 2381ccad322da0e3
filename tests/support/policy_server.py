"""A small stand-in for vLLM, with a real tiny model: loads peft's adapters, samples from them, and fails on command.

It speaks the endpoints that a node uses, and its errors are worded as those of vLLM 0.32.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from transformers import AutoModelForCausalLM

from tests.support.loopback import serving


@dataclass
class PolicyServer:
    """The server's state. Set its attributes to make it fail."""

    directory: Path
    rank: int = 16
    updates: bool = True
    """Whether adapters can be loaded while it runs."""
    enabled: bool = True
    """Whether it serves adapters at all."""
    processed: bool = True
    """Whether log-probabilities are those of the sampling temperature."""
    ignores: bool = False
    """Answers with the base model, whatever adapter is asked."""
    behind: bool = False
    """Answers with the adapter loaded before the one that is asked."""
    prefix: tuple[int, ...] = ()
    """Tokens that it puts before every prompt."""
    coarse: float = 0.0
    """Relative size of errors in its weights, like those of quantization."""
    broken_loads: int = 0
    """How many loads find a file that is not complete."""
    forgets: bool = False
    """Loses its adapters before the next completion, like a server that was restarted."""
    most: int = 6
    """How many adapters it keeps ready."""
    mounts: dict[str, Path] = field(default_factory=dict)
    """Directories of this machine, by their paths in the server's container."""
    sleeps: bool = True
    """Whether it has the interface to sleep (--enable-sleep-mode, VLLM_SERVER_DEV_MODE=1)."""
    refuses_sleep: bool = False
    """Fails to fall asleep, and stays awake."""
    refuses_to_wake: bool = False
    """Fails to wake up, as without enough memory."""
    hangs: threading.Event | None = None
    """Until this is set, it does not answer /wake_up."""
    holds: threading.Event | None = None
    """Until this is set, it answers no completion."""
    loses_adapters: bool = False
    """Has no adapters any more when it wakes up."""
    aborts: bool = False
    """Ends completions early, as when it falls asleep meanwhile."""
    asleep: bool = False
    turns: list[str] = field(default_factory=list)
    """What it was asked, in order: sleep, wake_up, load, complete."""
    while_asleep: list[str] = field(default_factory=list)
    """What it was asked while it slept. vLLM would crash or wait for ever."""
    down: bool = False
    loads: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    _adapters: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._base = AutoModelForCausalLM.from_pretrained(self.directory).eval()
        self._model: PeftModel | None = None

    @property
    def adapters(self) -> list[str]:
        return list(self._adapters)

    def answer(self, method: str, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        if path == "/wake_up" and self.hangs is not None:
            self.hangs.wait()
        if path == "/v1/completions" and self.holds is not None:
            self.holds.wait()
        with self._lock:
            if self.down:
                return 503, _error("the server is starting", 503)
            if path in ("/sleep?level=1", "/wake_up", "/is_sleeping"):
                return self._turn(path) if self.sleeps else (404, {"detail": "Not Found"})
            if path in ("/v1/completions", "/v1/load_lora_adapter"):
                self.turns.append("load" if "load" in path else "complete")
                self.while_asleep += self.turns[-1:] if self.asleep else []
            if method == "GET" and path == "/v1/models":
                names = [("policy", None), *((name, "policy") for name in self._adapters)]
                return 200, {"object": "list", "data": [{"id": name, "parent": parent} for name, parent in names]}
            if path == "/metrics":
                return 200, f'vllm:lora_requests_info{{max_lora="{self.most}",running_lora_adapters=""}} 1.0'
            if path == "/v1/completions":
                return self._complete(asked)
            change = {"/v1/load_lora_adapter": self._load, "/v1/unload_lora_adapter": self._unload}.get(path)
            return (404, {"detail": "Not Found"}) if change is None or not self.updates else change(asked)

    def _turn(self, path: str) -> tuple[int, Any]:
        if path == "/is_sleeping":
            return 200, {"is_sleeping": self.asleep}
        self.turns.append("wake_up" if path == "/wake_up" else "sleep")
        if self.refuses_to_wake if path == "/wake_up" else self.refuses_sleep:
            return 500, _error("CUDA Error: out of memory at cumem_allocator.cpp:150", 500)
        if path == "/wake_up":
            if self.asleep and self.loses_adapters:
                self._adapters = {}
            self.asleep = False
            return 200, {"status": "awake", "tags": None}
        self.asleep = True
        return 200, {"status": "sleeping", "level": 1}

    def _unload(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if self._adapters.pop(asked["lora_name"], None) is None:
            return 404, _error(f"The lora adapter '{asked['lora_name']}' cannot be found.", 404)
        return 200, "Success"

    def _load(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name, folder = asked["lora_name"], Path(asked["lora_path"])
        for there, here in self.mounts.items():
            folder = here / folder.relative_to(there)

        def failed(text: str) -> tuple[int, Any]:
            return 500, _error(f"Call to add_lora method failed: Worker failed with error '{text}'", 500)

        self.loads.append(name)
        if not self.enabled:
            return failed("LoRA is not enabled. Use --enable-lora to enable LoRA.")
        if name in self._adapters:
            return 400, _error(f"The lora adapter '{name}' has already been loaded.", 400)
        if not (folder / "adapter_config.json").is_file():
            return 404, _error(f"Loading lora {name} failed: No adapter found for <path>", 404)
        shape = json.loads((folder / "adapter_config.json").read_text())
        if shape["r"] > self.rank:
            return failed(f"LoRA rank {shape['r']} is greater than max_lora_rank {self.rank}.")
        if self.broken_loads or not (folder / "adapter_model.safetensors").is_file():
            self.broken_loads = max(0, self.broken_loads - 1)
            return failed("Error while deserializing header: incomplete metadata, file not fully covered")
        if self._model is None:
            self._model = PeftModel(self._base, LoraConfig.from_pretrained(str(folder)))
            self._model.eval()
            for each in self._model.parameters():
                each.data *= 1 + self.coarse * torch.randn(each.shape, generator=torch.Generator().manual_seed(0))
        self._adapters[name] = load_peft_weights(str(folder), device="cpu")
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def _complete(self, asked: dict[str, Any]) -> tuple[int, Any]:
        if self.forgets:
            self._adapters, self.forgets = {}, False
        name, names = asked["model"], list(self._adapters)
        if name != "policy" and name not in names:
            return 404, _error(f"The model `{name}` does not exist.", 404)
        self.asked.append(asked)
        if name == "policy" or self.ignores or self._model is None:
            model: Any = self._base
            if self._model is not None:
                with self._model.disable_adapter():
                    return 200, self._sample(model, asked)
            return 200, self._sample(model, asked)
        used = names[max(0, names.index(name) - 1)] if self.behind else name
        set_peft_model_state_dict(self._model, self._adapters[used])
        return 200, self._sample(self._model, asked)

    @torch.no_grad()
    def _sample(self, model: Any, asked: dict[str, Any]) -> dict[str, Any]:
        prompt, temperature = [*self.prefix, *asked["prompt"]], float(asked["temperature"])
        ends, choices = {1, *asked.get("stop_token_ids", [])}, []
        for index in range(int(asked.get("n", 1))):
            random = torch.Generator().manual_seed(int(asked.get("seed", 0)) + index)
            ids: list[int] = []
            logps: list[float] = []
            while len(ids) < asked["max_tokens"] and not (ids and ids[-1] in ends):
                logits = model(torch.tensor([[*prompt, *ids]])).logits[0, -1]
                shaped = torch.log_softmax(logits / temperature, -1)
                ids.append(int(torch.multinomial(shaped.exp(), 1, generator=random)))
                told = shaped if self.processed else torch.log_softmax(logits, -1)
                logps.append(float(told[ids[-1]]))
            top = {str(each): float(told[each]) for each in told.topk(int(asked["logprobs"])).indices.tolist()}
            choice = {"index": index, "text": "", "token_ids": ids, "prompt_token_ids": prompt}
            table = {"token_logprobs": logps, "tokens": [], "top_logprobs": [top]}
            reason = "abort" if self.aborts else "stop" if ids[-1] in ends else "length"
            choices.append(choice | {"finish_reason": reason, "logprobs": table})
        return {"object": "text_completion", "model": asked["model"], "choices": choices}


def _error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "Error", "param": None, "code": code}}


@contextmanager
def policy_server(directory: Path, **faults: Any) -> Iterator[tuple[PolicyServer, str]]:
    """Serve a model from a directory; yield the server and its base URL."""
    server = PolicyServer(directory, **faults)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET", {})

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            self._answer("POST", json.loads(self.rfile.read(length) or b"{}"))

        def _answer(self, method: str, asked: dict[str, Any]) -> None:
            status, document = server.answer(method, self.path, asked)
            body = (document if isinstance(document, str) else json.dumps(document)).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as address:
        yield server, f"{address}/v1"
