"""What the kernel alone, without Python, refuses to a confined process and to readers of a hidden one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from hivemind_exp.processes.kernel import confine
from tests.support.waiting import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="Linux enforces it"
    ),
]

PROGRAM = """
import ctypes, fcntl, json, os, resource, socket, sys, threading
from pathlib import Path
from hivemind_exp.processes.kernel import confine
pipe, _ = os.pipe()
libc, parent, private, public = ctypes.CDLL(None, use_errno=True), os.getppid(), Path(sys.argv[1]), Path(sys.argv[2])
still_open = confine([public.parent, *(Path(each) for each in sys.path if each)]) if sys.argv[3] == "confined" else []

def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result

deeds = {
    "socket": lambda: socket.socket(),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "socket by ctypes": lambda: call("socket", 2, 1, 0),
    "pair": lambda: socket.socketpair(),
    "read": lambda: private.read_text(),
    "read by ctypes": lambda: call("open", str(private).encode(), os.O_RDONLY),
    "list": lambda: os.listdir(private.parent),
    "ssh": lambda: call("open", str(private.parent / ".ssh" / "id_ed25519").encode(), os.O_RDONLY),
    "write": lambda: private.write_text("evil"),
    "create": lambda: private.with_name("new").touch(),
    "remove": lambda: private.with_name("victim").unlink(),
    "chmod": lambda: private.chmod(0o777),
    "utime": lambda: os.utime(private, (0, 0)),
    "link": lambda: os.link(private, public.parent / "stolen"),
    "rename": lambda: os.rename(private, public.parent / "stolen"),
    "environ of parent": lambda: Path(f"/proc/{parent}/environ").read_bytes(),
    "memory of parent": lambda: call("open", f"/proc/{parent}/mem".encode(), os.O_RDONLY),
    "ptrace": lambda: call("ptrace", 0x4206, parent, None, None),
    "process_vm_readv": lambda: call("process_vm_readv", parent, None, 0, None, 0, 0),
    "signal": lambda: os.kill(parent, 0),
    "signal by ctypes": lambda: call("kill", parent, 0),
    "fork": lambda: os.fork() or os._exit(0),
    "fork by ctypes": lambda: call("fork") or os._exit(0),
    "thread": lambda: threading.Thread(target=len, args=[""]).start(),
    "exec": lambda: os.execv("/bin/true", ["true"]) if sys.argv[3] == "confined" else None,
    "namespace": lambda: call("unshare", 0x10000000),
    "memory file": lambda: os.memfd_create("x"),
    "limit of parent": lambda: resource.prlimit(parent, resource.RLIMIT_CPU),
    "own limit": lambda: resource.setrlimit(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE)),
    "rights of root": lambda: call("setgroups", 0, None),
    "scheduling of parent": lambda: os.sched_setscheduler(parent, os.SCHED_OTHER, os.sched_param(0)),
    "own pipe": lambda: fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL)),
    "signal by pipe": lambda: fcntl.fcntl(pipe, fcntl.F_SETSIG, 9),
    "owner of pipe": lambda: fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid()),
    "pidfd": lambda: os.pidfd_open(parent),
}
done = {}
for name, deed in deeds.items():
    try:
        deed()
        done[name] = True
    except (OSError, RuntimeError) as error:
        done[name] = False
json_out = {"still_open": still_open, "done": done, "public": public.read_text()}
print(json.dumps(json_out))
"""


@pytest.fixture
def attack(tmp_path: Path) -> Any:
    """Return what a process could do, with or without confinement."""
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    for name in ("private", "victim", ".ssh/id_ed25519"):
        (tmp_path / "home" / name).write_text("secret")
    (tmp_path / "data" / "public").write_text("question")

    def run(how: str) -> dict[str, Any]:
        arguments = [str(tmp_path / "home" / "private"), str(tmp_path / "data" / "public"), how]
        done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout))

    run.home = tmp_path / "home"  # type: ignore[attr-defined]
    return run


def test_a_confined_process_can_only_read_allowed_files(attack: Any) -> None:
    found = attack("confined")
    if found["still_open"]:
        pytest.skip(f"this kernel does not enforce everything: {found['still_open']}")
    assert [name for name, succeeded in found["done"].items() if succeeded] == ["own limit", "own pipe"]
    assert found["public"] == "question"
    assert (attack.home / "private").read_text() == "secret"


def test_the_same_attacks_succeed_without_confinement(attack: Any) -> None:
    """Otherwise the failures above would prove nothing."""
    done = attack("free")["done"]
    usually_refused = {"ptrace", "namespace", "process_vm_readv", "rights of root"}
    assert [name for name, succeeded in done.items() if not succeeded and name not in usually_refused] == []


def test_missing_kernel_features_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hivemind_exp.processes.kernel._prctl", lambda *_: None)
    monkeypatch.setattr("hivemind_exp.processes.kernel._call", _refuse)
    assert confine([]) == [
        "no Landlock, so this user's files can be read (Function not implemented)",
        "root's rights remain (Function not implemented)",
        "no seccomp filter, so the network can be reached (Function not implemented)",
    ]
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert confine([]) == ["Darwin has neither Landlock nor seccomp"]


def _refuse(*_: object) -> int:
    raise OSError(38, os.strerror(38))


SYNCHRONIZED = """
import ctypes, json, struct, sys, threading
from hivemind_exp.processes import kernel
begun, end = threading.Event(), threading.Event()

