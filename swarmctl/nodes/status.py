"""``swarmctl status``. Only reads files, so it returns immediately and does not affect running nodes."""

import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

from hivemind_exp import event_files
from hivemind_exp.errors import NewerFormat, SwarmError
from hivemind_exp.intervals import in_percent
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.run_record import read_record
from swarmctl.errors import Exit, without_typed_keys
from swarmctl.nodes.frozen import frozen
from swarmctl.nodes.history import journal_size, last_active, past_evaluations, rounds_finished
from swarmctl.nodes.lookup import check_node_format, no_node_yet, short_id, some_or_all
from swarmctl.nodes.state import WORKING, NodeState, ended_state, running_state
from swarmctl.storage import node_lock as locks
from swarmctl.storage.event_log import all_of, recent
from swarmctl.storage.json_file import read_json, rfc3339
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.progress import AS_JUDGE, RunView
from swarmctl.terminal.safe_text import encodable, without_keys
from swarmctl.terminal.sentences import asked, drop, duration, gain, outages, seconds_left, several, size, spending
from swarmctl.terminal.streams import can_draw
from swarmctl.terminal.table import or_dash, table_lines
from swarmctl.terminal.views import Writer

_ELSEWHERE = "runs in a container or on another machine"
LOST = "its supervisor was killed, so its trainer saves and stops"
_HEADINGS = (
    *("node", "state", "round", "accuracy", "per round", "left", "spent", "peers", "from peers", "swarm", "up"),
    "journal",
)
_NARROW = (*("journal", "swarm", "up", "from peers", "per round", "left", "peers", "spent", "accuracy", "round"),)
"""Columns that a narrow terminal does without, the first to go first."""
_ROOMY = 80
"""Columns of a terminal on which accuracies have intervals."""
_OF_SOMETHING = ("waiting", "loading", "pushing", "generating", "training")
"""Phases whose names end in what they are for: a service, a model, a repository."""
_COMMAND = "  try: "
_WATCH_S = 2.0
_POLL_S = 0.1
"""Seconds until Ctrl-Z has an effect."""


def print_status(names: Sequence[str], *, as_json: bool) -> None:
    """Print the state of the named nodes, or of all. Raises ConfigurationError if one does not exist."""
    if as_json:
        print_json(nodes=[_describe(files)[0] for files in some_or_all(names)])
        return
    for line in _lines(names):
        print(encodable(line, sys.stdout.encoding))


def state_of(files: NodeFiles) -> dict[str, Any]:
    """Return a node's state as ``status --json`` prints it."""
    return _describe(files)[0]


def watch_status(names: Sequence[str]) -> Exit:
    """Show the state every few seconds, until Ctrl-C. On a terminal it is redrawn, elsewhere it is printed again.

    Raises ConfigurationError.
    """
    with suppress(KeyboardInterrupt):
        if can_draw(sys.stdout, os.environ):
            _redraw(names)
        _print_repeatedly(names)
    return Exit.INTERRUPTED


def _print_repeatedly(names: Sequence[str]) -> NoReturn:
    from swarmctl.terminal.interrupting import end_line

    try:
        while True:
            print_status(names, as_json=False)
            print(flush=True)
            time.sleep(_WATCH_S)
    except KeyboardInterrupt:
        end_line()
        raise


def _redraw(names: Sequence[str]) -> NoReturn:
    from rich.text import Text

    from swarmctl.terminal.interrupting import how_to
    from swarmctl.terminal.redrawn import Redrawn

    with Redrawn(sys.stdout, erased=False) as lines:
        while True:
            shown = [part for line in _lines(names) for part in _split(line, lines.width)]
            lines.draw(Text("\n".join([*shown, "", how_to("leave")]), no_wrap=True, overflow="crop"))
            drawn = time.monotonic()
            while not lines.was_interrupted() and time.monotonic() - drawn < _WATCH_S:
                time.sleep(_POLL_S)


def _split(line: str, width: int) -> list[str]:
    """Split a command that is longer than a row of the terminal, as the terminal would; other lines are cut."""
    if not line.startswith(_COMMAND):
        return [line]
    return [line[place : place + width] for place in range(0, len(line), width)]


