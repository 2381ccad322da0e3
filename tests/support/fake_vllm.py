"""A stand-in for the program ``vllm``: it writes down how it was started, and answers ``/health``.

Files in the directory ``$FAKE_VLLM``: ``PID.json`` for each start; the first server has the version of its weights from
``version``, if that exists. ``$FAKE_VLLM_ACT``: "loads" never answers, "fails"
prints an error of vLLM 0.32 and ends; otherwise it answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    version = "default"

    def do_GET(self) -> None:
        self.send_response(200 if self.path in ("/health", "/model_info") else 404)
        self.end_headers()
        if self.path == "/model_info":
            self.wfile.write(json.dumps({"weight_version": self.version}).encode())


def main() -> None:
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])  # as vLLM has an engine process
    record = {"arguments": sys.argv[1:], "environment": dict(os.environ), "worker": worker.pid}
    path = Path(os.environ["FAKE_VLLM"], f"{os.getpid()}.json")
    version = path.with_name("version")
    if version.exists() and not list(path.parent.glob("*.json")):
        Handler.version = version.read_text()
    path.with_suffix(".new").write_text(json.dumps(record))
    path.with_suffix(".new").replace(path)
    match os.environ.get("FAKE_VLLM_ACT"):
        case "loads":
            time.sleep(600)
        case "fails":
            sys.exit("ValueError: No available memory for the cache blocks.")
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
