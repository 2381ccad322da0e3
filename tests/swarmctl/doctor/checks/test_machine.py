"""The machine checks against real limits: a full disk, few open files, a wrong clock."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from swarmctl.doctor.check import Status
from swarmctl.doctor.checks import fit, hub, machine
from swarmctl.keys.http_client import Unanswered
from tests.support.command_line import ROOT
from tests.support.doctor import DEAD, make, reply, serve
from tests.support.full_disk import mounted_disk


def test_memory_is_compared_with_what_the_profile_needs(tmp_path: Path) -> None:
    found = machine.memory(make("demo"))
    assert found.status in (Status.OK, Status.WARNING)
    assert "a run needs about 3.2 GiB: 205 MiB for training (see fit.memory), and 3.0 GiB for PyTorch" in found.text
    # The same figures: what a reader sees in one check, the other one explains.
    fits = fit.memory(make("demo")).text
    assert "needs about 205 MiB for prompts of maximum length" in fits
    assert "available (this machine's memory minus 3.0 GiB for PyTorch and the node's other processes)" in fits
    huge = {"model_type": "llama", "vocab_size": 128256, "hidden_size": 16384, "intermediate_size": 53248}
    huge |= {"num_hidden_layers": 126, "num_attention_heads": 128, "num_key_value_heads": 8}
    (tmp_path / "config.json").write_text(json.dumps(huge))
    found = machine.memory(make("default", f"model.name={tmp_path}", "model.device=cpu"))
    assert found.status is Status.FAILED
    assert found.remedy


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path, "256k") as place:
        yield place


def test_a_disk_too_small_for_the_checkpoints_fails(small_disk: Path) -> None:
    assert machine.disk(make("demo")).status is Status.OK
    (small_disk / "filler").write_bytes(b"x" * 200_000)
    found = machine.disk(make("demo", nodes=small_disk / "nodes"))
    assert found.status is Status.FAILED
    assert "3 checkpoints plus a new one take 11 MiB" in found.text
    assert subprocess.run(found.remedy or "false", shell=True, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_low_open_file_limit_is_a_warning_with_a_working_remedy(home: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (soft >= machine.DESCRIPTORS) == (machine.descriptors(make()).status is Status.OK)
    command = f"{sys.executable} -m swarmctl doctor machine.files -p demo --json"
    low = subprocess.run(
        f"ulimit -S -n 200; {command}", shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    )
    row = json.loads(low.stdout)["checks"][0]
    assert row["status"] == "warning"
    assert "only 200 open files" in row["finding"]
    if hard >= 4096:
        cured = f"ulimit -S -n 200; {row['remedy']}; {command}"
        high = subprocess.run(cured, shell=True, cwd=ROOT, capture_output=True, text=True, check=True)
        assert json.loads(high.stdout)["checks"][0]["status"] == "ok"


def test_idle_or_excess_threads_are_a_warning() -> None:
    assert machine.threads(make("demo")).status is Status.OK
    many = (os.cpu_count() or 1) + 1
    found = machine.threads(make("demo", f"model.threads={many}"))
    assert found.status is Status.WARNING
    assert "--set model.threads=" in (found.remedy or "")
    idle = machine.threads(make("cpu", environment={"OMP_NUM_THREADS": "1"}))
    assert idle.status is (Status.WARNING if len(os.sched_getaffinity(0)) > 1 else Status.OK)


@pytest.mark.parametrize(
    ("kernel", "status"),
    [
        ("6.8.0-45-generic", Status.OK),
        ("5.15.153.1-microsoft-standard-WSL2", Status.OK),
        ("4.4.0-19041-Microsoft", Status.FAILED),
    ],
)
def test_wsl_1_is_distinguished_from_wsl_2(tmp_path: Path, kernel: str, status: Status) -> None:
    (tmp_path / "osrelease").write_text(kernel + "\n")
    assert machine.wsl(make(), tmp_path / "osrelease").status is status
    assert machine.wsl(make(), tmp_path / "absent").status is Status.SKIPPED


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("Ubuntu", "wsl.exe --set-version Ubuntu 2"), ("", "wsl.exe --list --verbose")],
)
def test_wsl_1_is_converted(tmp_path: Path, name: str, remedy: str) -> None:
    (tmp_path / "osrelease").write_text("4.4.0-19041-Microsoft\n")
    context = make(environment={"WSL_DISTRO_NAME": name})
    assert machine.wsl(context, tmp_path / "osrelease").remedy == remedy


def test_clock_is_compared_with_the_hub() -> None:
    with serve(reply(200)) as address:
        found = machine.clock(make(environment={"HF_ENDPOINT": address}))
    assert found.status is Status.OK
    late = formatdate(time.time() - 600, usegmt=True)
    with serve(reply(200, Date=late)) as address:
        found = machine.clock(make(environment={"HF_ENDPOINT": address}))
    assert found.status is Status.WARNING
    assert "ahead of the hub's clock; peers reject differences above 3 s" in found.text
    assert found.remedy


def test_without_a_hub_the_clock_check_asks_the_kernel() -> None:
    expected = Status.OK if machine.synchronised() else Status.SKIPPED
    assert machine.clock(make(offline=True)).status is expected
    found = machine.clock(make(environment={"HF_ENDPOINT": DEAD}))
    assert found.status is expected
    with serve(reply(200, Date="yesterday")) as address:
        assert machine.clock(make(environment={"HF_ENDPOINT": address})).status is expected


def test_token_is_not_sent_to_another_host() -> None:
    seen: list[str | None] = []

    with serve(lambda handler: (seen.append(handler.headers["Authorization"]), reply(200)(handler))[1]) as other:
        with serve(reply(307, Location=other + "/stolen")) as address:
            assert hub.ask_hub("GET", address + "/x", token="secret").status == 307
    assert seen == []


def test_a_redirect_within_the_host_is_followed() -> None:
    def answer(handler: object) -> None:
        path = handler.path  # type: ignore[attr-defined]
        reply(200)(handler) if path == "/there" else reply(307, Location="/there")(handler)  # type: ignore[arg-type]

    with serve(answer) as address:
        assert hub.ask_hub("GET", address + "/here", token="secret").status == 200


def test_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "SECONDS", 0.3)
    with serve(lambda _: time.sleep(3)) as address, pytest.raises(Unanswered, match="no response within"):
        hub.ask_hub("GET", address)
    with pytest.raises(Unanswered, match="refused"):
        hub.ask_hub("GET", DEAD)
    with pytest.raises(Unanswered):
        hub.ask_hub("GET", "ftp://127.0.0.1/")
    with pytest.raises(Unanswered):
        hub.ask_hub("GET", "nonsense")
