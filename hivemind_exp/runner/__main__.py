"""The trainer process: reads one line of JSON, runs a node, writes events; ends when its supervisor does.

The line: ``{"mode": "run" | "check" | "charter", "config": {…}, "node_dir": "…" | null, "secrets_fd": 7 | null}``; the
descriptor is the pipe with the keys that this run needs; for a charter there is also ``key``, the file with the node's
identity. Standard input stays open as a life line: its end means that the supervisor died. SIGTERM asks for a stop.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivemind_exp.errors import DiskFull, KeyProblem, LimitReached, NodeError, OutOfMemory
from hivemind_exp.secrets import Secrets, receive
from hivemind_exp.stop import StopFlag, StopRequested

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.events import Emit
    from hivemind_exp.runner.grpo_runner import GRPORunner

DISK_FULL_STATUS = 28
"""Exit status when not even the error could be written: errno.ENOSPC."""

_PATIENCE_S = 30.0
"""How long a peer may take to answer who is asked for a charter."""


def main() -> int:
    """Serve one order. Returns the exit status: 0 done or stopped, 1 failed, 28 failed on a full disk."""
    order = json.loads(sys.stdin.buffer.readline())
    secrets = receive(order.get("secrets_fd"))
    if order["mode"] != "run":
        return _answer(order)
    stop = StopFlag()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # A terminal's Ctrl-C is the supervisor's business; it passes on what is meant.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_watch_supervisor, args=(stop,), daemon=True).start()
    from hivemind_exp.events import EventLog  # with pydantic, which takes a moment: signals are handled by now
    from hivemind_exp.node_files import NodeFiles

    try:
        emit = EventLog(NodeFiles(Path(order["node_dir"])).events)
        return _run(order, secrets, emit, stop)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return DISK_FULL_STATUS
        raise


def _run(order: dict[str, Any], secrets: Secrets, emit: Emit, stop: StopFlag) -> int:
    from hivemind_exp.events import ErrorEvent, PhaseEvent, StopEvent, WarningEvent

    runner = None
    error: NodeError | None = None
    reason = "done"
    following: str | None = None
    try:
        emit(PhaseEvent(name="importing torch and friends"))
        runner = _build(order, secrets, emit, stop)
        runner.run()
    except StopRequested:
        reason = "signal"
    except LimitReached as limit:
        reason, following = "limit", limit.next
        emit(WarningEvent(code="limit", message=limit.message))
    except NodeError as known:
        error = known
    except Exception as unknown:
        error = _understand(unknown, order)
        if error is None:
            raise
    if error is not None:
        reason = "error"
        emit(ErrorEvent(code=error.code, message=error.message, next=error.next))
    reached: dict[str, Any] = {}  # nothing when it ended before that was known
    if runner is not None:
        progress = runner.progress
        checkpoint = None if progress.checkpoint is None else str(progress.checkpoint)
        reached = {"round": progress.round, "steps": progress.step, "checkpoint": checkpoint}
    emit(StopEvent(reason=reason, next=following, **reached))
    return 0 if error is None else 1


def _build(order: dict[str, Any], secrets: Secrets, emit: Emit, stop: StopFlag) -> GRPORunner:
    """Import what is heavy only now: signals are handled and the first event is out."""
    from hivemind_exp.config import Config
    from hivemind_exp.models.device import pin_device
    from hivemind_exp.node_files import NodeFiles

    config = Config.model_validate(order["config"])
    pinned = pin_device(config.model.device)
    from hivemind_exp.runner.grpo_runner import GRPORunner

    model = config.model.model_copy(update={"device": pinned})
    files = NodeFiles(Path(order["node_dir"]))
    return GRPORunner(config.model_copy(update={"model": model}), files, emit, stop=stop, secrets=secrets)


def _answer(order: dict[str, Any]) -> int:
    """Print one object: what a run would do, or the charter of a swarm."""
    from hivemind_exp.config import Config

    # Libraries print; standard output is for the one object.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            config, status = Config.model_validate(order["config"]), 0
            if order["mode"] == "charter":
                answer = _charter(config, order)
            else:
                from hivemind_exp.runner.grpo_runner import describe

                answer = describe(config)
        except NodeError as error:
            answer, status = {"error": {"code": error.code, "message": error.message, "next": error.next}}, 1
    print(json.dumps(answer))
    return status


def _charter(config: Config, order: dict[str, Any]) -> dict[str, Any]:
    """Return the signed charter that ``swarm.join`` stands for, from whoever of its addresses answers.

    It is asked for with the key that the node will have, so that peers meet no stranger who is gone a moment later.
    Raises ``SwarmError`` where nobody gave it, and ``IdentityProblem`` where the key cannot be used.
    """
    from hivemind_exp.events import discard
    from hivemind_exp.swarm.identity import Identity
    from hivemind_exp.swarm.invitation import parse
    from hivemind_exp.swarm.node import SwarmNode

    key, invitation = Path(order["key"]), parse(config.swarm.join)
    node = SwarmNode(
        Identity.load(key),
        invitation.charter,
        key=key,
        directory=Path(order["node_dir"]),  # for what a node remembers of a swarm, until this is over
        settings=config.swarm.model_copy(update={"port": 0, "announce": [], "relay": False}),
        invitation=invitation.addresses,
        emit=discard,
    )
    with contextlib.closing(node):
        node.start()
        return {"charter": base64.b64encode(node.fetch_charter(_PATIENCE_S)).decode()}


def _understand(error: Exception, order: dict[str, Any]) -> NodeError | None:
    """Return what an exception of a library means for the operator; None for a defect."""
    text = str(error)
    if type(error).__name__ in ("OutOfMemoryError", "AcceleratorError") and "out of memory" in text.lower():
        return _out_of_memory("the accelerator", order)
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return _out_of_memory("this machine", order)
    if "MPS backend out of memory" in text:
        return _out_of_memory("the Apple GPU", order)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("no space left in the node's directory", next=f"df -h {shlex.quote(order['node_dir'])}")
    return explain_refusal(error)


def explain_refusal(error: Exception) -> KeyProblem | None:
    """Return what an exception of Weights & Biases means if it is about the key; None for any other."""
    kind = type(error)
    without = kind.__name__ == "UsageError" and "API key" in str(error)
    if not kind.__module__.startswith("wandb.") or not (without or kind.__name__ == "AuthenticationError"):
        return None
    return KeyProblem(
        "report.to names wandb, and Weights & Biases has no valid key (WANDB_MODE=offline needs none)",
        next="swarmctl keys set wandb",
    )


def _out_of_memory(where: str, order: dict[str, Any]) -> OutOfMemory:
    train, generation = order["config"]["train"], order["config"]["generation"]
    smaller = max(1, train["micro_batch"] // 2)
    fewer = max(1, generation["batch"] // 2)
    return OutOfMemory(
        f"{where} ran out of memory with train.micro_batch = {train['micro_batch']} and generation.batch = "
        f"{generation['batch']}; smaller ones, adapters (--set model.lora.rank=16) or a smaller model need less",
        next=f"swarmctl run --node {order['config']['node']['name']} --set train.micro_batch={smaller} "
        f"--set generation.batch={fewer}",
    )


def _watch_supervisor(stop: StopFlag) -> None:
    """Ask for a stop when standard input ends, and insist after a while: nobody is left to insist."""
    while os.read(0, 4096):
        pass
    stop.set()
    threading.Timer(10.0, os._exit, args=(1,)).start()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Threads of libraries must not keep a finished node alive; all that matters is on the disk by now.
    os._exit(status)
