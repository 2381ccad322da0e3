"""A small trainer that implements the supervisor's protocol. The variable STAND_IN selects its behavior."""

from __future__ import annotations

import base64
import contextlib
import errno
import faulthandler
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from hivemind_exp.event_log import EventLog
from hivemind_exp.events import (
    Emit,
    ErrorEvent,
    EvalEvent,
    PeersEvent,
    PhaseEvent,
    RolloutsEvent,
    RoundEvent,
    ShareEvent,
    StartEvent,
    StepEvent,
    StopEvent,
    WarningEvent,
    discard,
)
from hivemind_exp.models.model_location import OTHER_MODEL
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.runner.run_recorder import RunRecorder
from hivemind_exp.secrets import Secrets, receive

if TYPE_CHECKING:
    from hivemind_exp.config import Config
    from hivemind_exp.rollouts.types import CompletionRequest

ROUND_S = 0.05
UNUSABLE = {
    "no_model": ("hub_unreachable", "is not on this machine", "swarmctl run --profile demo"),
    "damaged_model": ("model", "has weights that are not finite", OTHER_MODEL),
}
"""How the trainer fails if it cannot load the model, before its start event: the error's code, text and command."""


def main() -> None:
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    request = json.loads(sys.stdin.readline())
    act = os.environ.get("STAND_IN", "run")
    if request["mode"] == "check":
        check(act)
    if request["mode"] == "charter":
        serve_charter(Path(os.environ["STAND_IN_CHARTER"]))
    node = Path(request["node_dir"])
    secrets = receive(request["secrets_fd"])
    token = secrets.get("huggingface")
    (node / "token.sha256").write_text(hashlib.sha256((token or "").encode()).hexdigest())
    (node / "request.json").write_text(json.dumps(request | {"environment": dict(os.environ)}))
    threading.Thread(target=watch_life_line, daemon=True).start()
    if act == "spawn":
        child = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"]
        subprocess.Popen(child)
        subprocess.Popen(child, process_group=0)
    end_early(act, node)
    files = NodeFiles(node)
    emit = RunRecorder(files.run, discard if "STAND_IN_NO_LOG" in os.environ else EventLog(files.events))
    act = of_this_start(act, node)
    if act == "full":  # as if the disk were full: at the first start
        sys.exit(errno.ENOSPC)
    if act == "noise":
        print("library noise", file=sys.stderr, flush=True)
    if act == "refused":
        emit(PhaseEvent(name="importing"))
        emit(ErrorEvent(code="device", message="no such device", next="swarmctl run --device cpu"))
        emit(StopEvent(reason="error", round=0, steps=0))
        sys.exit(1)
    if act == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "traceback":
        raise RuntimeError("the flux was \x1b[31mreversed")
    if act in ("offload", "cut"):
        sys.exit(offload(request["config"], node, secrets, emit, cut=act == "cut"))
    if act == "unfit":
        emit(ErrorEvent(code="task", message="cannot generate a question"))
        emit(StopEvent(reason="error", round=0, steps=0))
        sys.exit(1)
    if act in UNUSABLE:
        code, problem, following = UNUSABLE[act]
        emit(ErrorEvent(code=code, message=f"Qwen/Qwen2.5-0.5B-Instruct {problem}", next=following))
        emit(StopEvent(reason="error", round=0, steps=0))
        sys.exit(1)
    play(request["config"], emit, act)


def end_early(act: str, node: Path) -> None:
    """End before anything is recorded, if ``act`` says so. ``gone``: the node's directory is deleted, once."""
    if act == "disk_full":
        sys.exit(errno.ENOSPC)
    marker = node.parents[1] / "gone"
    if act == "gone" and not marker.exists():
        marker.touch()
        shutil.rmtree(node)
        sys.exit(1)


def of_this_start(act: str, node: Path) -> str:
    """Return what to do at this start. ``first crash, then stuck``: other things at later starts, at last ``run``."""
    if not act.startswith("first "):
        return act
    counter = node / "starts"
    start = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(start + 1))
    acts = act.removeprefix("first ").split(", then ")
    return acts[start] if start < len(acts) else "run"


def offload(settings: dict[str, Any], node: Path, secrets: Secrets, emit: Emit, *, cut: bool) -> int:
    """Fill every round from an API as a trainer does, without training. ``cut``: die while the second is requested."""
    from hivemind_exp.config import Config, charter_id
    from hivemind_exp.errors import NodeError
    from hivemind_exp.journal.journal import Journal
    from hivemind_exp.offload.process.client import open_offload
    from hivemind_exp.stop import StopFlag

    config, files = Config.model_validate(settings), NodeFiles(node)
    Journal(files.journal, charter_id(config)).close()
    try:
        engine = open_offload(config, files, secrets, emit, StopFlag())
        assert engine is not None
        with contextlib.closing(engine):
            start(settings, emit)
            engine.wait_for_probe()
            for round_ in range(config.game.rounds):
                engine.submit(orders(config, round_))
                if cut and round_ == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                engine.wait(round_)
                engine.report_spend(round_)
                play_round(emit, round_)
    except NodeError as error:
        emit(ErrorEvent(code=error.code, message=error.message, next=error.next))
        emit(StopEvent(reason="error", round=0, steps=0))
        return 1
    end(emit, "done", config.game.rounds)
    return 0


