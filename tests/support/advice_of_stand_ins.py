"""States in which ``swarmctl`` suggests a command that only a stand-in reaches: for a process, a library, a moment."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil

from hivemind_exp.errors import LimitReached
from hivemind_exp.node_files import NodeFiles
from swarmctl.keys import keyring
from swarmctl.nodes import fork
from swarmctl.packages.index import Packages
from swarmctl.report import server
from swarmctl.run import fetch_smollm2
from swarmctl.storage import node_lock as locks
from swarmctl.trained import evaluation
from swarmctl.trained.target import TrainedNode
from tests.support import fake_converter
from tests.support.advice_of_commands import invited, vllm
from tests.support.advice_of_machines import has
from tests.support.advice_of_trainers import trained
from tests.support.advice_states import RAN, SWARM, reported, wrote
from tests.support.advice_surroundings import program
from tests.support.advised import State
from tests.support.command_line import PRICED_BOX, write_profile


@contextmanager
def forgetful(home: Path) -> Iterator[str]:
    """Have a keyring that returns another key than it was given."""
    wrote("../helper.py", 'print(\'{"key": "another"}\')')(home)
    with patch.object(keyring, "_HELPER", home.parent / "helper.py"):
        yield ""


@contextmanager
def not_convertible(_home: Path) -> Iterator[str]:
    """Have packages whose model cannot be converted."""
    with (
        patch.object(Packages, "_install", lambda *_: None),
        patch.object(fetch_smollm2, "_CONVERTER", "no_such_converter"),
    ):
        yield ""


@contextmanager
def charter_elsewhere(home: Path) -> Iterator[str]:
    """Have the only node of a swarm on another machine; yield its invitation."""
    with invited(home) as line:
        shutil.move(home / "nodes/tea", home.parent / "tea")
        yield line


@contextmanager
def node_answers() -> Iterator[None]:
    """Start that node."""
    shutil.copy("tea/charter", "charter")
    yield


def box(home: Path) -> None:
    """Save a profile with an API that has a price."""
    write_profile(home, "mine", PRICED_BOX)


class _Answers:
    """A process that answers one question, unless that costs more than the cap."""

    def __init__(self, node: TrainedNode) -> None:
        self._cap = node.config.offload.limits.usd

    def events(self) -> Iterator[dict[str, Any]]:
        if self._cap != "unlimited" and self._cap < 2:
            raise LimitReached("spending cap reached", next="swarmctl run --max-usd 2")
        yield {"event": "questions", "count": 1}
        answer = {"text": "7", "correct": True, "why": "equal", "truncated": False, "tokens": 1}
        about = {"task": "sums", "question": "3 + 4?", "digest": "d", "reference": "7"}
        yield {"event": "result", **about, "answers": [answer]}


@contextmanager
def model_process(_mode: str, node: TrainedNode, **_: Any) -> Iterator[_Answers]:
    yield _Answers(node)


def converting(act: str, **model: str) -> tuple[Callable[[Path], object], ...]:
    """Return a trained node, and a converter that does what ``fake_converter`` says. ``model``: the node's model."""

    def converter(home: Path) -> None:
        program(home, "convert_hf_to_gguf.py", "")
        text = Path(fake_converter.__file__).read_text()
        wrote("../bin/convert_hf_to_gguf.py", f"#!{sys.executable}\n{text}")(home)
        wrote("../bin/act", act)(home)
        path = home / "nodes/maths/config.json"
        stored = json.loads(path.read_bytes())
        stored["config"]["model"] |= model
        path.write_text(json.dumps(stored))

    return trained, converter


@contextmanager
def deletes_it(_home: Path) -> Iterator[str]:
    """Delete a node's oldest checkpoint while it is copied, as the node itself may."""
    link, deleted = fork.link_tree, list[Path]()

    def link_tree(source: Path, target: Path) -> None:
        if not deleted:
            deleted.append(source)
            shutil.rmtree(source)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(source))
        link(source, target)

    with patch.object(fork, "link_tree", link_tree):
        yield ""


