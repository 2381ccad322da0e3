"""A small OpenAI-compatible server around a transformers model, which writes answers and scores tokens.

For benchmarks on machines without vLLM. It has the parts of vLLM's API that a node uses: ``/v1/models``,
``/v1/chat/completions`` with ``n``, and ``/v1/completions`` with a prompt of token ids, ``echo`` and ``logprobs``. All
numbers come from the model. One request is computed at a time, on one thread. ``GET /bill`` returns the tokens billed.

    python -m benchmarks.token_server MODEL_DIRECTORY      # prints its address
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from aiohttp import web
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer


class Teacher:
    """The model, and what it has billed."""

    def __init__(self, directory: Path) -> None:
        self.name = directory.name
        self.bill: Counter[str] = Counter()
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = AutoModelForCausalLM.from_pretrained(directory).eval()
        self._turn = asyncio.Lock()

    @torch.no_grad()
    def _chat(self, asked: dict[str, Any]) -> dict[str, Any]:
        ids = self._tokenizer.apply_chat_template(
            asked["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        torch.manual_seed(int(asked.get("seed", 0)))
        count, start = int(asked.get("n", 1)), ids["input_ids"].shape[1]
        rows = self._model.generate(
            **ids,
            do_sample=True,
            temperature=float(asked["temperature"]),
            top_k=0,
            top_p=1.0,
            num_return_sequences=count,
            max_new_tokens=int(asked["max_tokens"]),
            pad_token_id=self._tokenizer.pad_token_id,
        )[:, start:].tolist()
        end, choices, made = self._tokenizer.eos_token_id, [], 0
        for index, row in enumerate(rows):
            kept = row[: row.index(end)] if end in row else row
            made += len(kept) + (end in row)
            text = self._tokenizer.decode(kept, skip_special_tokens=True)
            reason = "stop" if end in row else "length"
            choices.append({"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason})
        return self._answer("chat.completion", choices, start, made)

    @torch.no_grad()
    def _complete(self, asked: dict[str, Any]) -> dict[str, Any]:
        ids = asked["prompt"]
        logps = log_softmax(self._model(torch.tensor([ids])).logits[0].float(), -1)
        values = [None, *logps[:-1].gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1).tolist()]
        following = int(logps[-1].argmax())
        table = {
            "tokens": [self._tokenizer.decode([each]) for each in (*ids, following)],
            "token_logprobs": [*values, float(logps[-1, following])],
        }
        choice = {"index": 0, "text": "", "finish_reason": "length", "logprobs": table, "prompt_token_ids": ids}
        return self._answer("text_completion", [choice], len(ids), 1)

    def _answer(self, kind: str, choices: list[dict[str, Any]], prompt: int, made: int) -> dict[str, Any]:
        usage = {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}
        self.bill.update(usage | {"requests": 1})
        return {"id": "1", "object": kind, "created": 0, "model": self.name, "choices": choices, "usage": usage}

    async def serve(self, request: web.Request) -> web.Response:
        asked = await request.json()
        work = self._chat if request.path.endswith("chat/completions") else self._complete
        async with self._turn:
            return web.json_response(await asyncio.to_thread(work, asked))

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.name, "object": "model"}]})

    async def account(self, _request: web.Request) -> web.Response:
        return web.json_response(self.bill)


async def _serve(directory: Path) -> None:
    torch.set_num_threads(1)
    teacher, app = Teacher(directory), web.Application(client_max_size=1 << 26)
    app.router.add_get("/v1/models", teacher.models)
    app.router.add_get("/bill", teacher.account)
    app.router.add_post("/v1/chat/completions", teacher.serve)
    app.router.add_post("/v1/completions", teacher.serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
