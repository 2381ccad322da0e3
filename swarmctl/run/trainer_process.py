"""The trainer as a process: start it, query it without running a node, and end it with all its child processes."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen
from typing import IO, Any, BinaryIO

import hivemind_exp
from hivemind_exp.config import Config
from hivemind_exp.errors import NodeError, from_code
from hivemind_exp.processes.ending import how_ended
from hivemind_exp.proxies import address_in, with_direct_loopback
from hivemind_exp.secrets import without_secrets
from swarmctl.nodes.frozen import FrozenWatch

MODULE = "hivemind_exp.runner"
_LOOK_S = 2.0
"""Seconds between checks of whether a trainer that answers a question has been stopped by a signal."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def environment(config: Config) -> dict[str, str]:
    """Return the trainer's environment: this process's without keys, plus variables for repeatable and quiet runs."""
    # The SDK would send OpenAI's base URL and organization to any provider.
    address_in(os.environ, "HF_ENDPOINT")  # an invalid one stops the hub's libraries while they are imported
    kept = with_direct_loopback(without_secrets(os.environ))
    result = {name: value for name, value in kept.items() if not name.startswith("OPENAI_")} | {
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",  # use the token that swarmctl found, or none
        "DO_NOT_TRACK": "1",
    }
    threads = config.model.threads or (1 if config.model.name == "tiny" else 0)
    return result | dict.fromkeys(_THREAD_VARIABLES, str(threads)) if threads else result


def command(module: str) -> list[str]:
    """Return the command that runs a module in this interpreter."""
    # A file in the current directory must not shadow a library's module of the same name.
    root = Path(hivemind_exp.__file__).parents[1]
    safe_path = [] if Path.cwd() == root else ["-P"]
    return [sys.executable, *safe_path, "-X", "faulthandler", "-m", module]


def request(mode: str, config: Config, node: Path | None, secrets_fd: int | None = None, **more: Any) -> bytes:
    """Return the line that tells a process what to do."""
    line = {
        "mode": mode,
        "config": config.model_dump(mode="json"),
        "node_dir": None if node is None else str(node),
        "secrets_fd": secrets_fd,
        **more,
    }
    return json.dumps(line).encode() + b"\n"


def spawn(
    module: str,
    config: Config,
    output: int | BinaryIO,
    pass_fds: tuple[int, ...] = (),
    *,
    errors: IO[bytes] | None = None,
) -> Popen[bytes]:
    """Start a module with the trainer's environment, in a separate session. ``errors``: where its stderr goes."""
    return Popen(
        command(module),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output if errors is None else errors,
        env=environment(config),
        pass_fds=pass_fds,
        start_new_session=True,
    )


def start(
    module: str, config: Config, node: Path, log: BinaryIO, lock: int, *, secrets: Mapping[str, str]
) -> Popen[bytes]:
    """Start the trainer in a separate session. It holds ``lock`` and runs as long as its stdin stays open."""
    with pipe_with(secrets) as secrets_fd:
        process = spawn(module, config, log, (lock,) if secrets_fd is None else (lock, secrets_fd))
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has already died; how it ended is reported later
        process.stdin.write(request("run", config, node, secrets_fd))
        process.stdin.flush()
    return process


def end_session(process: Popen[bytes]) -> None:
    """Kill the trainer and every process in its session, and wait for the trainer."""
    import psutil

    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == process.pid:
                os.kill(pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def check(config: Config, say: Callable[[str], None], module: str = MODULE) -> dict[str, Any]:
    """Return the trainer's report on a configuration, without running it. Raises the NodeError that it reports.

    ``say``: called with a sentence if the trainer is stopped by a signal.
    """
    return _ask(request("check", config, None), config, say, module)


def fetch_charter(
    config: Config, key: Path, directory: Path, say: Callable[[str], None], module: str = MODULE
) -> bytes:
    """Fetch the charter of ``config``'s invitation from peers. The result is not checked here.

    ``key`` is the file with the identity to use; ``directory`` is for temporary files. ``say``: as
    for ``check``. Raises a NodeError if no charter can be fetched.
    """
    line = request("charter", config, directory, key=str(key))
    return base64.b64decode(_ask(line, config, say, module)["charter"])


def _ask(line: bytes, config: Config, say: Callable[[str], None], module: str) -> dict[str, Any]:
    """Return the trainer's answer to one request, without running a node."""
    process = spawn(module, config, subprocess.PIPE)
    try:
        output, errors = _output(process, line, say)
    finally:
        end_session(process)
    answer = last_object(output)
    if answer is None:
        last = (errors.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        raise NodeError(f"the trainer {how_ended(process.returncode)}, without a result: {last}")
    if "error" in answer:
        raise reported(answer["error"])
    return answer


def _output(process: Popen[bytes], line: bytes, say: Callable[[str], None]) -> tuple[bytes, bytes]:
    stopped, unsent = FrozenWatch(process.pid), iter([line])
    while True:
        try:
            return process.communicate(next(unsent, None), timeout=_LOOK_S)
        except subprocess.TimeoutExpired:  # the rest of the request is sent by the next call
            for sentence in stopped.look():
                say(sentence)


def last_object(text: bytes) -> dict[str, Any] | None:
    """Return the JSON object on the last non-empty line; None if it is not one."""
    try:
        value = json.loads((text.strip().splitlines() or [b""])[-1])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def reported(error: dict[str, Any]) -> NodeError:
    """Return the error that the trainer wrote as ``{"code", "message", "next"}``."""
    return from_code(error.get("code"), str(error.get("message")), error.get("next"))


_MOST = 32768
"""Bytes: half of a pipe's capacity, so that writing never waits for a reader."""


@contextmanager
def pipe_with(secrets: Mapping[str, str]) -> Iterator[int | None]:
    """Yield the reading end of a pipe with ``secrets``, whose writing end is closed; None if there are no secrets."""
    if not secrets:
        yield None
        return
    content = json.dumps(dict(secrets)).encode()
    assert len(content) <= _MOST
    reading, writing = os.pipe()
    try:
        os.write(writing, content)
        os.close(writing)
        yield reading
    finally:
        os.close(reading)
