"""The trainer process: reads one line of JSON, runs a node, and writes events. It ends when its supervisor does.

The line is ``{"mode": "run" | "check" | "charter", "config": {…}, "node_dir": "…" | null, "secrets_fd": 7 | null}``.
The descriptor is a pipe with the keys that this run needs. In the mode ``charter`` the line also has ``key``, the file
with the node's identity. Standard input stays open: its end means that the supervisor died. SIGTERM requests a stop,
SIGUSR1 writes the stacks of all threads to the log.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import faulthandler
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hivemind_exp.errors import DiskFull, KeyProblem, LimitReached, NodeError, OutOfMemory
from hivemind_exp.formats import explain_obstacle
from hivemind_exp.full_disk import disk_full, size_limit_reached
from hivemind_exp.models.out_of_memory import what_ran_out
from hivemind_exp.processes.imports import leave_out, uncollected
from hivemind_exp.processes.kernel import hide_memory
from hivemind_exp.runner.loading_beat import beat_while_loading
from hivemind_exp.secrets import Secrets, receive
from hivemind_exp.stop import BeatingFlag, StopFlag, StopRequested

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.events import Emit
    from hivemind_exp.runner.grpo_runner import GRPORunner

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Exit statuses if even the error could not be written: a full disk, a quota or a file size limit."""
_MB = 10**6
_PATIENCE_S = 30.0
"""Seconds to wait for a peer to send the charter."""


def main() -> int:
    """Do what the line asks. Returns the exit status: 0 done or stopped, 1 failed, or one of ``DISK_FULL``."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    hide_memory()
    order = json.loads(sys.stdin.buffer.readline())
    secrets = receive(order.get("secrets_fd"))
    if order["mode"] != "run":
        return _answer(order)
    stop = BeatingFlag(Path(order["node_dir"]) / "lock")
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # The supervisor handles Ctrl-C in a terminal, and forwards a stop if one is meant.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    threading.Thread(target=_watch_supervisor, args=(stop,), daemon=True).start()
    threading.Thread(target=beat_while_loading, args=(stop.beat,), daemon=True).start()
    try:
        return _run(order, secrets, open_log(order), stop)
    except OSError as error:
        if error.errno in DISK_FULL:
            return error.errno
        raise


def open_log(order: dict[str, Any]) -> Emit:
    """Return what writes a run's events to the node's files. Raises OSError."""
    from hivemind_exp.event_log import EventLog  # imports pydantic, which is slow: signals are already handled
    from hivemind_exp.node_files import NodeFiles
    from hivemind_exp.runner.open_files import OpenFilesWatch
    from hivemind_exp.runner.run_recorder import RunRecorder

    files = NodeFiles(Path(order["node_dir"]))
    log = EventLog(files.events, most=order["config"]["report"]["events_mb"] * _MB)
    return OpenFilesWatch(RunRecorder(files.run, log))


def _run(order: dict[str, Any], secrets: Secrets, emit: Emit, stop: StopFlag) -> int:
    from hivemind_exp.events import ErrorEvent, PhaseEvent, StopEvent, WarningEvent

    runner = None
    error: NodeError | None = None
    reason = "done"
    following: str | None = None
    try:
        emit(PhaseEvent(name="loading PyTorch"))
        emit = with_metrics(order, emit)
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
    reached: dict[str, Any] = {}  # empty if the run ended before its progress was known
    if runner is not None:
        progress = runner.progress
        checkpoint = None if progress.checkpoint is None else str(progress.checkpoint)
        reached = {"round": progress.round, "steps": progress.step, "checkpoint": checkpoint}
    emit(StopEvent(reason=reason, next=following, **reached))
    return 0 if error is None else 1


def with_metrics(order: dict[str, Any], emit: Emit) -> Emit:
    """Return ``emit``; with a port for Prometheus, one that also updates the metrics. Raises ``ConfigurationError``."""
    if not order["config"]["report"]["metrics_port"]:
        return emit
    from hivemind_exp.config import Config
    from hivemind_exp.runner.report_packages import check_reports

    config = Config.model_validate(order["config"])
    check_reports(config)
    from hivemind_exp.runner.metrics import Metrics

    metrics = Metrics(emit)
    metrics.serve(config)
    return metrics


def _build(order: dict[str, Any], secrets: Secrets, emit: Emit, stop: StopFlag) -> GRPORunner:
    """Build the runner. Heavy modules are imported here, after signals are handled and the first event is written."""
    with uncollected():
        from hivemind_exp.config import Config
        from hivemind_exp.models.device import pin_device, share_gpus
        from hivemind_exp.models.lean_imports import without_bitsandbytes
        from hivemind_exp.models.model_location import TINY
        from hivemind_exp.node_files import NodeFiles
        from hivemind_exp.trainer.report_places import place_reports

    config = Config.model_validate(order["config"])
    files = NodeFiles(Path(order["node_dir"]))
    place_reports(files.root)
    # TRL imports these if they are installed.
    leave_out(*{"trackio", "wandb"}.difference(config.report.to))
    if config.model.name == TINY and config.model.lora is None:  # other models may consist of adapters
        leave_out("peft")
    without_bitsandbytes(config)
    several = config.train.processes > 1 and config.model.device != "cpu"
    visible = share_gpus(config.train.processes) if several else []
    pinned = pin_device(config.model.device)
    with uncollected():
        from hivemind_exp.runner.grpo_runner import GRPORunner

    named = config.model.device if ":" in config.model.device else ""  # torch sees it without its number
    model = config.model.model_copy(update={"device": pinned})
    config = config.model_copy(update={"model": model})
    return GRPORunner(config, files, emit, stop=stop, secrets=secrets, lean=True, visible=visible, device=named)


def _answer(order: dict[str, Any]) -> int:
    """Print one JSON object: what a run would do, or a swarm's charter."""
    from hivemind_exp.config import Config

    # Standard output is only for the JSON object, and libraries may print.
    with contextlib.redirect_stdout(sys.stderr):
        try:
            config, status = Config.model_validate(order["config"]), 0
            if order["mode"] == "charter":
                answer = _charter(config, order)
            else:
                from hivemind_exp.runner.dry_run import describe

                answer = describe(config)
        except NodeError as error:
            answer, status = {"error": {"code": error.code, "message": error.message, "next": error.next}}, 1
    print(json.dumps(answer))
    return status


