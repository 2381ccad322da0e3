"""A report that is served by a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer

from hivemind_exp.node_files import NodeFiles
from swarmctl.report import server
from swarmctl.report.report_data import PageData


@contextmanager
def served(files: NodeFiles) -> Iterator[int]:
    """Serve a node's report in a thread and yield the port."""
    listening = ThreadingHTTPServer((server.HOST, 0), server.handler(server.CachedData(PageData([files], 4))))
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
