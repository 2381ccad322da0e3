"""What SGLang's answers mean, and that nothing in them is believed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hivemind_exp.config import Config
from hivemind_exp.offload.api.faults import RequestFailed, refusal
from hivemind_exp.offload.api.policy_server import NO_WEIGHTS, AdapterMissing, SampledAnswer, Sampling, explain
from hivemind_exp.offload.api.sglang import CAUSES, SglangServer
from hivemind_exp.offload.settings import first_endpoint
from tests.support.loopback import serving

SAMPLING = Sampling(temperature=0.7, max_tokens=4, end_ids=(1,), vocabulary=10)
MODELS = {"data": [{"id": "base", "parent": None}, {"id": "mine", "parent": "base"}]}


def row(*entries: list[Any], reason: str = "stop", **more: Any) -> dict[str, Any]:
    return {"meta_info": {"finish_reason": {"type": reason}, "output_token_logprobs": [*entries]}} | more


def asked(answer: Any, ask: Callable[[SglangServer], Any], status: int = 200) -> tuple[Any, list[dict[str, Any]]]:
    """Ask a server that answers /generate like this. Return the result, and the bodies of the requests."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, MODELS)

        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self._send(status, answer)

        def _send(self, status: int, document: Any) -> None:
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    async def run(url: str) -> Any:
        config = Config.model_validate(
            {"offload": {"provider": "box:base"}, "providers": {"box": {"base_url": f"{url}/v1", "free": True}}}
        )
        server = SglangServer(first_endpoint(config), 10)
        try:
            return await ask(server)
        finally:
            await server.close()

    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        return asyncio.run(run(url)), bodies


def complete(answer: Any, status: int = 200, model: str = "mine", count: int = 2) -> tuple[SampledAnswer, Any]:
    found, (body,) = asked(answer, lambda server: server.complete(model, (5, 6), count, SAMPLING, 77), status)
    return found, body


def test_each_completion_has_a_seed_and_a_neutral_distribution() -> None:
    answer = [row([-0.5, 3, None], [-2, 1, "x"], prompt_token_ids=[5, 6]), row([0.0001, 4, None])]
    found, body = complete(answer)
    assert [(each.ids, each.logps) for each in found.rows] == [((3, 1), (-0.5, -2.0)), ((4,), (0.0,))]
    assert found.same_prompt
    assert (body["input_ids"], body["lora_path"], body["return_logprob"]) == ([[5, 6], [5, 6]], "mine", True)
    first, second = body["sampling_params"]
    assert first.pop("sampling_seed") != second.pop("sampling_seed")
    neutral = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    neutral |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    assert first == second == neutral | {"max_new_tokens": 4, "temperature": 0.7, "stop_token_ids": [1]}
    assert complete(answer)[1] == body | {"sampling_params": complete(answer)[1]["sampling_params"]}


def test_the_model_under_the_adapters_is_asked_by_its_name() -> None:
    assert "lora_path" not in complete([row([-1, 3, None])], model="base", count=1)[1]


def test_another_prompt_is_noticed() -> None:
    assert not complete([row([-1, 3, None], prompt_token_ids=[5]), row([-1, 3, None])])[0].same_prompt


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>",
        b"[" * 100_000,
        {},
        [],
        [row([-1, 3, None])],
        [row([-1, 3, None]), {}],
        [row([-1, 3, None]), "text"],
        [row([-1, 3, None]), {"meta_info": {"output_token_logprobs": [-1, 3]}}],
        [row([-1, 3, None]), row([-1])],
        [row([-1, 3, None]), row([None, 3, None])],
        [row([-1, 3, None]), row([-1, "3", None])],
        [row([-1, 3, None]), row([-1, 10, None])],
        [row([-1, 3, None]), row([0.5, 3, None])],
        [row([-1, 3, None]), row(*[[-1, 3, None]] * 5)],
        [row([-1, 3, None]), row([-1, 3, None], reason="abort")],
    ],
)
def test_answers_that_make_no_sense_are_refused(answer: Any) -> None:
    with pytest.raises(RequestFailed):
        complete(answer)


@pytest.mark.parametrize(
    "message",
    [
        "Got LoRA adapter that has never been loaded: mine\nAll loaded adapters: dict_keys([]).",
        "The following requested LoRA adapters are not loaded: mine\nLoaded adapters: odict_keys([]).",
        "Failed to implicitly load LoRA adapter mine: [Errno 2] No such file or directory",
    ],
)
def test_an_adapter_that_the_server_does_not_have_is_told_apart(message: str) -> None:
    with pytest.raises(AdapterMissing):
        complete({"error": {"message": message}}, status=400)


def test_another_refusal_is_no_missing_adapter() -> None:
    with pytest.raises(RequestFailed, match="temperature must be"):
        complete({"error": {"message": "temperature must be a non-negative finite number"}}, status=400)


@pytest.mark.parametrize(
    "top", [None, [], [None], [[[None, 3, None]]], [[3]], "text"], ids=lambda top: str(top).replace("\n", "")
)
def test_log_probabilities_that_make_no_sense_are_refused(top: Any) -> None:
    document = row([-1, 3, None])
    document["meta_info"]["output_top_logprobs"] = top
    with pytest.raises(RequestFailed):
        asked([document], lambda server: server.logps_at("base", (5,), 1.0))


def test_the_likeliest_tokens_are_read() -> None:
    document = row([-1, 3, None])
    document["meta_info"]["output_top_logprobs"] = [[[-0.5, 3, None], [-1.5, 4, None]]]
    found, _ = asked([document], lambda server: server.logps_at("base", (5,), 1.0))
    assert found == {3: -0.5, 4: -1.5}


@pytest.mark.parametrize(
    ("message", "why", "remedy"),
    [
        ("Repo id must be in the form 'repo_name': '/nowhere/x'.", "cannot read the directory", "serving.folder"),
        ("[Errno 2] No such file or directory: '/x/adapter_config.json'", "cannot read the directory", "server_folder"),
        ("Cannot find any model weights with `/x`", NO_WEIGHTS, "files arrive"),
        ("Error while deserializing header: incomplete metadata, file not fully covered", NO_WEIGHTS, "files arrive"),
        ("LoRA adapter a with rank 16 is incompatible with the current LoRA", "of rank 16", "--max-lora-rank"),
        ("LoRA is not enabled. Please set `--enable-lora` to enable LoRA.", "does not serve", "--enable-lora"),
        ("something else", "did not load the weights", None),
    ],
)
def test_a_refused_adapter_is_explained(message: str, why: str, remedy: str | None) -> None:
    content = json.dumps({"rid": None, "success": False, "error_message": message, "loaded_adapters": {}}).encode()
    failed = explain(refusal(400, content, {}), CAUSES)
    assert why in str(failed)
    assert message[:20] in str(failed)
    assert (remedy is None) == (failed.remedy is None)
    assert (remedy or "") in (failed.remedy or "")
    assert failed.only_weights == (why == NO_WEIGHTS)


def test_another_engine_has_no_such_interface() -> None:
    failed = explain(refusal(404, b'{"detail":"Not Found"}', {}), CAUSES)
    assert "offload.serving.engine" in (failed.remedy or "")
