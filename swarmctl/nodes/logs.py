"""``swarmctl logs``: print what a node did, as sentences, as events, or as its trainer's output."""

import json
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from hivemind_exp import event_files
from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import UsageError
from swarmctl.nodes.lookup import existing_or_latest
from swarmctl.storage import node_lock as locks
from swarmctl.storage.event_log import EventReader
from swarmctl.storage.followed_file import FollowedFile
from swarmctl.terminal import sentences
from swarmctl.terminal.event_sentences import EventSentences
from swarmctl.terminal.options import Level
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.safe_text import clean, encodable, one_line
from swarmctl.terminal.sentences import ending
from swarmctl.terminal.streams import width_of
from swarmctl.terminal.views import Writer

POLL_S = 0.25
BLOCK = 1 << 16
_TIME = len("2026-11-28 14:05:00  ")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str, now: datetime) -> float:
    """Return the Unix time of ``30m``, ``2h``, ``14:05`` or ``2026-11-28T14:05``. Raises UsageError."""
    if span := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return (now - timedelta(**{_UNITS[span[2]]: int(span[1])})).timestamp()
    try:
        if re.fullmatch(r"\d\d?:\d\d", text):
            hour, minute = map(int, text.split(":"))
            at = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
            return (at if at <= now else at - timedelta(days=1)).timestamp()
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise UsageError(
            f"invalid --since: {text!r}. Use a time span such as 30m, 2h or 1d, or a time such as 14:05 or "
            "2026-11-28T14:05",
            next="swarmctl logs --help",
        ) from None


def print_log(node: str | None, *, lines: int, follow: bool, since: str | None, level: Level, as_json: bool) -> None:
    """Print what a node did: the last ``lines`` sentences or events, then new ones if asked.

    Raises ConfigurationError if there is no such node, and UsageError for an invalid ``since``.
    """
    files = existing_or_latest(node)
    start = moment(since, datetime.now().astimezone()) if since is not None else 0.0
    show = _as_json if as_json else _Sentences()
    printed = _unchanged if as_json else _folded
    reader = EventReader(files.events, whole=True)
    found = deque(_shown(reader(), show, start, level), maxlen=lines if since is None else None)
    if not event_files.exists(files.events):
        Writer(sys.stderr)(f"Node {files.root.name} has no log yet: it has never run.")
    elif not found and lines and not follow:
        Writer(sys.stderr)(f"No matching lines in the log of node {files.root.name}.")
    for text in found:
        print(printed(text), flush=follow)
    watch = _RunWatch(files)
    while follow:
        watch.look()
        for text in _shown(reader(), show, start, level):
            print(printed(text), flush=True)
        watch.report()
        time.sleep(POLL_S)


class _RunWatch:
    """Says on stderr when the node whose log is followed does not run, as one that was killed logs nothing."""

    def __init__(self, files: NodeFiles) -> None:
        self._files = files
        self._running = self._ran = True

    def look(self) -> None:
        """See whether the node runs. What it logged before it ended can be read afterwards."""
        self._running = locks.is_held(self._files.lock)

    def report(self) -> None:
        """Say that the node does not run, unless it was said since it last ran."""
        if self._ran and not self._running:
            Writer(sys.stderr)(
                f"Node {self._files.root.name} is not running. Its next run will be shown here. To leave, press Ctrl-C."
            )
        self._ran = self._running


def _unchanged(text: str) -> str:
    return text


def _folded(text: str) -> str:
    """Return a sentence, wrapped on a terminal, below its beginning if there is room."""
    wide = (width_of(sys.stdout) or 0) >= 3 * _TIME
    return encodable(Writer(sys.stdout).folded(text, " " * (_TIME if wide else 4)), sys.stdout.encoding)


def _shown(
    events: Iterator[dict[str, Any]], show: Callable[[dict[str, Any]], str | None], start: float, level: Level
) -> Iterator[str]:
    for event in events:
        text = show(event)  # even for events that are left out, because sentences use values from earlier events
        severe = list(Level).index(sentences.level(event)) >= list(Level).index(level)
        if text is not None and event["t"] >= start and severe:
            yield text


def _as_json(event: dict[str, Any]) -> str:
    return clean(json.dumps(event, ensure_ascii=False))


class _Sentences:
    """Events as sentences with their local time."""

    def __init__(self) -> None:
        self._progress = RunView()
        # Without the speed, most lines fit into 100 columns.
        self._sentences = EventSentences(verbose=True, speed=False)

    def __call__(self, event: dict[str, Any]) -> str | None:
        self._progress.apply(event)
        stop = self._progress.stop if event["event"] == "stop" else None
        text = ending(stop or event) or self._sentences.sentence(event, self._progress)
        if text is None:
            return None
        home = str(Path.home())
        text = text if home == "/" else text.replace(f"{home}/", "~/")
        at = datetime.fromtimestamp(event["t"]).astimezone()
        return one_line(f"{at:%Y-%m-%d %H:%M:%S}  {text}")


def print_trainer_output(node: str | None, *, lines: int, follow: bool) -> None:
    """Print the end of what the trainer and its libraries wrote. Raises ConfigurationError if there is no such node."""
    files = existing_or_latest(node)
    path = files.log
    followed = FollowedFile(path)
    if not followed.start:
        Writer(sys.stderr)(f"The trainer of node {files.root.name} has printed nothing yet.")
    for line in last_lines(path, followed.start, lines):
        print(clean(line))
    watch = _RunWatch(files)
    while follow:
        watch.look()
        while data := followed.read(BLOCK):
            print(clean(data.decode(errors="replace")), end="", flush=True)
        watch.report()
        time.sleep(POLL_S)


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
