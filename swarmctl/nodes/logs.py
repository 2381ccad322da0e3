"""``swarmctl logs``: print the end of a node's log, or of its events."""

import time
from pathlib import Path

from swarmctl.nodes.lookup import existing_or_latest
from swarmctl.storage.followed_file import FollowedFile
from swarmctl.terminal.safe_text import clean

POLL_S = 0.25
BLOCK = 1 << 16


def print_log(node: str | None, *, lines: int, follow: bool, events: bool) -> None:
    """Print the last ``lines`` lines, then follow if asked. Raises ConfigurationError if there is no such node."""
    files = existing_or_latest(node)
    path = files.events if events else files.log
    followed = FollowedFile(path)
    for line in last_lines(path, followed.start, lines):
        print(clean(line))
    while follow:
        time.sleep(POLL_S)
        while data := followed.read(BLOCK):
            print(clean(data.decode(errors="replace")), end="", flush=True)


def last_lines(path: Path, end: int, count: int) -> list[str]:
    """Return the last ``count`` lines before byte ``end``, reading only as much of the file as needed."""
    if count == 0 or end == 0:
        return []
    data = b""
    with path.open("rb") as file:
        start = end
        while start > 0 and data.count(b"\n") <= count:
            start = max(0, start - BLOCK)
            file.seek(start)
            data = file.read(end - start)
    return data.decode(errors="replace").splitlines()[-count:]
