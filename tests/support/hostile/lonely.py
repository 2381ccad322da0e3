"""Run a node in a separate process: print its address and wait to be killed. Argument: the directory for ``Peers``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.support.hostile.wire import Peers

if __name__ == "__main__":
    print(*Peers(Path(sys.argv[1])).start("first").addresses(), flush=True)
    time.sleep(600)