def _lines(names: Sequence[str]) -> list[str]:
    found = [(files, *_describe(files)) for files in some_or_all(names)]
    folded = Writer(sys.stdout).folded
    if not found:
        return [folded(no_node_yet())]
    roomy = not sys.stdout.isatty() or shutil.get_terminal_size().columns >= _ROOMY
    rows = [_cells(row, progress, _swarm(files, row["swarm"]), intervals=roomy) for files, row, progress in found]
    lines = table_lines(rows, _HEADINGS, droppable=_NARROW)
    totals = {"spent": "usd_total", "from peers": "groups_from_peers"}
    totals = {name: key for name, key in totals.items() if name.upper() in lines[0].upper()}
    if counted := [name for name, key in totals.items() if any(row["running"] and row[key] for _, row, _ in found)]:
        lines.append(folded(f"Counted over all of a node's runs: {', '.join(counted)}."))
    for _, row, progress in found:
        if row["curriculum"]:
            lines.append(folded(f"{row['node']}: the questions are {', '.join(asked(row['curriculum']))}", "  "))
        lines += [folded(f"{row['node']}: {text}", "  ") for text in _problems(row, progress)]
        following = progress.error.get("next") if row["error"] and progress.error else None
        if following:
            lines.append(f"{_COMMAND}{without_typed_keys(typed(str(following)))}")
    return lines


def _describe(files: NodeFiles) -> tuple[dict[str, Any], RunView]:
    """Return what is known about a node, and its events so far. Unknown values are None."""
    progress = RunView()
    for event in past_evaluations(files):
        progress.apply(event)
    # These events are rare, and so may not be among the recent ones.
    unverified = 0 if event_files.exists(files.events) else None
    for event in all_of(files.events, "curriculum", "eval", "peers", "start", "offload", "warning", "workers"):
        if event["event"] != "workers":
            progress.apply(event)
        elif unverified is not None:
            unverified += event.get("unverified") or 0
    for event in recent(files.events):
        progress.apply(event)
    if (record := read_record(files.run)) is not None:  # a node from before there were records has only the log
        progress.start, progress.error, progress.stop = progress.start or record.start, None, None
        for event in filter(None, (record.error, record.stop)):
            progress.apply(event)
    if progress.round is None:
        progress.round = rounds_finished(files)
    running = locks.is_held(files.lock)
    holder = locks.holder(files.lock) if running else {}
    config = (read_json(files.config) or {}).get("config") or {}
    error = None if running else progress.error
    stopped = list(frozen(holder.get("pid"), holder.get("trainer")))
    paused = any(pid == holder.get("trainer") for pid, _ in stopped)
    if running:
        state = running_state(holder, progress, paused=paused, in_swarm=files.charter.exists())
    else:
        state = ended_state(progress)
    doing = holder.get("doing") or {}
    detail = LOST if running and state is NodeState.DEAD else doing.get("detail")
    detail = _ELSEWHERE if detail is None and holder.get("elsewhere") else detail
    phase = str(progress.phase.get("name")) if running and progress.phase is not None else None
    progress.error = error = _newer(files) or error
    message = error.get("message") if error else None
    if message is not None:
        message = without_typed_keys(str(message))
    swarm = from_peers = None
    if files.charter.exists():
        from hivemind_exp.peers.records import FILE_NAME, read_peers

        swarm = (read_json(files.identity) or {}).get("swarm")
        from_peers = sum(record.used for record in read_peers(files.swarm / FILE_NAME).values())
    active = last_active(files)
    row = {
        "node": files.root.name,
        "state": str(state),
        "running": state.running,
        "detail": detail,
        "until": doing.get("until"),
        "restarts": holder.get("restarts") if running else None,
        "pid": holder.get("pid"),
        "since": holder.get("since"),
        "phase": phase,
        "model": without_keys((config.get("model") or {}).get("name")),
        "calibration": _calibration(files),
        "curriculum": progress.curriculum if (config.get("game") or {}).get("curriculum") else None,
        "round": progress.round,
        "rounds": (config.get("game") or {}).get("rounds") or None,
        "accuracy_before": progress.accuracy_before,
        "accuracy_after": progress.accuracy_after,
        "accuracy_interval": progress.interval,
        "accuracy_before_interval": progress.interval_before,
        "swarm": swarm,
        "peers": progress.peers if running else None,
        "groups_from_peers": from_peers,
        "share_seconds": progress.share_seconds,
        "round_seconds": progress.round_seconds,
        "tokens_per_second": progress.tokens_per_second,
        "source_grad_norms": progress.gradients or None,
        "nll": progress.nll or None,
        "reverse_kl": progress.reverse_kl,
        "seconds_left": seconds_left(progress) if running and not progress.starting else None,
        "usd_total": progress.usd_total,
        "usd_reserved": progress.usd_reserved if running else None,
        "usd_cap": progress.usd_cap,
        "provider_down": next((name.removeprefix(AS_JUDGE) for name in progress.down), None) if running else None,
        "journal_bytes": journal_size(files),
        "updated": None if active is None else rfc3339(active),
        "unverified": unverified,
        "stopped": [{"pid": pid, "message": text} for pid, text in stopped],
        "error": {"code": error.get("code"), "message": message} if error else None,
    }
    return row, progress


