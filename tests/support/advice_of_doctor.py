"""States of a machine in which ``swarmctl doctor`` suggests a command."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from hivemind_exp.trainer.checkpoints import PARTIAL
from tests.support import doctor
from tests.support.advice_of_trainers import absent, every_checkpoint, trained
from tests.support.advice_states import RAN, SAVED, SERVER, SWARM, mode, server, wrote
from tests.support.advice_surroundings import MODELS, Around, answering, busy_port, outage, untrusted
from tests.support.advised import State


@contextmanager
def few_files(_home: Path) -> Iterator[str]:
    """Allow this process fewer open files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    try:
        yield ""
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def library(name: str, version: str, record: str = "") -> None:
    """Install what looks like another version of a library, in a directory that comes first."""
    place = Path("libraries").absolute()
    info = place / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(record)
    sys.path.insert(0, str(place))


def half_written(home: Path) -> None:
    """Leave what a node was writing when it died, an hour ago."""
    wrote(f"nodes/maths/checkpoints/{PARTIAL}9", "x")(home)
    doctor.age(home / f"nodes/maths/checkpoints/{PARTIAL}9")


def leftovers(home: Path) -> None:
    (home.parent / "libraries/~orch").mkdir(parents=True)


@contextmanager
def with_libraries(home: Path) -> Iterator[str]:
    """Import from one more directory."""
    place = str(home.parent / "libraries")
    sys.path.insert(0, place)
    try:
        yield place
    finally:
        sys.path.remove(place)