def _charter(config: Config, order: dict[str, Any]) -> dict[str, Any]:
    """Return the signed charter for the invitation ``swarm.join``, from any of its addresses that answers.

    The request uses the key that the node will have, so that peers do not see a second, short-lived identity.
    Raises ``SwarmError`` if no peer sent the charter, and ``IdentityProblem`` if the key cannot be used.
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
        directory=Path(order["node_dir"]),  # holds the swarm's files until the charter has arrived
        settings=config.swarm.model_copy(update={"port": 0, "announce": [], "relay": False}),
        invitation=invitation.addresses,
        emit=discard,
    )
    with contextlib.closing(node):
        node.start()
        return {"charter": base64.b64encode(node.fetch_charter(_PATIENCE_S)).decode()}


def _understand(error: Exception, order: dict[str, Any]) -> NodeError | None:
    """Translate a library's exception into an error for the operator. Returns None for a bug."""
    if (ran_out := what_ran_out(error)) is not None:
        return _out_of_memory(ran_out, order)
    # Libraries with native code, such as safetensors, say it only in words.
    if (isinstance(error, OSError) and error.errno in DISK_FULL) or os.strerror(errno.ENOSPC) in str(error):
        return _no_room(error, order)
    if isinstance(error, OSError) and (obstacle := explain_obstacle(error)) is not None:
        return obstacle
    return explain_refusal(error)


def _no_room(error: Exception, order: dict[str, Any]) -> DiskFull:
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return size_limit_reached("cannot write the node's directory")
    return disk_full("the node's files", Path(order["node_dir"]))


def explain_refusal(error: Exception) -> KeyProblem | None:
    """Translate an exception from Weights & Biases if it is about the API key. Returns None for any other."""
    kind = type(error)
    without = kind.__name__ == "UsageError" and "API key" in str(error)
    if not kind.__module__.startswith("wandb.") or not (without or kind.__name__ == "AuthenticationError"):
        return None
    return KeyProblem(
        "report.to includes wandb, but Weights & Biases has no valid API key (WANDB_MODE=offline needs none)",
        next="swarmctl keys set wandb",
    )


def _out_of_memory(ran_out: str, order: dict[str, Any]) -> OutOfMemory:
    """Return the error of a node that ran out of memory outside a step or a batch, which would use less by itself."""
    return OutOfMemory(
        f"{ran_out} ran out of memory; free memory, train adapters (--set model.lora=true in a new node) or use a "
        "smaller model",
        next=f"swarmctl doctor fit --node {order['config']['node']['name']}",
    )


def _watch_supervisor(stop: StopFlag) -> None:
    """Request a stop when standard input ends, and force it after 10 s, because the supervisor is gone."""
    while os.read(0, 4096):
        pass
    stop.set()
    threading.Timer(10.0, os._exit, args=(1,)).start()


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Library threads must not keep a finished node alive. Everything that matters is already on disk.
    os._exit(status)
