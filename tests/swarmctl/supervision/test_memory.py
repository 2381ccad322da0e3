"""What the kernel says about processes that it killed for memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from swarmctl.supervision.memory import MemoryWatch, used_by
from tests.support.waiting import until

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup/cgroup.controllers")
HOG = "import sys; sys.stdin.readline(); print(len(bytearray(256 << 20)))"


def fake_proc(root: Path, cgroup: str, files: dict[str, str]) -> MemoryWatch:
    """Return a watch of process 7, which is in a control group, on a system with these files."""
    for name, text in {"proc/7/cgroup": cgroup, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return MemoryWatch(7, proc=root / "proc", groups=root / "groups")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts")
@pytest.mark.parametrize(
    ("cgroup", "counter", "text"),
    [
        ("0::/box\n", "groups/box/memory.events", "low 0\noom 1\noom_kill {}\noom_group_kill 0\n"),
        ("4:memory:/box\n0::/\n", "groups/memory/box/memory.oom_control", "oom_kill_disable 0\noom_kill {}\n"),
        ("0::/\n", "proc/vmstat", "nr_free_pages 7\noom_kill {}\n"),
    ],
)
def test_a_kill_for_memory_is_recognized_by_the_kernels_count(
    cgroup: str, counter: str, text: str, tmp_path: Path
) -> None:
    watch = fake_proc(tmp_path, cgroup, {counter: text.format(3)})
    watch.look()
    assert watch.was_killed() is False
    (tmp_path / counter).write_text(text.format(4))
    assert watch.was_killed() is True
    watch.look()
    assert watch.was_killed() is True  # the process takes a while to end, and is looked at meanwhile
    watch.look()
    assert watch.was_killed() is False


def test_a_kernel_that_does_not_count(tmp_path: Path) -> None:
    watch = fake_proc(tmp_path, "0::/\n", {"proc/vmstat": "nr_free_pages 7\n"})
    assert watch.was_killed() is None


def test_the_figures_are_of_the_containers_limit(tmp_path: Path) -> None:
    files = {"groups/box/memory.max": str(8 << 30), "groups/box/memory.current": "1", "proc/vmstat": "oom_kill 0\n"}
    watch = fake_proc(tmp_path, "0::/box\n", files)
    watch.peak = int(7.9 * 2**30)
    assert watch.figures == "7.9 of 8.0 GiB"


def test_memory_of_children_counts() -> None:
    assert used_by(os.getpid()) >= psutil.Process().memory_info().rss * 0.5
    assert used_by(2**22 + 1) == 0  # no such process


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or V2.exists() or not V1.is_dir(), reason="needs its own control group")
def test_a_process_that_the_kernel_kills_for_memory() -> None:
    group = V1 / f"swarmctl-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(64 << 20))
        process = subprocess.Popen([sys.executable, "-c", HOG], stdin=subprocess.PIPE)
        (group / "cgroup.procs").write_text(str(process.pid))
        watch = MemoryWatch(process.pid)
        assert watch.limit == 64 << 20
        process.communicate(b"\n")
        assert process.returncode == -signal.SIGKILL
        assert watch.was_killed() is True
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
