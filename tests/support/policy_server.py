"""A small stand-in for vLLM, with a real tiny model: loads peft's adapters, samples from them, and fails on command.

It speaks the endpoints that a node uses, and its errors are worded as those of vLLM 0.32. The stand-in for SGLang
(``tests.support.sglang_server``) is a subclass.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, load_peft_weights, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.loopback import serving


@dataclass
class Shape:
    """What completions are requested."""

    temperature: float
    most: int
    ends: list[int]


@dataclass
class Row:
    """One completion."""

    prompt: list[int]
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    top: dict[int, float] = field(default_factory=dict)
    """The likeliest first tokens."""
    reason: str = ""


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
    heeds_seeds: bool = True
    """Whether the seed of a request decides on its completions."""
    one_seed: bool = False
    """Whether it takes one seed for all completions."""
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
    reloads: bool = True
    """Whether it has the interface to replace all its weights (vLLM: VLLM_SERVER_DEV_MODE=1)."""
    paused: bool = False
    version: str = "default"
    """The version of its weights, which it keeps until it ends."""
    reloaded: list[str] = field(default_factory=list)
    """The directories that whole weights were read from."""
    in_flight: int = 0
    straddled: list[str] = field(default_factory=list)
    """Directories that were read while completions were generated."""
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
    outdated: bool = False
    """It cannot say which weights it has, like vLLM 0.26 and SGLang 0.5.16."""
    asleep: bool = False
    turns: list[str] = field(default_factory=list)
    """What it was asked, in order: sleep, wake_up, load, reload, complete."""
    while_asleep: list[str] = field(default_factory=list)
    """What it was asked while it slept. vLLM would crash or wait for ever."""
    down: bool = False
    answering: Callable[[str], None] | None = None
    """Called with the path of each request once it has had its effect, before it is answered."""
    loads: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    _adapters: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._base = AutoModelForCausalLM.from_pretrained(self.directory).eval()
        self._before = self._base
        """The weights before those of the last reload."""
        self._model: PeftModel | None = None

    @property
    def adapters(self) -> list[str]:
        return list(self._adapters)

    def answer(self, method: str, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        if path == "/wake_up" and self.hangs is not None:
            self.hangs.wait()
        if path == "/v1/completions":
            self._hold()
        with self._lock:
            if self.down:
                return 503, _error("the server is starting", 503)
            if path in ("/sleep?level=1", "/wake_up", "/is_sleeping"):
                return self._turn(path) if self.sleeps else (404, {"detail": "Not Found"})
            if path == "/v1/completions" and self.paused:
                return 503, _error("a paused vLLM would not answer", 503)
            if path in ("/v1/completions", "/v1/load_lora_adapter"):
                self.turns.append("load" if "load" in path else "complete")
                self.while_asleep += self.turns[-1:] if self.asleep else []
            if method == "GET" and path == "/v1/models":
                names = [("policy", None), *((name, "policy") for name in self._adapters)]
                return 200, {"object": "list", "data": [{"id": name, "parent": parent} for name, parent in names]}
            if path == "/metrics":
                return 200, f'vllm:lora_requests_info{{max_lora="{self.most}",running_lora_adapters=""}} 1.0'
            known = {"/v1/completions": self._complete}
            if self.updates:
                known |= {"/v1/load_lora_adapter": self._load, "/v1/unload_lora_adapter": self._unload}
            if self.reloads and path.partition("?")[0] in _RELOAD[self.outdated :]:
                known[path] = partial(self._reload, path)
            return known[path](asked) if path in known else (404, {"detail": "Not Found"})

    def _hold(self) -> None:
        if self.holds is not None:
            self.in_flight += 1
            self.holds.wait()
            self.in_flight -= 1

    def _reload(self, path: str, asked: dict[str, Any]) -> tuple[int, Any]:
        match path.partition("?")[0]:
            case "/update_weight_version":
                self.version = asked["new_version"]
            case "/collective_rpc":
                assert self.paused, "vLLM computes with half of the weights"
                folder = asked["kwargs"]["weights_path"]
                if (why := self.replace(Path(folder))) is not None:
                    text = f"Call to collective_rpc method failed: Worker failed with error '{why}'"
                    return 500, _error(text, 500)
            case "/pause" | "/resume":
                self.paused = path.startswith("/pause")
        return 200, {"success": True, "weight_version": self.version}

    def replace(self, folder: Path) -> str | None:
        """Read whole weights. Return why that failed, as both engines word it; None if it did not."""
        for there, here in self.mounts.items():
            folder = here / folder.relative_to(there)
        self.turns.append("reload")
        self.straddled += [folder.name] if self.in_flight else []
        if not folder.is_dir():
            return f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{folder}'."
        if self.broken_loads:
            self.broken_loads -= 1
            with torch.no_grad():
                next(self._base.parameters()).zero_()
            return "Error while deserializing header: incomplete metadata, file not fully covered"
        self.reloaded.append(folder.name)
        if not self.ignores:
            new = self._with(load_file(folder / "model.safetensors"))
            for each in new.parameters():
                each.data *= 1 + self.coarse * torch.randn(each.shape, generator=torch.Generator().manual_seed(0))
            self._before, self._base = self._base, new
        return None

    def _with(self, weights: dict[str, torch.Tensor]) -> Any:
        """Return the model with other weights. (``from_pretrained`` must not run in two threads at a time.)"""
        model = copy.deepcopy(self._base)
        missing, unknown = model.load_state_dict(weights, strict=False)
        assert not unknown
        assert set(missing) <= {"lm_head.weight"}, "it is tied to the embeddings"
        return model

    def _restarts(self) -> None:
        """Lose what was pushed, like a server that was restarted."""
        self._adapters, self.forgets = {}, False
        if self.version != "default":
            self.version, self._base = "default", self._with(load_file(self.directory / "model.safetensors"))

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
        name = asked["lora_name"]

        def failed(text: str) -> tuple[int, Any]:
            return 500, _error(f"Call to add_lora method failed: Worker failed with error '{text}'", 500)

        match self.take(name, Path(asked["lora_path"])):
            case "disabled":
                return failed("LoRA is not enabled. Use --enable-lora to enable LoRA.")
            case "loaded":
                return 400, _error(f"The lora adapter '{name}' has already been loaded.", 400)
            case "missing":
                return 404, _error(f"Loading lora {name} failed: No adapter found for <path>", 404)
            case "weights":
                return failed("Error while deserializing header: incomplete metadata, file not fully covered")
            case int(rank):
                return failed(f"LoRA rank {rank} is greater than max_lora_rank {self.rank}.")
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def take(self, name: str, folder: Path) -> str | int | None:
        """Load an adapter. Return what is wrong with it, or its rank if that is too high; None if nothing is."""
        for there, here in self.mounts.items():
            folder = here / folder.relative_to(there)
        self.loads.append(name)
        if not self.enabled:
            return "disabled"
        if name in self._adapters:
            return "loaded"
        if not (folder / "adapter_config.json").is_file():
            return "missing"
        shape = json.loads((folder / "adapter_config.json").read_text())
        if shape["r"] > self.rank:
            return int(shape["r"])
        if self.broken_loads or not (folder / "adapter_model.safetensors").is_file():
            self.broken_loads = max(0, self.broken_loads - 1)
            return "weights"
        if self._model is None:
            self._model = PeftModel(self._base, LoraConfig.from_pretrained(str(folder)))
            self._model.eval()
            for each in self._model.parameters():
                each.data *= 1 + self.coarse * torch.randn(each.shape, generator=torch.Generator().manual_seed(0))
        self._adapters[name] = load_peft_weights(str(folder), device="cpu")
        return None

    def _complete(self, asked: dict[str, Any]) -> tuple[int, Any]:
        name, count = asked["model"], int(asked.get("n", 1))
        seeds = [int(asked.get("seed", 0)) + index for index in range(count)]
        shape = Shape(float(asked["temperature"]), asked["max_tokens"], asked.get("stop_token_ids", []))
        found = self.sample(name, asked["prompt"], seeds, shape, int(asked["logprobs"]))
        if found is None:
            return 404, _error(f"The model `{name}` does not exist.", 404)
        self.asked.append(asked)
        choices = []
        for index, row in enumerate(found):
            choice = {"index": index, "text": "", "token_ids": row.ids, "prompt_token_ids": row.prompt}
            top = {str(each): value for each, value in row.top.items()}
            table = {"token_logprobs": row.logps, "tokens": [], "top_logprobs": [top]}
            choices.append(choice | {"finish_reason": row.reason, "logprobs": table})
        return 200, {"object": "text_completion", "model": name, "choices": choices}

    def sample(self, name: str, prompt: list[int], seeds: list[int], shape: Shape, top: int) -> list[Row] | None:
        """Return a completion for each seed; None if there is no such model. ``top``: how many likely tokens to say."""
        if self.forgets:
            self._restarts()
        names = list(self._adapters)
        if name != "policy" and name not in names:
            return None
        whole = [*self.prefix, *prompt]
        if name == "policy" or self.ignores or self._model is None:
            with self._model.disable_adapter() if self._model is not None else nullcontext():
                base = self._before if self.behind else self._base
                return [self._row(base, whole, seed, shape, top) for seed in seeds]
        used = names[max(0, names.index(name) - 1)] if self.behind else name
        set_peft_model_state_dict(self._model, self._adapters[used])
        return [self._row(self._model, whole, seed, shape, top) for seed in seeds]

    @torch.no_grad()
    def _row(self, model: Any, prompt: list[int], seed: int, shape: Shape, top: int) -> Row:
        random = torch.Generator()
        random.manual_seed(0 if self.one_seed else seed) if self.heeds_seeds else random.seed()
        ends = {1, *shape.ends}
        row = Row(prompt)
        while len(row.ids) < shape.most and not (row.ids and row.ids[-1] in ends):
            logits = model(torch.tensor([[*prompt, *row.ids]])).logits[0, -1]
            shaped = torch.log_softmax(logits / shape.temperature, -1)
            row.ids.append(int(torch.multinomial(shaped.exp(), 1, generator=random)))
            told = shaped if self.processed else torch.log_softmax(logits, -1)
            row.logps.append(float(told[row.ids[-1]]))
            if len(row.ids) == 1:
                row.top = {each: float(told[each]) for each in told.topk(top).indices.tolist()}
        row.reason = "abort" if self.aborts else "stop" if row.ids[-1] in ends else "length"
        return row


_RELOAD = ("/weight_info", "/update_weight_version", "/collective_rpc", "/pause", "/resume", "/reset_prefix_cache")


def _error(message: str, code: int) -> dict[str, Any]:
    return {"error": {"message": message, "type": "Error", "param": None, "code": code}}


@contextmanager
def policy_server(
    directory: Path, kind: type[PolicyServer] = PolicyServer, **faults: Any
) -> Iterator[tuple[PolicyServer, str]]:
    """Serve a model from a directory; yield the server and its base URL. ``kind``: the engine that it stands for."""
    server = kind(directory, **faults)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET", {})

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            self._answer("POST", json.loads(self.rfile.read(length) or b"{}"))

        def _answer(self, method: str, asked: dict[str, Any]) -> None:
            status, document = server.answer(method, self.path, asked)
            if server.answering is not None:
                server.answering(self.path)
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