class _Orphaned:
    """A node whose supervisor was killed, until its trainer ends."""

    def __init__(self) -> None:
        self._held = list[int]()

    @contextmanager
    def begin(self, home: Path) -> Iterator[str]:
        with subprocess.Popen([sys.executable, "-S", "-c", ""]) as ended:
            pass
        with holding(home, pid=ended.pid, started="0", trainer=os.getpid()) as lock:
            self._held.append(lock)
            yield ""

    @contextmanager
    def over(self) -> Iterator[None]:
        fcntl.flock(self._held.pop(), fcntl.LOCK_UN)
        yield


@contextmanager
def holding(home: Path, **holder: object) -> Iterator[int]:
    """Hold the lock of node maths, as a process that the lock file describes like this; yield its descriptor."""
    lock = os.open(NodeFiles(home / "nodes/maths").lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        assert locks.acquire(lock)
        locks.write_holder(lock, None)
        described: Mapping[str, object] = json.loads(os.pread(lock, 2**16, 0))
        content = json.dumps({**described, **holder}).encode()
        os.ftruncate(lock, 0)
        os.pwrite(lock, content, 0)
        yield lock
    finally:
        os.close(lock)


@contextmanager
def of_another_user(home: Path) -> Iterator[str]:
    """Have a node that another user runs."""

    def denied(process: psutil.Process, _number: int) -> None:
        raise psutil.AccessDenied(process.pid)

    with (
        holding(home, pid=os.getpid(), started=locks.start_of(os.getpid())),
        patch.object(psutil.Process, "send_signal", denied),
    ):
        yield ""


class _Unprivileged(ThreadingHTTPServer):
    """A server of a user who may not listen on the ports below 1024."""

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        if address[1] < 1024:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        super().__init__(address, handler)


@contextmanager
def terminal(_home: Path) -> Iterator[str]:
    """Have a terminal as standard output."""
    with patch.object(sys.stdout, "isatty", lambda: True):
        yield ""


_ON, _OPEN = "--set offload.serving.turns=on", "--set 'offload.serving.arguments=[\"--host=0.0.0.0\"]'"
_PATH = {"PATH": f"{{here}}/bin:{os.environ['PATH']}"}
_GGUF = _PATH | {"FAKE_CONVERTER": "{here}/bin", "XDG_CACHE_HOME": "{here}/cache"}
_JOIN = "run -p demo --join {it} --rounds 1"
_CHARTER = {"STAND_IN_CHARTER": "{here}/charter"}
_elsewhere: dict[str, Any] = {"around": charter_elsewhere, "meanwhile": node_answers}
_orphaned = _Orphaned()
STAND_IN_STATES: tuple[State, ...] = (
    State("keys set openai --no-test", around=forgetful),
    State("keys set mybox --host https://127.0.0.1:9/v1 --no-test", around=forgetful),
    # Runs.
    State(
        "run -p smol --rounds 1 --yes",
        around=not_convertible,
        variables={"HF_HOME": "{here}/hub", "XDG_CACHE_HOME": "{here}/cache"},
    ),
    State("run -p demo --rounds 1", variables={"STAND_IN": "gone"}),
    State(_JOIN, (SWARM,), variables=_CHARTER, **_elsewhere),
    State(_JOIN, (SWARM,), variables=_CHARTER | {"PATH": "{here}/bin"}, **_elsewhere),
    State(
        f"run -p demo --serve vllm --set model.lora.rank=8 {_ON} {_OPEN}",
        (vllm,),
        variables=_PATH,
    ),
    # Trained models.
    State(
        "eval box --task spell_backward -n 1 -p mine --max-usd 1 --temperature 0.5",
        (box,),
        around=has(evaluation, model_process=model_process),
    ),
    State("export maths {here}/o --gguf", converting("say Model OddForCausalLM is not supported"), variables=_GGUF),
    State(
        "export maths {here}/o --gguf",
        converting("say FileNotFoundError: tokenizer.model", name="me/mine"),
        variables=_GGUF,
    ),
    # Nodes and what they have made.
    State("run --node maths --rounds 3", (RAN,), around=_orphaned.begin, meanwhile=_orphaned.over),
    State("stop maths", (RAN,), around=of_another_user),
    State("fork maths copy", (trained,), around=deletes_it),
    State("report maths --serve 80", (reported,), around=has(server, ThreadingHTTPServer=_Unprivileged)),
    State("rollouts export --node maths --round 1 --format parquet", (reported,), around=terminal),
    # Windows.
    State("status", around=has(sys, platform="win32")),
)
