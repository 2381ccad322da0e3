"""A small OpenAI-compatible server around a transformers model, which writes answers and scores tokens.

For benchmarks on machines without vLLM. It has the parts of vLLM's API that a node uses: ``/v1/models``,
``/v1/chat/completions`` with ``n``, and ``/v1/completions`` with a prompt of token ids, ``echo`` and ``logprobs``. All
numbers come from the model. On a CPU, one request is computed at a time, on one thread, so that a request's seed
decides its answers. On a GPU, requests that wait are computed together, and generation uses a CUDA graph, as a node's
does. ``GET /bill`` returns the tokens billed.
``--hints`` names a function that writes hints instead of the model, from the question that it is asked about.

    python -m benchmarks.token_server MODEL_DIRECTORY      # prints its address
    python -m benchmarks.token_server MODEL_DIRECTORY --device cuda --hints benchmarks.real.tasks:first_step
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from hivemind_exp.sources.graph_decoding import can_decode, decode

TOGETHER = 64
"""Most requests computed together on a GPU."""
HINT = "Write a hint"
"""What the instruction of a request for a hint contains (``hivemind_exp.offload.hints``)."""


@dataclass(slots=True)
class Waiting:
    """A request that waits for its turn."""

    kind: tuple[Any, ...]
    """Requests of the same kind can be computed together."""
    asked: dict[str, Any]
    answer: asyncio.Future[dict[str, Any]]


class Teacher:
    """The model, and what it has billed."""

    def __init__(self, directory: Path, device: str = "cpu", hints: Callable[[str], str] | None = None) -> None:
        self.name = directory.name
        self.bill: Counter[str] = Counter()
        self._device, self._hints = device, hints
        self._together = 1 if device == "cpu" else TOGETHER
        self._tokenizer = AutoTokenizer.from_pretrained(directory, padding_side="left")
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).to(device).eval()
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue()
        self._texts: dict[int, str] = {}
        """Each token's text, once it has been needed."""

    @torch.no_grad()
    def _chat(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer chats with the same temperature and length."""
        first = requests[0]
        chats = [
            self._tokenizer.apply_chat_template(each["messages"], add_generation_prompt=True, return_dict=True)
            for each in requests
        ]
        ids = self._tokenizer.pad([dict(each) for each in chats], return_tensors="pt").to(self._device)
        counts = [int(each.get("n", 1)) for each in requests]
        rows = torch.repeat_interleave(torch.arange(len(requests)), torch.tensor(counts)).to(self._device)
        torch.manual_seed(int(first.get("seed", 0)))
        prompts, mask = ids["input_ids"][rows], ids["attention_mask"][rows]
        made = self._generate(prompts, mask, float(first["temperature"]), int(first["max_tokens"])).tolist()
        answers, end = [], self._tokenizer.eos_token_id
        for number, chat in enumerate(chats):
            start, choices, tokens = sum(counts[:number]), [], 0
            for index, row in enumerate(made[start : start + counts[number]]):
                kept = row[: row.index(end)] if end in row else row
                tokens += len(kept) + (end in row)
                text = self._tokenizer.decode(kept, skip_special_tokens=True)
                choices.append(_choice(index, text, "stop" if end in row else "length"))
            answers.append(self._answer("chat.completion", choices, len(chat["input_ids"]), tokens))
        return answers

    def _generate(self, prompts: Tensor, mask: Tensor, temperature: float, most: int) -> Tensor:
        """Return sampled completions (B, T) of prompts (B, P), padded on the left."""
        if can_decode(self._model, most):

            def choose(logits: Tensor) -> Tensor:
                chances = torch.softmax(logits.float() / temperature, dim=-1)
                return (chances / torch.empty_like(chances).exponential_()).argmax(dim=-1)

            ends, fill = [self._tokenizer.eos_token_id], self._tokenizer.pad_token_id
            limits = [most] * len(prompts)
            return decode(self._model, prompts, mask, limits=limits, choose=choose, end_ids=ends, fill=fill)
        found: Tensor = self._model.generate(
            input_ids=prompts,
            attention_mask=mask,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=most,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        return found[:, prompts.shape[1] :]

    def _hint(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer requests for hints with the given function. They are billed as if the model had written them."""
        answers = []
        for each in requests:
            prompt = self._tokenizer.apply_chat_template(each["messages"], add_generation_prompt=True, return_dict=True)
            text = self._hints(each["messages"][-1]["content"]) if self._hints else ""
            made, count = len(self._tokenizer.encode(text)) + 1, int(each.get("n", 1))
            choices = [_choice(index, text, "stop") for index in range(count)]
            answers.append(self._answer("chat.completion", choices, len(prompt["input_ids"]), made * count))
        return answers

    @torch.no_grad()
    def _complete(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Score prompts of token ids."""
        prompts = [each["prompt"] for each in requests]
        longest = max(map(len, prompts))
        ids = torch.tensor([[*each, *[0] * (longest - len(each))] for each in prompts], device=self._device)
        seen = torch.tensor([[1] * len(each) + [0] * (longest - len(each)) for each in prompts], device=self._device)
        all_logits = self._model(input_ids=ids, attention_mask=seen).logits
        answers = []
        for prompt, logits in zip(prompts, all_logits, strict=True):
            logps = log_softmax(logits[: len(prompt)].float(), -1)
            following = logps[-1].argmax()
            chosen = torch.cat([torch.tensor(prompt[1:], device=self._device), following.unsqueeze(0)])
            values = logps.gather(1, chosen.unsqueeze(1)).squeeze(1).tolist()
            table = {
                "tokens": [self._text(each) for each in (*prompt, int(following))],
                "token_logprobs": [None, *values],
            }
            choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": table, "prompt_token_ids": prompt}
            answers.append(self._answer("text_completion", [choice], len(prompt), 1))
        return answers

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._tokenizer.decode([token])
        return self._texts[token]

    def _answer(self, kind: str, choices: list[dict[str, Any]], prompt: int, made: int) -> dict[str, Any]:
        usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        self.bill.update(usage | {"requests": 1})
        return {"id": "1", "object": kind, "created": 0, "model": self.name, "choices": choices, "usage": usage}

    def _compute(self, batch: Sequence[Waiting]) -> list[dict[str, Any]]:
        work = {"chat": self._chat, "hint": self._hint, "complete": self._complete}[batch[0].kind[0]]
        return work([each.asked for each in batch])

    async def work(self) -> None:
        """Compute requests, first come, first served."""
        held: list[Waiting] = []
        while True:
            held = held or [await self._queue.get()]
            while not self._queue.empty():
                held.append(self._queue.get_nowait())
            batch = [each for each in held if each.kind == held[0].kind][: self._together]
            held = [each for each in held if each not in batch]
            try:
                for each, answer in zip(batch, await asyncio.to_thread(self._compute, batch), strict=True):
                    each.answer.set_result(answer)
            except Exception as error:  # noqa: BLE001 - the requests that it concerns get it
                for each in batch:
                    each.answer.set_exception(error)

    async def serve(self, request: web.Request) -> web.Response:
        asked = await request.json()
        if not request.path.endswith("chat/completions"):
            kind: tuple[Any, ...] = ("complete",)
        elif self._hints is not None and HINT in asked["messages"][0]["content"]:
            kind = ("hint",)
        else:
            kind = ("chat", asked["temperature"], asked["max_tokens"])
        waiting = Waiting(kind, asked, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(waiting)
        return web.json_response(await waiting.answer)

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def account(self, _request: web.Request) -> web.Response:
        return web.json_response(self.bill)


def _choice(index: int, text: str, reason: str) -> dict[str, Any]:
    return {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason}


async def _serve(teacher: Teacher) -> None:
    app = web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", teacher.models)
    app.router.add_get("/bill", teacher.account)
    app.router.add_post("/v1/chat/completions", teacher.serve)
    app.router.add_post("/v1/completions", teacher.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await teacher.work()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hints", metavar="MODULE:FUNCTION")
    options = parser.parse_args()
    torch.set_num_threads(1)
    hints = None
    if options.hints:
        module, _, name = options.hints.partition(":")
        hints = getattr(importlib.import_module(module), name)
    asyncio.run(_serve(Teacher(options.model, options.device, hints)))


if __name__ == "__main__":
    main()
