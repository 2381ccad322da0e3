"""One worker process: generates questions or verifies answers on request over a pipe, until the pipe closes.

Started as ``python -P -m hivemind_exp.tasks.workers.worker ROLE PARENT_PID``, or by ``venv_worker``. The first message
lists the tasks. The reply is ``{"ready": facts, "open": what the kernel does not enforce}`` or ``{"error": …}``. After
that, the worker sends one reply for each message, in order:

* role ``make``: ``[task, seed]`` or ``[task, seed, level]`` → ``[text, entry, key]`` or ``{"error": …}``
* role ``verify``: ``[task, answer, entry]`` → credit in [0, 1], or a ``Verdict`` as a table;
  ``[task, talk, entry]``, with a conversation as a table → ``EnvironmentReply`` as a table, or ``{"error": …}``
"""

import importlib
import math
import sys
import traceback
from dataclasses import asdict
from itertools import compress
from operator import not_
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.processes import sandbox
from hivemind_exp.processes.imports import uncollected
from hivemind_exp.processes.kernel import leave_others_alone
from hivemind_exp.processes.messages import encode, messages, send, take_pipes
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import (
    FACTS,
    ModelTurn,
    Talk,
    Task,
    TaskSpec,
    Verdict,
    needs_hub,
    own_files,
    runs_own_code,
)

LARGEST_ITEM = 2**20
"""Largest question with its answer, in bytes. The node keeps hundreds, and strangers choose a charter's parameters."""


def serve() -> None:
    """Serve requests as the command line says."""
    main("make" if sys.argv[1] == "make" else "verify", int(sys.argv[2]))


def main(role: Role, parent: int) -> None:
    """Serve requests until the node closes the pipe."""
    sandbox.die_with_parent(parent)
    leave_others_alone()
    source, sink = take_pipes()
    asked = messages(source)
    first = next(asked)
    try:
        with uncollected():
            tasks, still_open = _build(first["tasks"], role, first["load"])
    except NodeError as error:
        send(sink, {"error": error.message, "next": error.next, "code": error.code})
        return
    except Exception as error:  # noqa: BLE001 - the node turns it into a TaskError
        traceback.print_exc()
        send(sink, {"error": f"{type(error).__name__}: {foreign(error)}", "next": None, "code": None})
        return
    send(sink, {"ready": [{name: getattr(task, name) for name in FACTS} for task in tasks], "open": still_open})
    for task, what, *rest in asked:
        talks = isinstance(what, dict)
        # A worker that takes over a conversation plays all its turns.
        sandbox.allow_seconds(first["limit"] * (len(what["turns"]) if talks else 1))
        if role == "make":
            send(sink, _make(tasks[task], what, *rest))
        else:
            send(sink, (_reply if talks else _score)(tasks[task], what, *rest))
        sandbox.allow_seconds(0)


def _build(tables: list[dict[str, Any]], role: Role, load: float) -> tuple[list[Task], list[str]]:
    """Build and prepare the tasks, in the sandbox except for what must come from the hub or be imported."""
    specs = [TaskSpec(**table) for table in tables]
    tasks: list[Task] = [importlib.import_module(spec.module).build(spec) for spec in specs]
    code = [runs_own_code(spec) for spec in specs]
    hub = [needs_hub(spec, role) for spec in specs]
    early = [not own and (role == "verify" or from_hub) for own, from_hub in zip(code, hub, strict=True)]
    sandbox.allow_seconds(load if any(early) else 0)
    for task in compress(tasks, early):
        task.prepare(role)
    sandbox.allow_seconds(0)
    own = [path for spec, mine in zip(specs, code, strict=True) if mine or role == "make" for path in own_files(spec)]
    closed = sandbox.Sandbox()
    # The operator's own data may be large.
    limited = role == "verify" or not own
    still_open = closed.close(own, limited=limited, loaded=any(hub))
    sandbox.allow_seconds(load if limited or any(code) else 0)
    for task in compress(tasks, map(not_, early)):
        task.prepare(role)
    sandbox.allow_seconds(0)
    closed.finish()
    return tasks, still_open


def _make(task: Task, seed: int, level: int | None = None) -> object:
    try:
        text, entry = task.make(seed) if level is None else task.make_at(seed, level)
        item = [text, entry, task.key(text, entry)]
        size = len(encode(item))
        return item if size <= LARGEST_ITEM else {"error": f"it needs {size:,} bytes, more than {LARGEST_ITEM:,}"}
    except Exception as error:  # noqa: BLE001 - generators may raise anything; the node adds the task's name
        return {"error": f"{type(error).__name__}: {foreign(error)}"}


def _reply(task: Task, talk: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    turns = tuple(ModelTurn(each["text"], tuple(each["heard"])) for each in talk["turns"])
    try:
        return asdict(task.reply(Talk(**talk | {"turns": turns}), entry))
    except NodeError as error:
        return {"error": error.message}


def _score(task: Task, answer: str, entry: dict[str, Any]) -> float | dict[str, Any]:
    try:
        found = task.score(answer, entry)
        if isinstance(found, Verdict):
            return asdict(found)
        credit = float(found)
    except Exception:  # noqa: BLE001 - untrusted text that breaks the verifier gets no credit
        return 0.0
    return min(max(credit, 0.0), 1.0) if math.isfinite(credit) else 0.0


if __name__ == "__main__":
    serve()
