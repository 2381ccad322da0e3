"""States of API servers in which a trainer, or a program that uses the library, suggests a command."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError
from swarmctl.errors import print_error
from tests.support.advice_of_services import api
from tests.support.advice_of_trainers import real
from tests.support.advice_surroundings import Around
from tests.support.advised import State
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.faults import Fault
from tests.support.fake_api.server import api_server
from tests.support.loopback import serving


def exaggerating(_ask: Ask, body: dict[str, Any]) -> dict[str, Any]:
    """Bill more tokens than a request allows."""
    return body | {"usage": {"prompt_tokens": 50, "completion_tokens": 10**6, "total_tokens": 10**6 + 50}}


@contextmanager
def batches_refused(_home: Path) -> Iterator[str]:
    """Have an API server that fills batches, and then refuses the key; yield its URL."""
    with api_server() as server:
        server.always(Fault.UNAUTHORISED, endpoint="content")
        yield server.base_url


def scoring(change: Callable[[int, list[float | None]], object]) -> Around:
    """Return an API server that scores tokens. ``change`` changes the log-probabilities of its n-th answer."""

    @contextmanager
    def serve(home: Path) -> Iterator[str]:
        from tests.support.tiny_models import vocabulary  # imports torch

        numbers = count()

        def amend(_ask: Ask, body: dict[str, Any]) -> dict[str, Any]:
            if "prompt_token_ids" in body["choices"][0]:
                change(next(numbers), body["choices"][0]["logprobs"]["token_logprobs"])
            return body

        with api(vocabulary=vocabulary(), amend=amend)(home) as url:
            yield url

    return serve


def unsteady(number: int, logps: list[float | None]) -> None:
    """Change the second of two scores of the same text."""
    logps[1:] = [each and each - number for each in logps[1:]]


def lost_later(number: int, logps: list[float | None]) -> None:
    """Leave only the two scores of the test request."""
    if number > 1:
        logps[1:] = [None] * (len(logps) - 1)


def serving_weights(*, loads: bool) -> Around:
    """Return a stand-in for vLLM. ``loads``: whether it takes adapters; it answers as another model does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": "policy", "parent": None}]})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if "prompt" not in asked:  # an adapter, or a chat, which it does not complete
                done = loads and "messages" not in asked
                self._send(200 if done else 404, "Success" if done else {"detail": "Not Found"})
                return
            ids = [10] * asked["max_tokens"]
            choice = {"token_ids": ids, "prompt_token_ids": asked["prompt"], "finish_reason": "length"}
            choice["logprobs"] = {"token_logprobs": [-30.0] * len(ids)}
            self._send(200, {"model": asked["model"], "choices": [choice] * asked["n"]})

        def _send(self, status: int, document: object) -> None:
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    @contextmanager
    def serve(_home: Path) -> Iterator[str]:
        with serving(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
            yield f"{url}/v1"

    return serve


def program(call: Callable[[], object]) -> None:
    """Be a program that prints the error of a call as ``swarmctl`` does."""
    try:
        call()
    except NodeError as error:
        print_error(error, as_json=False)
    sys.exit(1)


def wrap() -> None:
    from hivemind_exp.offload.build import OpenAIModelWrapper

    OpenAIModelWrapper()


def begin() -> None:
    """Start the API side of a node without a key."""
    from hivemind_exp.config import Config
    from hivemind_exp.events import discard
    from hivemind_exp.node_files import NodeFiles
    from hivemind_exp.offload.build import make_offload
    from hivemind_exp.secrets import Secrets
    from hivemind_exp.stop import StopFlag

    config = Config.model_validate({"offload": {"provider": "openai", "model": "gpt-6-luna"}})
    with tempfile.TemporaryDirectory() as place:
        make_offload(config, NodeFiles(Path(place)), Secrets(), discard, StopFlag())


def push() -> None:
    """Run a node that pushes to the hub without a token."""
    from hivemind_exp.config import Config
    from hivemind_exp.events import discard
    from hivemind_exp.node_files import NodeFiles
    from hivemind_exp.runner.grpo_runner import GRPORunner

    with tempfile.TemporaryDirectory() as place:
        config = Config.model_validate({"hub": {"repo": "me/x"}, "game": {"rounds": 1}})
        GRPORunner(config, NodeFiles(Path(place)), discard).run()


_MYBOX = (
    "run -p plain --set providers.mybox.base_url={it} --set generation.max_completion_tokens=8 "
    "--set offload.provider=mybox --set offload.model=test-model --set offload.fallback=[]"
)
_FREE = f"{_MYBOX} --set providers.mybox.free=true --rounds 1"
_LARGER = "--set game.groups=4 --set game.group_size=8"
_PRICES = "--set offload.prices.mybox.input=2 --set offload.prices.mybox.output=8"
_PAID = f"{_MYBOX} {_PRICES} --max-usd 9 --set offload.kind=relay"
_SCORED = f"{_FREE} --set offload.teach=distillation"
_SERVED = f"{_FREE} --set offload.kind=policy --set model.lora.rank=2"
_AS_PROGRAM = {"real": True, "variables": {"STAND_IN": "run", "OPENAI_API_KEY": "", "HF_HUB_OFFLINE": ""}}
_OPENAI = "run -p demo --offload openai:gpt-6-luna --max-usd 1"

OFFLOAD_STATES: tuple[State, ...] = (
    # Spending and useless answers. A relay loads no model.
    real(f"{_PAID} --rounds 1", around=api(amend=exaggerating)),
    real(f"{_PAID} --rounds 9 --set offload.max_tokens=64 {_LARGER}", around=api()),
    real(
        f"{_FREE} --set offload.kind=relay --set offload.batch=true --set providers.mybox.batch=true",
        around=batches_refused,
    ),
    # A teacher that scores tokens.
    real(_SCORED, around=scoring(unsteady)),
    real(f"{_SCORED} {_LARGER} --rounds 2", around=scoring(lost_later)),
    # A server of the node's own weights.
    real(_SERVED.replace("{it}", "http://127.0.0.1:9/v1")),
    real(_SERVED, around=serving_weights(loads=False)),
    real(_SERVED, around=serving_weights(loads=True)),
    # Programs that use the library.
    State(_OPENAI, library=partial(program, wrap), **_AS_PROGRAM),
    State(_OPENAI, library=partial(program, begin), **_AS_PROGRAM),
    State("run -p demo --set hub.repo=me/x --rounds 1", library=partial(program, push), **_AS_PROGRAM),
)