def filtered():
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 1, ctypes.addressof(code)))
    kernel._prctl(38, 1)
    kernel._call(kernel._SECCOMP[kernel.platform.machine()], ctypes.c_uint(1), ctypes.c_uint(0), program)
    begun.set()
    end.wait()

threading.Thread(target=filtered, daemon=True).start()
begun.wait()
print(json.dumps(kernel.confine([])))
"""


def test_a_thread_with_a_filter_of_its_own_does_not_switch_the_filter_off_silently() -> None:
    done = subprocess.run([sys.executable, "-c", SYNCHRONIZED], capture_output=True, text=True, check=True)
    assert [each for each in json.loads(done.stdout) if "has a filter of its own" in each], done.stdout


BEFORE_LOADING = """
import sys
from hivemind_exp.processes.kernel import leave_others_alone
if sys.argv[2] == "alone":
    leave_others_alone()
sys.exit(b"PLANTED" not in open(f"/proc/{sys.argv[1]}/environ", "rb").read())
"""


@pytest.mark.skipif(os.getuid() != 0, reason="other users have no such rights")
def test_code_that_loads_outside_the_sandbox_cannot_read_hidden_memory_even_as_root() -> None:
    hidden = "import sys; from hivemind_exp.processes.kernel import hide_memory; hide_memory(); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hidden}; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PLANTED": "sk-planted"},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        reader = [sys.executable, "-c", BEFORE_LOADING, str(process.pid)]
        codes = [
            subprocess.run([*reader, how], capture_output=True, check=False).returncode for how in ("free", "alone")
        ]
        process.communicate()
    if codes[0] != 0:
        pytest.skip("this root may not trace processes")
    assert codes[1] == 1


HIDDEN = (
    "import os, sys\n"
    "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    "libc = __import__('ctypes').CDLL(None); libc.prctl(4, 1)\n"
    "if sys.argv[1] == 'hidden':\n"
    "    libc.prctl(4, 0)\n"
    "print(os.getpid(), flush=True); sys.stdin.read()"
)
READER = (
    "import os, sys\n"
    "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    "sys.exit(b'PLANTED' not in open(f'/proc/{sys.argv[1]}/environ', 'rb').read())"
)


@pytest.mark.parametrize("how", ["hidden", "plain"])
def test_a_process_that_is_not_dumpable_cannot_be_read_by_its_user(how: str) -> None:
    python = os.path.realpath(sys.executable)
    if subprocess.run(["su", "nobody", "-s", "/bin/sh", "-c", f"{python} -c 1"], capture_output=True).returncode:  # noqa: PLW1510
        python = "/usr/bin/python3"
    with subprocess.Popen(
        [python, "-c", HIDDEN, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PLANTED": "sk-planted"},
    ) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().decode().strip()
        read = subprocess.run([python, "-c", READER, pid], capture_output=True, check=False)
        process.communicate()
    assert (read.returncode == 0) is (how == "plain"), read.stderr


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "hivemind_exp.runner"],
        ["-m", "hivemind_exp.offload.process.server", str(os.getpid())],
        ["-P", "swarmctl/keys/keyring_helper.py"],
        ["-m", "swarmctl", "keys", "set", "openai", "--no-test"],
    ],
)
def test_every_process_that_holds_keys_hides_its_memory(command: list[str]) -> None:
    """The hard limit on core dumps is set by the same function, and visible from outside."""
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        seen = psutil.Process(process.pid)
        until(lambda: seen.rlimit(psutil.RLIMIT_CORE) == (0, 0))
        process.kill()