def _newer(files: NodeFiles) -> dict[str, Any] | None:
    """Return the error of a node that a newer version wrote, so that its state may be misread; None for others."""
    try:
        check_node_format(files)
    except NewerFormat as newer:
        return {"code": newer.code, "message": newer.message, "next": newer.next}
    return None


def _calibration(files: NodeFiles) -> dict[str, Any] | None:
    """Return how the node's model wants to be asked, and what it then achieves; None if that was never measured."""
    found = (read_json(files.prompt) or {}).get("found")
    return found if isinstance(found, dict) else None


def _swarm(files: NodeFiles, swarm: str | None) -> str | None:
    """Return a swarm's name and short id, or only the short id if the node's charter cannot be read."""
    if not swarm:
        return None
    from hivemind_exp.swarm.charter import LONGEST, Charter

    with suppress(OSError, SwarmError), files.charter.open("rb") as file:
        return f"{Charter.open(file.read(2 * LONGEST), swarm).name} ({short_id(swarm)})"
    return short_id(swarm)


def _cells(row: dict[str, Any], progress: RunView, swarm: str | None, *, intervals: bool) -> list[str]:
    of_rounds = f" of {row['rounds']}" if row["rounds"] else ""
    speed = progress.round_seconds if row["running"] else None
    accuracy = row["accuracy_before"]
    return [
        row["node"],
        _doing(row),
        "-" if row["round"] is None else f"{row['round']}{of_rounds}",
        "-" if accuracy is None else _accuracy(progress, interval=intervals),
        or_dash(speed, lambda seconds: duration(float(seconds))),
        or_dash(row["seconds_left"], duration),
        or_dash(spending(progress), str),
        or_dash(row["peers"]),
        or_dash(row["groups_from_peers"], lambda number: several(number, "group")),
        or_dash(swarm, str),
        or_dash(row["since"], _age),
        or_dash(row["journal_bytes"], size),
    ]


def _doing(row: dict[str, Any]) -> str:
    """Return a node's state; of one that works, rather the phase that it is in, such as ``evaluating``."""
    if row["state"] in WORKING and row["phase"] is not None:
        phase = str(row["phase"])
        # Without names, which may be long, so that there is room for the other columns.
        short = next((verb for verb in _OF_SOMETHING if phase.startswith(f"{verb} ")), phase)
        return short.partition(", ")[0]  # without what it counts
    return "first round" if row["state"] == NodeState.TRAINING and not row["round"] else str(row["state"])


def _accuracy(progress: RunView, *, interval: bool) -> str:
    """Return the accuracy before and after training, with the latest one's interval: ``25 % → 50 % (43–57)``."""
    text = gain(progress.accuracy_before or 0.0, progress.accuracy_after)
    if not interval or progress.latest_accuracy is None or not progress.questions:
        return text
    return f"{text} ({in_percent(progress.latest_accuracy, progress.questions)})"


def _age(since: str) -> str:
    """Return for how long a node has been running, such as ``40 s``, ``12 min`` or ``2 h 5 min``."""
    seconds = round((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds())
    return duration(seconds) if seconds < 60 else duration(seconds // 60 * 60).removesuffix(" 0 s")


def _problems(row: dict[str, Any], progress: RunView) -> list[str]:
    """Return the sentences on what is wrong with a node."""
    down = outages(progress) if row["provider_down"] else []
    number = row["unverified"]
    unverified = [f"{several(number, 'completion')} could not be verified, over all runs"] if number else []
    stopped = [str(each["message"]) for each in row["stopped"]]
    detail = _detail(row)
    error = str(row["error"]["message"]) if row["error"] else None
    return [*down, *unverified, *stopped, *filter(None, (detail, drop(progress), error))]


def _detail(row: dict[str, Any]) -> str | None:
    """Return what a node does instead of training, and how often its trainer was restarted; None if neither is so."""
    if row["detail"] is None:
        return f"{several(row['restarts'], 'restart')} since the node was started" if row["restarts"] else None
    if row["until"] is None:
        return str(row["detail"])
    left = (datetime.fromisoformat(row["until"]) - datetime.now(UTC)).total_seconds()
    return f"{row['detail']}; restarts in {duration(max(0, round(left)))}"
