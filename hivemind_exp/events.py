"""The node's log for machines: ``events.jsonl``, one JSON object a line, read by every display.

Each line has ``t`` (Unix seconds) and ``event``. Unknown values are null, never 0. ``round`` and ``step`` name a round
or step, counted from 0, in round, rollouts and step; in eval, checkpoint, push and stop they say how many are
finished.
Steps that are repeated after a crash carry ``replayed: true``.

========== =====================================================================================================
event      fields
========== =====================================================================================================
start      node, model, device, dtype, accelerator, parameters, trainable, tasks, seed, rounds (0: until stopped),
           groups, group_size, resumed_round (null for a new node)
phase      name (what is going on, for people), done, total (null when unknown)
round      round, rounds, seconds: {generate, verify, train, share, other}, tokens_per_second (null where an API
           generated: it may have done so long before)
rollouts   round, stage, source, count, correct, reward, reward_std, points (null in "sampling"), completion_length,
           truncated, tokens, lag
step       round, stage, step, loss, grad_norm, learning_rate, entropy, kl, clip_fraction, tokens, rows, source,
           replayed; of peers also filtered (rows left out, as this node would hardly write them)
eval       round, accuracy, questions, split
checkpoint round, path, seconds
offload    (providers only) provider, model, host, kind, loss (a sentence), training, usd_per_million_input,
           usd_per_million_output, usd_total, usd_cap (null: unlimited)
spend      (providers only) round (-1: the probe at start), provider, model, requests, tokens, prompt_tokens,
           completion_tokens, lost (places given up), usd, usd_total, usd_cap
push       round, repo, url (of the commit), seconds
share      (swarms only) round, groups, bytes, unused (peers' groups and bundles since the last round that were of no
           use: how many for which reason)
peers      (swarms only) peers (that announced something or answered within two minutes), neighbours (of these, the
           ones that the DHT asks its way of)
warning    code, message
error      code, message, next
stop       reason (done, signal, limit, error), round, steps, checkpoint (path of the newest), next
========== =====================================================================================================
"""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any, Protocol

FILE_NAME = "events.jsonl"


class Emit(Protocol):
    """Anything that takes an event."""

    def __call__(self, event: str, /, **fields: Any) -> None: ...


class EventLog:
    """Appends events to a file, one write a line, so that a reader never sees half of one."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def __call__(self, event: str, /, **fields: Any) -> None:
        known = _finite({"t": round(time.time(), 3), "event": event, **fields})
        line = json.dumps(known, ensure_ascii=True, allow_nan=False)
        os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        os.close(self._fd)


def _finite(value: Any) -> Any:
    """Return a JSON-like value with null for numbers that JSON does not have: a diverging loss must not end a node."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