def hub(status: int, code: str = "", body: str = "") -> Around:
    """Return a hub that sends the same answer to every request. ``code``: its own name for an error."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("X-Error-Code", code)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(body.encode())

    @contextmanager
    def serve(_home: Path) -> Iterator[str]:
        with doctor.serve(answer) as url:
            yield url

    return serve


def failing_hub() -> dict[str, Any]:
    """Return what a state with a hub that fails, and later has every model, needs."""
    status = [500]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status[0])
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    @contextmanager
    def serve(_home: Path) -> Iterator[str]:
        with doctor.serve(answer) as url:
            yield url

    @contextmanager
    def over() -> Iterator[None]:
        status[0] = 200
        yield

    return {"around": serve, "meanwhile": over}


@contextmanager
def port_of_tea(home: Path) -> Iterator[str]:
    """Listen on a port that node tea has chosen."""
    with busy_port(home) as port:
        wrote("nodes/tea/swarm/port", f'{{"schema": 1, "port": {port}}}')(home)
        yield port


_TOKEN = "hf_" + "a" * 30
_NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
_HUB = {"HF_ENDPOINT": "{it}", "HF_HUB_OFFLINE": "", "HF_HOME": "{here}/hub", "XDG_CACHE_HOME": "{here}"} | _NO_INDEX
_READ_ONLY = '{"auth": {"accessToken": {"role": "read"}}}'
_TOLD = _HUB | {"HF_TOKEN": _TOKEN}
_HUGE = (
    '{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 65536, "intermediate_size": 262144,'
    ' "num_hidden_layers": 400, "num_attention_heads": 64, "num_key_value_heads": 64, "vocab_size": 200000}'
)
_BOX = "--set providers.box.base_url={it} --set offload.provider=box --set offload.model=m"
_API = f"doctor api -p demo {_BOX} --set offload.limits.usd=unlimited"
_MODEL = "hub.model -p cpu --set model.name={here}"
_PUSH = "--set hub.repo=me/x --set hub.every=5"
_NO_PATH = {"PYTHONPATH": ""}
DOCTOR_STATES: tuple[State, ...] = (
    # The machine.
    State("doctor machine.threads -p demo --set model.threads=999"),
    State("doctor machine.files", around=few_files),
    State(f"doctor machine.memory fit.memory {_MODEL}/huge", (wrote("../huge/config.json", _HUGE),)),
    State(f"doctor {_MODEL}/empty", (wrote("../empty/x", ""),)),
    State("doctor machine.threads -p cpu", variables={"OMP_NUM_THREADS": "1"}),
    State("doctor accelerator.device -p gpu"),
    State("doctor accelerator.device -p gpu --set model.device=mps"),
    State("doctor accelerator.device -p gpu --set train.processes=4"),
    # The installation.
    State("doctor python.libraries", real=True, machine=partial(library, "torch", "1.0")),
    State("doctor python.libraries", real=True, machine=partial(library, "torch", "2.8.0")),
    State("doctor python.environment", variables=_NO_PATH, real=True, machine=partial(library, "torch", "1.0")),
    State("doctor python.environment"),
    State("doctor python.environment", variables=_NO_PATH | {"VIRTUAL_ENV": "/none"}),
    State("doctor python.environment", variables=_NO_PATH | {"VIRTUAL_ENV": "", "CONDA_PREFIX": "/none"}),
    State("doctor python.files", real=True, machine=partial(library, "psutil", "7.2.2", "psutil/none.py,,\n")),
    State("doctor python.files", (leftovers,), around=with_libraries),
    # Keys.
    State("doctor keys.huggingface -p demo --set hub.repo=me/x", variables={"HF_HUB_OFFLINE": ""}),
    State("doctor keys.wandb -p demo --set 'report.to=[\"wandb\"]'"),
    # Nodes.
    State("doctor swarm.modes", (RAN, mode("nodes/maths", 0o755))),
    State("doctor swarm.leftovers", (RAN, half_written)),
    State("doctor swarm.checkpoints", (trained, every_checkpoint), real=True),
    State("doctor swarm.checkpoints", (trained, wrote("nodes/maths/checkpoints/damaged-9/x", "x"))),
    State("doctor swarm.listen", (SWARM,), around=port_of_tea),
    State("doctor swarm.charter", (SWARM,), real=True, machine=partial(library, "reasoning-gym", "0.1")),
    State("doctor api.openai -p demo"),
    State(_API.replace("doctor api", "doctor api.box.hots"), around=answering("404")),
    State("doctor --device cpu"),
    # The hub.
    State("doctor hub.model -p cpu"),
    State("doctor hub.model -p cpu", variables=_HUB | {"HF_ENDPOINT": doctor.DEAD}),
    State("doctor hub.model -p cpu", **failing_hub(), variables=_HUB),
    State("doctor hub.model -p cpu", around=hub(403, "GatedRepo"), variables=_HUB),
    State("doctor hub.model -p cpu", around=hub(403, "GatedRepo"), variables=_TOLD),
    State("doctor hub.model -p cpu --set model.revision=old", around=hub(404, "RevisionNotFound"), variables=_HUB),
    State("doctor hub.model -p cpu", around=hub(401), variables=_HUB),
    State(f"doctor hub.token -p cpu {_PUSH}", around=hub(200, body=_READ_ONLY), variables=_TOLD),
    State("doctor hub.token -p cpu", around=hub(401), variables=_TOLD),
    # APIs.
    State(_API, real=True, machine=absent("openai"), around=answering(MODELS)),
    State(_API.replace("{it}", "https://no-such-host.invalid/v1")),
    State(_API, around=untrusted),
    State(_API, around=untrusted, variables={"REQUESTS_CA_BUNDLE": "{here}/own.pem"}),
    State(_API.replace("{it}", f"http://127.0.0.1:{SERVER}/v1"), meanwhile=server),
    State("doctor api -p demo --set offload.provider=ollama:m"),
    State(_API, around=answering("404")),
    State(_API, around=answering("500")),
    State(_API, around=answering("page")),
    State(_API, **outage("slow down")),
    State(f"{_API} --deep", **outage("500")),
    State(f"{_API} --deep", **outage("400")),
    State(f"{_API} --deep", **outage("slow down")),
    State(f"{_API} --deep", **outage(MODELS)),
    State(f"{_API} --deep", **outage("page")),
    State("doctor api -p demo --set offload.provider=openai:gpt-4o-mini", (SAVED,)),
    State(f"doctor api -p cpu {_BOX} --set offload.kind=policy", **outage("500")),
    State("doctor api.adapters -p cpu --set offload.provider=vllm --set offload.kind=policy"),
)
