"""States of other machines in which ``swarmctl doctor`` suggests a command: their GPUs, libraries and kernels."""

from __future__ import annotations

import errno
import json
import os
import resource
import site
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import date, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil

from hivemind_exp.models.hardware import Hardware
from hivemind_exp.models.nvidia import Gpu
from swarmctl.doctor import registry
from swarmctl.doctor.check import Check, Context, Finding, ok
from swarmctl.doctor.checks import accelerator, fit, keys, machine, swarm
from swarmctl.doctor.checks.api import checks as api_checks
from swarmctl.doctor.checks.installation import PINS
from swarmctl.run import trainer_process
from tests.support import doctor
from tests.support.advice_of_doctor import few_files
from tests.support.advice_states import SAVED, wrote
from tests.support.advice_surroundings import MODELS, Around
from tests.support.advised import State

Later = Callable[[], AbstractContextManager[object]]
"""What the error asks for before the command is typed."""
_GIB = 2**30


def has(owner: object, **values: object) -> Around:
    """Return a machine on which attributes of a module have other values."""

    @contextmanager
    def replace(_home: Path) -> Iterator[str]:
        with patch.multiple(owner, **values):
            yield ""

    return replace


def gets(owner: object, **values: object) -> Later:
    """Return what changes attributes of a module, such as an installation."""
    return partial(patch.multiple, owner, **values)


def gpu(
    capability: tuple[int, int],
    torch: tuple[str, str] = ("2.13.0", "13.0"),
    *,
    driver: str = "580.65",
    kernels: bool = True,
    free: int = 23,
) -> Around:
    """Return a machine with one NVIDIA GPU of 24 GiB.

    ``torch``: its version and the CUDA version that it was built for. ``kernels``: whether Liger is installed.
    ``free``: GiB.
    """
    found = Gpu(0, "NVIDIA GPU", driver, capability, 24 * _GIB, free * _GIB)
    return has(
        accelerator,
        nvidia_gpus=lambda: [found],
        torch_build=lambda: (*torch, None),
        detect_hardware=lambda: Hardware(found.name, driver),
        installed=lambda: kernels,
    )


def host(total: int) -> Around:
    """Return a machine with so many GiB of memory."""
    found = SimpleNamespace(total=total * _GIB, available=total * _GIB)

    @contextmanager
    def replace(_home: Path) -> Iterator[str]:
        no_limit: tuple[None, int] = (None, 0)
        with (
            patch.object(psutil, "virtual_memory", lambda: found),
            patch.object(machine, "container_memory", lambda: no_limit),
            patch.object(fit, "container_memory", lambda: no_limit),
        ):
            yield ""

    return replace


def built(*torch: str | None) -> Later:
    """Return what installs another build of torch."""
    return gets(accelerator, torch_build=lambda: torch)


def selftest(script: str) -> Around:
    """Return a machine on which the training step of ``--deep`` is this script. It has the device as ``device``."""
    script = f"import json, sys; device = json.load(sys.stdin)['model']['device']\n{script}"
    return has(trainer_process, command=lambda _module: [sys.executable, "-S", "-c", script])


def answers(**answer: object) -> Around:
    """Return a machine on which the training step of ``--deep`` gives this answer, except on the CPU."""
    done = {"device": "cpu", "dtype": "float32", "model": "tiny", "rows": 8, "tokens": 240, "seconds": 1.0}
    return selftest(f"print({json.dumps(done)!r} if device == 'cpu' else {json.dumps(answer)!r})")


class _InThreeYears(date):
    @classmethod
    def today(cls) -> _InThreeYears:
        return cls.fromordinal((date.today() + timedelta(days=3 * 365)).toordinal())


def _installed(place: Path, name: str) -> None:
    info = place / f"{name.replace('-', '_')}-{PINS[name][1]}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {PINS[name][1]}\n")


def own_site() -> None:
    """Have one library in the user's own directory alone, which Python searches unless a variable forbids it."""
    own, rest = Path("own").absolute(), Path("rest").absolute()
    _installed(own, "peft")
    for name in PINS.keys() - {"peft"}:
        _installed(rest, name)
    site.ENABLE_USER_SITE, site.USER_SITE = "PYTHONNOUSERSITE" not in os.environ, str(own)
    found = [own, rest] if site.ENABLE_USER_SITE else [rest]
    sys.path[:] = [*map(str, found), *(each for each in sys.path if not each.endswith("site-packages"))]


def daemon(home: Path) -> None:
    """Install hivemind's daemon."""
    wrote("../hivemind/hivemind_cli/p2pd", "#!/bin/sh\necho ' -listen addresses'\n")(home)


@contextmanager
def its_daemon(home: Path) -> Iterator[str]:
    """Have a hivemind of its own."""
    spec = ModuleSpec("hivemind", None, origin=str(home.parent / "hivemind/__init__.py"))
    with patch.object(swarm, "find_spec", lambda _name: spec):
        yield ""


@contextmanager
def restored() -> Iterator[None]:
    """Install hivemind again. Nothing is executable before a program is installed."""
    path = Path("hivemind/hivemind_cli/p2pd")
    daemon(Path("home").absolute())
    path.chmod(0o755)
    yield


@contextmanager
def no_descriptor(home: Path) -> Iterator[str]:
    """Have too many open files, unless more are allowed."""
    listen = socket.create_server

    def limited(*arguments: Any, **options: Any) -> socket.socket:
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < machine.DESCRIPTORS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return listen(*arguments, **options)

    with few_files(home), patch.object(socket, "create_server", limited):
        yield ""


