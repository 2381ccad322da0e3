"""The limits of a container are found, wherever in the tree of control groups they are set."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind_exp import control_group
from hivemind_exp.control_group import container_memory, usable_cores, usable_physical_cores


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/box\n", {"box/memory.max": "1073741824", "box/memory.current": "4096"}, (1073741824, 4096)),
        ("0::/box\n", {"memory.max": "1048576", "memory.current": "1"}, (1048576, 1)),
        ("0::/\n", {"memory.max": "max", "memory.current": "1"}, (None, 0)),
        (
            "4:memory:/box\n",
            {"memory/box/memory.limit_in_bytes": "2097152", "memory/box/memory.usage_in_bytes": "2"},
            (2097152, 2),
        ),
        (
            "4:memory:/\n",
            {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "2"},
            (None, 0),
        ),
        (  # a limit of a parent that leaves less room than the group's own
            "0::/slice/box\n",
            {
                "slice/box/memory.max": "4096",
                "slice/box/memory.current": "1",
                "slice/memory.max": "8192",
                "slice/memory.current": "7000",
            },
            (8192, 7000),
        ),
        (  # files in the cache
            "0::/box\n",
            {
                "box/memory.max": "8192",
                "box/memory.current": "7000",
                "box/memory.stat": "anon 500\ninactive_file 6000\n",
            },
            (8192, 1000),
        ),
    ],
)
def test_container_memory_limit_is_found(
    tmp_path: Path, own: str, files: dict[str, str], expected: tuple[int | None, int]
) -> None:
    write(tmp_path, own, files)
    assert container_memory(tmp_path / "cgroup", tmp_path / "self") == expected
    assert container_memory(tmp_path / "nowhere", tmp_path / "absent") == (None, 0)


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        ("0::/box\n", {"box/cpu.max": "max 100000"}, 8),
        ("0::/box\n", {"box/cpu.max": "250000 100000"}, 3),
        ("0::/slice/box\n", {"slice/box/cpu.max": "max 100000", "slice/cpu.max": "50000 100000"}, 1),
        ("3:cpu,cpuacct:/box\n", {"cpu/box/cpu.cfs_quota_us": "200000", "cpu/box/cpu.cfs_period_us": "100000"}, 2),
        ("3:cpu,cpuacct:/box\n", {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_limits_on_cpu_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(control_group, "_processors", lambda: set(range(8)))
    write(tmp_path, own, files)
    assert usable_cores(tmp_path / "cgroup", tmp_path / "self") == expected


def test_two_threads_of_a_core_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_group, "_processors", lambda: set(range(8)))
    write(tmp_path, "0::/\n", {})
    for number in range(8):
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 4},{number % 4 + 4}\n")
    assert usable_physical_cores(tmp_path / "cgroup", tmp_path / "self", tmp_path) == 4


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux can restrict a process to some processors")
def test_a_model_gets_no_more_threads_than_the_processors_it_may_use() -> None:
    program = (
        "import os, torch\n"
        "from hivemind_exp.config import ModelConfig\n"
        "from hivemind_exp.models.device import use_threads\n"
        "os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])\n"
        "use_threads(ModelConfig(name='some/model'))\n"
        "print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def write(place: Path, own: str, files: dict[str, str]) -> None:
    """Write a process's group and a tree of control groups, as the kernel shows them."""
    (place / "self").write_text(own)
    for name, text in files.items():
        path = place / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
