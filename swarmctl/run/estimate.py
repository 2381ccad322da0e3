"""Estimate what a round's requests use and cost: from the node's own requests, or before the first from its tasks."""

import math
from contextlib import closing
from dataclasses import dataclass

from hivemind_exp.config import Config, charter_id
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload import hints
from hivemind_exp.offload.judge import STAGE, is_judged, judge_messages
from hivemind_exp.offload.prices import BYTES_A_MESSAGE, Usage, bounded_price
from hivemind_exp.offload.settings import (
    SCORE_STAGE,
    first_endpoint,
    is_distilled,
    reasons,
    requests_a_round,
    share_of,
    teaches_hints,
    token_limit,
)
from hivemind_exp.offload.spending import MeasuredUsage, measured_usage
from hivemind_exp.tasks.mixture import Mixture


@dataclass(frozen=True, slots=True)
class Estimate:
    """The expected requests, tokens, cost and time of one round."""

    requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    usd_at_most: float
    """The cost if every completion has the maximum length. The cap is enforced with it."""
    minutes: float
    measured_rounds: int = 0
    """Rounds of the node's own requests that the estimate is from; 0 if there are none yet."""


_SAMPLE = 8
"""Questions created to measure the length of prompts."""
_BYTES_A_TOKEN = 4
"""For English text, with any large vocabulary."""
_FILL = 0.5
"""Share of the maximum length that completions are assumed to have, unless that is more than the node's own limit: a
teacher's limit is generous."""
_TOKENS_A_SECOND = 50
"""Assumed speed of one request at a hosted service."""


def estimate(config: Config, files: NodeFiles, grades: int = 0) -> Estimate:
    """Estimate from the node's ledger, or from a few sample questions.

    ``config``: the settings of one use of an API (``judge.api_configs``). ``grades``: a judge's per round.

    Raises ``NodeError`` if that fails or a price is unknown.
    """
    endpoint, offload = first_endpoint(config), config.offload
    thinks = reasons(config, endpoint)
    price = bounded_price(endpoint, offload.prices, capped=offload.limits.capped, reasons=thinks)
    # Each stage of a round has its own prompt. What later stages quote is counted at its maximum length.
    stages: set[str] = set(offload.stages)
    completions = config.game.groups * len(stages) * share_of(offload, config.game.group_size)
    quoted = sum(_bytes_quoted(config, stage) for stage in stages)
    bytes_a_prompt = _bytes_a_prompt(config, files) + quoted / len(stages)
    requests = requests_a_round(config, endpoint)
    if is_judged(config):  # one request per completion, which it quotes
        completions, requests, stages = grades, grades, {STAGE}
        asked = judge_messages(config.judge.instructions, "", "", "")
        bytes_a_prompt += sum(len(turn["content"].encode()) for turn in asked)
        bytes_a_prompt += _BYTES_A_TOKEN * config.generation.max_completion_tokens
    if teaches_hints(config):  # at most one request per question, in a prompt of its own
        completions, stages = requests, {hints.STAGE}
        bytes_a_prompt += sum(len(turn["content"].encode()) for turn in hints.hint_messages(""))
    scored = 0
    if is_distilled(config):  # one request per completion, which is part of its prompt
        completions, stages, scored = requests, {SCORE_STAGE}, config.generation.max_completion_tokens
    hidden = offload.reasoning_tokens if thinks else 0
    longest = token_limit(config) + hidden
    usual = min(_FILL * token_limit(config), config.generation.max_completion_tokens) + _FILL * hidden
    used = measured_usage(files.ledger, endpoint, stages) or MeasuredUsage(
        0, math.ceil(bytes_a_prompt / _BYTES_A_TOKEN + _FILL * scored), 0, token_limit(config) if scored else usual
    )
    # Very long requests cost more per token: each request is priced at the rate for its size.
    usage = Usage(math.ceil(used.prompt), math.ceil(used.completion * completions / requests), round(used.cached))
    discount = price.share(offload)
    prompt, completion = requests * usage.prompt, round(completions * used.completion)
    return Estimate(
        requests=requests,
        prompt_tokens=prompt,
        completion_tokens=completion,
        usd=discount * price.cost(usage) * requests,
        usd_at_most=(discount if offload.batch else 1.0)
        * (requests * (bytes_a_prompt + scored) * price.input + completions * longest * price.output),
        minutes=_minutes(config, requests, prompt + completion, used.completion),
        measured_rounds=used.rounds,
    )


def _bytes_quoted(config: Config, stage: str) -> int:
    """Return the most bytes that a stage's prompt quotes."""
    from hivemind_exp.game.study_group.game import STAGES
    from hivemind_exp.game.study_group.prompts import LONGEST_QUOTATION
    from hivemind_exp.game.study_group.shown_outputs import SHOWN

    most = min(LONGEST_QUOTATION, _BYTES_A_TOKEN * config.generation.max_completion_tokens)
    return next(each.quotes for each in STAGES if each.name == stage) * SHOWN * most


def _minutes(config: Config, requests: int, tokens: int, length: float) -> float:
    limits = config.offload.limits
    waves = math.ceil(requests / limits.concurrency)
    paces = ((requests, limits.requests_per_minute), (tokens, limits.tokens_per_minute))
    limited = [amount / pace for amount, pace in paces if pace]
    return max([waves * length / _TOKENS_A_SECOND / 60, *limited])


def _bytes_a_prompt(config: Config, files: NodeFiles) -> float:
    from hivemind_exp.game.node_style import node_style
    from hivemind_exp.game.prompt_style import build_chats

    charter = charter_id(config).encode()
    with closing(Mixture(config.tasks, charter=charter, secret=b"", heldout=0, verifiers=0)) as tasks:
        chats = build_chats(node_style(config, files), tasks)
        prompts = [chats.chat(question) for question in tasks.questions("train", 0, min(_SAMPLE, config.game.groups))]
    sizes = [sum(len(turn["content"].encode()) + BYTES_A_MESSAGE for turn in prompt) for prompt in prompts]
    return sum(sizes) / len(sizes)
