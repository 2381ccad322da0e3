"""``swarmctl attach``: watch a running node. Reads its log and does not affect it."""

import shlex
import sys
import time
from datetime import UTC, datetime

from hivemind_exp.errors import ConfigurationError
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.resuming import resume_command, rounds_done
from hivemind_exp.run_record import RunRecord, read_record
from swarmctl.errors import Exit, UsageError
from swarmctl.nodes.history import past_evaluations
from swarmctl.nodes.lookup import all_nodes, latest, readable
from swarmctl.run.summary import reached, suspended
from swarmctl.run.supervisor import POLL_S
from swarmctl.storage import node_lock as locks
from swarmctl.storage.event_log import EventReader
from swarmctl.storage.json_file import read_json
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.interrupting import end_line, how_to
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Display, Writer, view


def attach(node: str | None, *, plain: bool) -> Exit:
    """Show a running node's live view until it ends or Ctrl-C is pressed, which does not stop the node.

    Raises ConfigurationError if the node is not running, UsageError if it is not clear which node is meant.
    """
    files = _running(node)
    name = shlex.quote(files.root.name)
    say = Writer(sys.stderr)
    tail, progress = EventReader(files.events, whole=True), RunView()
    for event in (*past_evaluations(files), *tail()):
        progress.apply(event)
    try:
        with view(
            sys.stderr,
            plain=plain,
            quiet=False,
            verbose=False,
            running_s=_age(files),
            when_suspended=suspended(files.root.name),
        ) as display:
            _follow(files, say, tail, display, progress)
    except KeyboardInterrupt:
        say(f"Node {files.root.name} continues. To stop it:")
        say(f"  {typed(f'swarmctl stop {name}')}")
        return Exit.DONE
    record = read_record(files.run) or RunRecord()
    for event in filter(None, (record.error, record.stop)):
        progress.apply(event)
    failed = progress.error is not None or progress.stop is None
    say(reached(progress, failed=failed))
    if progress.error is not None:
        say(f"error: {progress.error.get('message')}")
    return Exit.FAILED if failed else Exit.DONE


def _follow(files: NodeFiles, say: Writer, tail: EventReader, display: Display, progress: RunView) -> None:
    """Say which node is watched, and show its events until it ends."""
    running = True
    try:
        say(f"Watching node {files.root.name}, which continues when you leave. {how_to('leave')}")
        while running:
            running = locks.is_held(files.lock)  # before the last look, or its last events might be missed
            for event in tail():
                progress.apply(event)
                display.event(event, progress)
            display.tick(progress)
            time.sleep(POLL_S if running else 0)
    except KeyboardInterrupt:
        end_line()  # here, where the live view still hides what is typed
        raise


def _running(node: str | None) -> NodeFiles:
    """Return the files of the named node, or of the only running one."""
    if node is not None:
        files = readable(node)
        if not locks.is_held(files.lock):
            raise ConfigurationError(f"node {node} {_at_rest(files)}", next=resume_command(files))
        return files
    running = [files for files in all_nodes() if locks.is_held(files.lock)]
    if not running:
        raise ConfigurationError("no node is running", next="swarmctl status")
    if len(running) > 1:
        names = ", ".join(files.root.name for files in running)
        example = shlex.quote(latest(running).root.name)
        raise UsageError(f"{len(running)} nodes are running ({names}); name one", next=f"swarmctl attach {example}")
    return running[0]


def _at_rest(files: NodeFiles) -> str:
    """Return why there is nothing to watch, in words that the node's name begins."""
    record, log = read_record(files.run) or RunRecord(), typed(f"swarmctl logs {shlex.quote(files.root.name)}")
    if rounds := rounds_done(files):
        return f"has finished {several(rounds, 'round')} and is not running. To continue it, give it more rounds"
    if record.error is not None:
        return f"is not running: it failed (see `{log}`)"
    return "is not running" if record.begun else "has not run yet"


def _age(files: NodeFiles) -> float:
    """Return for how many seconds a node has been running."""
    since = (read_json(files.lock) or {}).get("since")
    return (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds() if isinstance(since, str) else 0.0
