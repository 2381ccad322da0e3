"""``report --serve``: only for this machine, always the latest numbers, and a clean end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
from contextlib import closing
from typing import Any

import pytest

from swarmctl.errors import Exit
from swarmctl.report import server
from swarmctl.report.report_data import PageData
from swarmctl.terminal.interrupting import how_to
from tests.support.command_line import ROOT, SWARMCTL, run_process, told
from tests.support.patience import finish, wait_for_end
from tests.support.report_server import served
from tests.support.reported_nodes import reported_node, write_events


def asked(port: int, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()


def test_the_page_and_its_data_are_the_latest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_FRESH_S", 0.0)
    monkeypatch.setattr(server, "_BUSY", 1.0)
    files = reported_node(rounds=3)
    with served(files) as port:
        status, headers, page = asked(port)
        assert status == 200
        assert headers["Cache-Control"] == "no-store"
        assert "script-src 'sha256-" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert 'data-refresh="5"' in page
        rounds = [json.loads(asked(port, "/data.json")[2])["nodes"][0]["time"]["rounds"]]
        write_events(files, 2, first=3)
        rounds.append(json.loads(asked(port, "/data.json")[2])["nodes"][0]["time"]["rounds"])
        assert rounds == [3, 5]
        assert asked(port, "/", "HEAD")[::2] == (200, "")
        assert asked(port, "/../etc/passwd")[0] == 404
        assert asked(port, "/", "POST")[0] == 501
        files.journal.write_bytes(b"no database" * 100)
        status, _, text = asked(port)
        assert status == 503
        assert text.startswith("cannot read ")


def test_reading_a_long_history_leaves_most_of_the_time_to_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    now, reads = [0.0], list[float]()

    class Slow(PageData):
        def read(self) -> dict[str, Any]:
            reads.append(now[0])
            now[0] += 3.0
            return {}

    monkeypatch.setattr(server.time, "monotonic", lambda: now[0])
    source = server.CachedData(Slow([], 0))
    while now[0] < 100:
        source()
        now[0] += 0.5
    assert reads == [0.0, 30.0, 60.0, 90.0]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.1"])
def test_a_site_whose_name_leads_here_reads_nothing(host: str) -> None:
    with served(reported_node(rounds=1)) as port:
        for path in ("/", "/data.json"):
            status, _, text = asked(port, path, Host=host.format(port=port))
            assert status == 403
            assert "maths" not in text
        assert asked(port, Host=f"localhost:{port}")[0] == 200


@pytest.mark.slow
def test_it_listens_on_this_machine_only_and_ends_cleanly_with_ctrl_c() -> None:
    reported_node(rounds=1)
    command = [*SWARMCTL, "report", "maths", "--serve"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "cwd": ROOT}
    with subprocess.Popen(command, **options) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        port = int(address.removeprefix("http://127.0.0.1:").removesuffix("/"))
        assert asked(port)[0] == 200
        taken = run_process([*SWARMCTL, "report", "--serve", str(port), "maths"])
        assert taken.returncode == Exit.CONFIGURATION
        cause, following = told(taken)
        assert cause == f"error: port {port} is already in use"
        assert following.endswith("swarmctl report maths --serve")
        for other in _addresses():
            with pytest.raises(OSError), socket.create_connection((other, port), timeout=2):  # noqa: PT011
                pass
        os.kill(process.pid, signal.SIGINT)
        _, said = finish(process, 20)
    assert process.returncode == Exit.INTERRUPTED
    assert said.endswith("Stopped.\n")
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_background_job_says_how_to_stop_it() -> None:
    """The shell makes a script's background job ignore SIGINT."""
    reported_node(rounds=1)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8", "cwd": ROOT}
    try:
        process = subprocess.Popen([*SWARMCTL, "report", "maths", "--serve"], **options)  # inherits it
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        line = process.stderr.readline()
        assert "Ctrl-C does not reach it" in line
        subprocess.run(["sh", "-c", line.partition("To stop: ")[2]], check=True)
        assert wait_for_end(process, 20) == -signal.SIGTERM


def test_other_jobs_are_stopped_with_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.default_int_handler)
    assert how_to("leave") == "To leave, press Ctrl-C."


def _addresses() -> list[str]:
    """Return an address of this machine other than the usual loopback one, to which a wider server would listen."""
    return ["127.0.0.2"] if os.uname().sysname == "Linux" else []
