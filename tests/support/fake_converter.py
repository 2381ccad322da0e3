"""Stands in for llama.cpp's converter: writes a line per start to a log, then does what a file beside it says."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def main() -> None:
    """Convert ``argv[1]`` to ``--outfile``, or fail as the file ``act`` in ``$FAKE_CONVERTER`` says."""
    place = Path(os.environ["FAKE_CONVERTER"])
    act = (place / "act").read_text()
    if "--help" in sys.argv:
        sys.exit("ModuleNotFoundError: No module named 'gguf'" if act == "broken" else 0)
    source, target = Path(sys.argv[1]), Path(sys.argv[sys.argv.index("--outfile") + 1])
    files = {each.name: each.read_text() if each.suffix == ".json" else "" for each in source.iterdir()}
    more = [word for word in sys.argv[2:] if word not in ("--outfile", str(target))]
    with (place / "log").open("a") as log:
        log.write(json.dumps({"files": files, "options": more}) + "\n")
    if act.startswith("say "):
        sys.exit(act.removeprefix("say "))
    if act == "interrupt":
        target.write_text("half a file")
        os.kill(os.getppid(), signal.SIGINT)
        signal.pause()
    if act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    target.write_bytes(b"GGUF" + bytes(2**22 if act == "large" else 0))
    print("thousands of lines")


if __name__ == "__main__":
    main()
