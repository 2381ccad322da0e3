"""The completions endpoint, for requests that ask for the log-probabilities of a prompt of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.support.fake_api.answers import Complaint
from tests.support.fake_api.ask import Ask
from tests.support.fake_api.ledger import Entry
from tests.support.fake_api.state import State
from tests.support.fake_api.wire import Sending, refuse, send_json


def score_of(ids: Sequence[int], place: int) -> float:
    """Return the log-probability of a token, from -0.05 to -1.95, which depends on the token before it, too."""
    return -0.05 - 0.1 * ((7 * ids[place] + 3 * ids[place - 1] + place) % 20)


def score(state: State, ask: Ask, entry: Entry) -> Sending:
    """Answer as vLLM does: with an echo of the prompt, and one more token."""
    ids, options = ask.body.get("prompt"), state.options
    if options.vocabulary is None:
        return refuse(Complaint(404, "Not Found"))
    if not isinstance(ids, list) or not all(
        isinstance(each, int) and 0 <= each < len(options.vocabulary) for each in ids
    ):
        return refuse(Complaint(400, "This server takes a prompt of token ids.", param="prompt"))
    if refused := [parameter for parameter in options.rejects if parameter in ask.body]:
        return refuse(Complaint(400, f"Unsupported parameter: '{refused[0]}'", param=refused[0]))
    made = int(ask.body["max_tokens"])
    entry.bill([], len(ids), made)
    texts = [options.vocabulary[each] for each in ids]
    values = [None, *(score_of(ids, place) for place in range(1, len(ids)))]
    body: dict[str, Any] = {
        "id": f"cmpl-{entry.id}",
        "object": "text_completion",
        "created": 0,
        "model": ask.model,
        "choices": [
            {
                "index": 0,
                "text": "".join(texts),
                "finish_reason": "length",
                "logprobs": {
                    "tokens": [*texts, *["!"] * made],
                    "token_logprobs": [*values, *[-0.5] * made],
                    "top_logprobs": [None] * (len(ids) + made),
                    "text_offset": [0] * (len(ids) + made),
                },
                "prompt_token_ids": ids if ask.body.get("return_token_ids") else None,
            }
        ],
        "usage": {"prompt_tokens": len(ids), "completion_tokens": made, "total_tokens": len(ids) + made},
    }
    return send_json(body if options.amend is None else options.amend(ask, body))
