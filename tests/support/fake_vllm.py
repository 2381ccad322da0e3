"""A stand-in for the program ``vllm``: it writes down how it was started, and answers ``/health``.

Files in the directory ``$FAKE_VLLM``: ``PID.json`` for each start; the first server has the version of its weights from
``version``, if that exists. ``$FAKE_VLLM_ACT``: "loads" never answers; a name of ``ERRORS`` prints an error of vLLM
0.32 and ends; otherwise it answers.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ERRORS = {
    "fails": "ValueError: No available memory for the cache blocks.",
    "too long": "  Value error, User-specified max_model_len (1216) is greater than the derived max_model_len "
    "(max_position_embeddings=512.0 or model_max_length=None in model's config.json).",
    "unknown": "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n  Value error, odd. "
    "[type=value_error]\n    For further information visit https://errors.pydantic.dev/2.14/v/value_error",
}


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
    act = os.environ.get("FAKE_VLLM_ACT", "")
    if act == "loads":
        time.sleep(600)
    if act in ERRORS:
        sys.exit(ERRORS[act])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