def picky() -> Around:
    """Return a server that finds something else wrong with each request."""
    names = iter(("temperature", "seed", "reasoning_effort", "service_tier"))

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        asks = handler.command == "GET"
        body = MODELS if asks else json.dumps({"error": {"message": f"{next(names)} is not supported"}})
        handler.send_response(200 if asks else 400)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body.encode())

    @contextmanager
    def serve(_home: Path) -> Iterator[str]:
        with doctor.serve(answer) as url:
            yield f"{url}/v1"

    return serve


class _Slow:
    """A check that does not end before ``over``."""

    def __init__(self) -> None:
        self._over = Event()
        self._check = Check("slow", "check", self._look, limit=0.02)

    def _look(self, _context: Context) -> Finding:
        self._over.wait()
        return ok("done")

    @contextmanager
    def begin(self, _home: Path) -> Iterator[str]:
        with patch.object(registry, "CHECKS", (*registry.CHECKS, self._check)):
            yield ""

    @contextmanager
    def over(self) -> Iterator[None]:
        self._over.set()
        with patch.object(registry, "CHECKS", (*registry.CHECKS, Check("slow", "check", self._look))):
            yield


def slow() -> dict[str, Any]:
    """Return what a state with a check that takes too long needs."""
    made = _Slow()
    return {"around": made.begin, "meanwhile": made.over}


def release(kernel: str) -> Around:
    """Return a Linux whose kernel has this name."""

    @contextmanager
    def replace(home: Path) -> Iterator[str]:
        wrote("../osrelease", kernel)(home)
        with patch.object(machine.wsl, "__defaults__", (home.parent / "osrelease",)):
            yield ""

    return replace


_SHAPE = json.dumps(
    {
        **{"model_type": "qwen2", "vocab_size": 151_936, "hidden_size": 3584, "intermediate_size": 18_944},
        **{"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 2, "tie_word_embeddings": True},
    }
)
_DEVICE = "doctor accelerator.device -p gpu"
_COMPUTE = "doctor accelerator.compute -p gpu --deep"
_P2PD = "doctor swarm.p2pd"
_SERVER = (
    "doctor fit.server -p default --set model.name={here}/served --set offload.serving.command=vllm "
    "--set offload.provider=vllm --set offload.kind=policy --set model.lora.rank=16"
)
_OFF = "--set offload.serving.turns=off"
_PUSHES = _SERVER.replace("doctor fit.server", "doctor machine.memory fit.memory").replace("lora.rank=16", "device=cpu")
MACHINE_STATES: tuple[State, ...] = (
    # GPUs, and builds of torch.
    State(_DEVICE, around=gpu((8, 9), kernels=False), meanwhile=gets(accelerator, installed=lambda: True)),
    State(f"{_DEVICE} --set model.dtype=bfloat16", around=gpu((7, 5))),
    State(_DEVICE, around=gpu((6, 1)), meanwhile=built("2.13.0+cu126", "12.6", None)),
    State(_DEVICE, around=gpu((6, 1), ("2.8.0", "12.8")), meanwhile=built("2.13.0+cu126", "12.6", None)),
    State(_DEVICE, around=gpu((12, 0), ("2.13.0+cu126", "12.6")), meanwhile=built("2.13.0", "13.0", None)),
    State(_DEVICE, around=gpu((8, 9), driver="550.54")),
    State(_COMPUTE, around=answers(error="CUDA out of memory", next=None, out_of_memory=True)),
    State(_COMPUTE, around=answers(error="no such device", next="swarmctl run --device cpu", out_of_memory=False)),
    State(_COMPUTE, around=selftest("sys.exit('undefined symbol: ncclCommWindowRegister')")),
    State(f"{_SERVER} {_OFF}", (wrote("../served/config.json", _SHAPE),), around=gpu((9, 0))),
    State(
        f"{_SERVER} {_OFF} --set model.device=cpu",
        (wrote("../served/config.json", _SHAPE),),
        around=gpu((9, 0), free=10),
    ),
    State(_PUSHES, (wrote("../served/config.json", _SHAPE),), around=host(256)),
    State(
        _PUSHES.replace("machine.memory fit.memory", "fit.server"),
        (wrote("../served/config.json", _SHAPE),),
        around=host(64),
    ),
    # The installation.
    State("doctor python.environment", real=True, machine=own_site),
    State(
        "doctor keys.wandb -p demo --set 'report.to=[\"wandb\"]'",
        around=has(keys, find_spec=lambda _name: None),
        meanwhile=gets(keys, find_spec=find_spec),
    ),
    State(_P2PD, around=has(swarm, find_spec=lambda _name: None), meanwhile=gets(swarm, find_spec=find_spec)),
    State(_P2PD, around=its_daemon, meanwhile=restored),
    State(_P2PD, (daemon,), around=its_daemon),
    # The system.
    State("doctor machine.wsl", around=release("4.4.0-19041-Microsoft"), variables={"WSL_DISTRO_NAME": "Ubuntu"}),
    State("doctor swarm.port", around=no_descriptor),
    State("doctor slow.check", **slow()),
    # APIs.
    State(
        "doctor api.openai.price -p demo --set offload.provider=openai:gpt-4o-mini",
        (SAVED,),
        around=has(api_checks, date=_InThreeYears),
    ),
    State(
        "doctor api.box.request -p demo --set providers.box.base_url={it} --set providers.box.free=true "
        "--set offload.provider=box --set offload.model=m --deep",
        around=picky(),
    ),
)