def orders(config: Config, round_: int) -> list[CompletionRequest]:
    from hivemind_exp.rollouts.types import CompletionRequest

    places = tuple(range(config.game.group_size))
    return [
        CompletionRequest(
            round_, "answer", f"{round_}/{n}", ({"role": "user", "content": f"Spell {round_}/{n}"},), places, 0
        )
        for n in range(config.game.groups)
    ]


def watch_life_line() -> None:
    sys.stdin.read()
    os._exit(0)


def check(act: str) -> None:
    if act == "error":
        error = {"code": "device", "message": "no such device", "next": "swarmctl run --device cpu"}
        print(json.dumps({"error": error}))
        sys.exit(1)
    if act == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    model = {"name": "tiny", "where": "built locally", "parameters": 266_000}
    found = {"device": "cpu", "dtype": "float32", "accelerator": None, "model": model}
    print("noise of a library")
    found |= {"tasks": ["spell_backward"], "memory_bytes": 2 << 30, "memory_available_bytes": 8 << 30}
    found |= {"memory_usual_bytes": 2 << 30}
    print(json.dumps(found | json.loads(act.removeprefix("found ") if act.startswith("found ") else "{}")))
    sys.exit(0)


def serve_charter(path: Path) -> None:
    if not path.exists():
        print(json.dumps({"error": {"code": "swarm", "message": "no peer answered"}}))
        sys.exit(1)
    print(json.dumps({"charter": base64.b64encode(path.read_bytes()).decode()}))
    sys.exit(0)


def play(config: dict[str, Any], emit: Emit, act: str) -> None:
    stopping = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, signal.SIG_IGN if act in ("hang", "calibrate") else stop)
    total = config["game"]["rounds"]
    start(config, emit)
    if act == "crash":
        raise RuntimeError("the flux was reversed")
    if act == "calibrate":
        emit(PhaseEvent(name="trying prompt styles", done=3, total=100, percent=True))
        time.sleep(3600)
    if act == "stuck":
        play_round(emit, 0)
        time.sleep(60)
    if act == "large" and config["train"]["micro_batch"] == 1:
        act = "run"
    if act in ("large", "too large"):
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "error":
        cure = "swarmctl run --node x --set train.micro_batch=1"
        emit(ErrorEvent(code="out_of_memory", message="too large", next=cure))
        emit(StopEvent(reason="error", round=0, steps=0))
        sys.exit(1)
    swarm = bool(config["swarm"]["join"])
    if swarm:
        emit(PeersEvent(peers=0, neighbours=0))
        emit(PeersEvent(peers=2, neighbours=2))
        cure = "swarmctl identity new"
        emit(ErrorEvent(code="identity_elsewhere", message="another node has this identity", next=cure))
    done = 0
    while not stopping.is_set() and (not total or done < total):
        time.sleep(ROUND_S)
        if swarm:
            share(emit, done)
        play_round(emit, done)
        done += 1
    end(emit, "signal" if stopping.is_set() else "limit" if act == "limit" else "done", done)


def start(config: dict[str, Any], emit: Emit) -> None:
    what = {"model": config["model"]["name"], "device": "cpu", "dtype": "float32", "parameters": 266_000}
    what |= {"trainable": 266_000, "tasks": ["spell_backward"], "seed": 0, "groups": 2, "group_size": 4}
    name = config["node"]["name"]
    emit(PhaseEvent(name="importing"))
    emit(PhaseEvent(name="warming up", done=120, total=450))
    emit(StartEvent(node=name, rounds=config["game"]["rounds"], **what))
    emit(EvalEvent(round=0, accuracy=0.38, questions=200))
    emit(WarningEvent(code="slow", message="this is \x1b[31mslow"))


def end(emit: Emit, reason: str, done: int) -> None:
    emit(EvalEvent(round=done, accuracy=0.9, questions=200))
    emit(StopEvent(reason=reason, round=done, steps=done, checkpoint=f"checkpoints/{done}"))


def play_round(emit: Emit, index: int) -> None:
    where = {"round": index, "stage": "answer", "source": "policy"}
    measured = {"reward": min(1.0, 0.3 + index / 100), "reward_std": 0.4, "completion_length": 9}
    emit(RolloutsEvent(**where, **measured, count=8, correct=3, truncated=0, tokens=80))
    learned = {"loss": 0.1, "grad_norm": 1.0, "learning_rate": 1e-4, "tokens": 80, "rows": 8}
    emit(StepEvent(**where, **learned, step=index, replayed=False))
    seconds = {"generate": 0.04, "verify": 0.005, "train": 0.02, "share": 0.0, "other": 0.001}
    emit(RoundEvent(round=index, rounds=0, seconds=seconds, tokens_per_second=5210.0))


def share(emit: Emit, index: int) -> None:
    emit(ShareEvent(round=index, groups=2, bytes=1500, unused={"all rewards equal": 1}))
    emit(RolloutsEvent(round=index, stage="answer", source="peer", reward=0.5, count=4, correct=2, truncated=0))


if __name__ == "__main__":
    main()
