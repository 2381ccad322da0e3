"""Serve a report on this machine only. Every request reads what the nodes have written since the last one."""

import errno
import json
import shlex
import sys
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hivemind_exp.errors import ConfigurationError, NodeError
from swarmctl.errors import Exit, without_typed_keys
from swarmctl.report.browser import open_in_browser
from swarmctl.report.page.build import page, policy
from swarmctl.report.report_data import PageData
from swarmctl.terminal.interrupting import end_line, how_to
from swarmctl.terminal.views import Writer

HOST = "127.0.0.1"
_FRESH_S = 1.0
"""Seconds for which an answer is used again, at least."""
_BUSY = 0.1
"""Share of the time that may be spent on reading. A long history takes seconds, and the node needs the processor."""
_SLOW_CLIENT_S = 20.0


class CachedData:
    """Reads the report for requests, one at a time."""

    def __init__(self, report: PageData) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._data: dict[str, Any] = {}
        self._due = float("-inf")

    def __call__(self) -> dict[str, Any]:
        """Raises ``NodeError``."""
        with self._lock:
            began = time.monotonic()
            if began >= self._due:
                self._data = self._report.read()
                took = time.monotonic() - began
                self._due = began + took + max(_FRESH_S, took * (1 / _BUSY - 1))
            return self._data


def serve(report: PageData, port: int, *, opens: bool) -> Exit:
    """Serve the report until Ctrl-C. Port 0 chooses a free one. Raises ConfigurationError if the port is taken."""
    source = CachedData(report)
    source()  # an error is reported here rather than on the page
    try:
        server = ThreadingHTTPServer((HOST, port), handler(source))
    except OSError as error:
        raise _unavailable(report, port, error) from error
    server.daemon_threads = True
    address = f"http://{HOST}:{server.server_port}/"
    say = Writer(sys.stderr)
    print(address, flush=True)
    say(f"Only this machine can open this address. The page is refreshed while nodes train. {how_to('stop')}")
    if opens and not open_in_browser(address):
        say("warning: found no browser to open it with.")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        end_line()
        say("Stopped.")
    finally:
        server.server_close()
    return Exit.INTERRUPTED


def _unavailable(report: PageData, port: int, error: OSError) -> ConfigurationError:
    again = ["swarmctl", "report", *(files.root.name for files in report.nodes), "--serve"]
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(f"port {port} is already in use", next=shlex.join(again))
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"port {port} needs administrator rights", next=shlex.join([*again, "--port", "8080"])
        )
    return ConfigurationError(f"cannot listen on port {port}: {error.strerror}", next=shlex.join(again))


def handler(source: Callable[[], dict[str, Any]]) -> type[BaseHTTPRequestHandler]:
    """Return a handler that answers ``/`` with the page and ``/data.json`` with its data."""

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "swarmctl", ""
        timeout = _SLOW_CLIENT_S

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            status, kind, text = self._found()
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", f"{policy(live=True)}; frame-ancestors 'none'")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Cross-Origin-Resource-Policy", "same-origin")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def _found(self) -> tuple[HTTPStatus, str, str]:
            if not self._is_for_us():
                return HTTPStatus.FORBIDDEN, "text/plain", "This page is only for this machine.\n"
            path = self.path.partition("?")[0]
            if path not in ("/", "/data.json"):
                return HTTPStatus.NOT_FOUND, "text/plain", "There is only /, the report, and /data.json.\n"
            try:
                data = source()
            except NodeError as error:
                return HTTPStatus.SERVICE_UNAVAILABLE, "text/plain", f"{without_typed_keys(error.message)}\n"
            if path == "/data.json":
                return HTTPStatus.OK, "application/json", json.dumps({"schema": 1, **data}) + "\n"
            return HTTPStatus.OK, "text/html", page(data, live=True)

        def _is_for_us(self) -> bool:
            """Whether the request is for this machine by name.

            A site can let its own name resolve to 127.0.0.1 (DNS rebinding), and would then read the answer as its own.
            Its name is in the ``Host`` header.
            """
            hosts = self.headers.get_all("Host") or []
            return len(hosts) == 1 and hosts[0].lower() in {
                f"{name}:{self.server.server_port}"  # type: ignore[attr-defined]
                for name in (HOST, "localhost")
            }

        def log_message(self, format: str, *arguments: object) -> None:
            """Log nothing: the terminal is for people."""

    return Handler
