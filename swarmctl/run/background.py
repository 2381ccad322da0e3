"""``run --detach``: continue a run in a background process once its node has started."""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, Self

from hivemind_exp.node_files import NodeFiles
from swarmctl.errors import Exit
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.hidden_input import HiddenInput
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.views import Display, PlainView, Writer, view

OUTPUT = "background.log"
"""The file in the node's directory that gets what a background run prints after its start."""
_STARTED = b"started"


class BackgroundView(PlainView):
    """A run's usual view until the node has started. Then ``leave`` is called, and what follows goes to a file."""

    def __init__(self, leave: Callable[[], None], *, plain: bool, quiet: bool, verbose: bool) -> None:
        super().__init__(sys.stderr, quiet=True, verbose=verbose)  # the log has every round; this file would only grow
        self._leave = leave
        self._before: Display | None = view(sys.stderr, plain=plain, quiet=quiet, verbose=verbose)

    def __enter__(self) -> Self:
        if self._before is not None:
            self._before.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            self._before.__exit__(*error)

    def tick(self, progress: RunView, /) -> None:
        super().tick(progress) if self._before is None else self._before.tick(progress)

    def note(self, text: str) -> None:
        super().note(text) if self._before is None else self._before.note(text)

    def event(self, event: dict[str, Any], progress: RunView, /) -> None:
        if self._before is None:
            super().event(event, progress)
            return
        self._before.event(event, progress)
        if event["event"] == "start":
            self._before.__exit__(None, None, None)
            self._before = None
            self._leave()


def split(files: NodeFiles, *, as_json: bool) -> Callable[[], None]:
    """Continue in a background process, and return there how it leaves the terminal.

    The process that the shell waits for ends here: with 0 once the other one has left the terminal, or with its exit
    code. Until then, Ctrl-C stops the run.
    """
    reading, writing = os.pipe()
    sys.stdout.flush()
    with suppress(OSError, ValueError):  # text on stderr may be lost
        sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(writing)
        _wait(process, reading, files.root.name, as_json=as_json)
    os.close(reading)
    os.setsid()  # the terminal's Ctrl-C and its end do not reach this process any more

    def leave() -> None:
        output = os.open(files.root / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for stream, target in ((0, nothing), (1, output), (2, output)):
            os.dup2(target, stream)
        with suppress(BrokenPipeError):
            os.write(writing, _STARTED)
        os.close(writing)

    return leave


def _wait(process: int, reading: int, name: str, *, as_json: bool) -> NoReturn:
    """Wait until the background process has left the terminal or ended, and exit."""
    write = Writer(sys.stderr)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: os.kill(process, received))
    # Ctrl-Z would stop only this process, and the other one would draw over the shell's prompt.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    with HiddenInput(sys.stderr):
        answer = os.read(reading, len(_STARTED))
    if answer == _STARTED:
        if as_json:
            print_json(node=name, pid=process)
            sys.stdout.flush()
            os._exit(Exit.DONE)
        node = shlex.quote(name)
        write(f"Node {name} now runs in the background (pid {process}). To watch it, or stop it:")
        write(f"  {typed(f'swarmctl attach {node}')}")
        write(f"  {typed(f'swarmctl stop {node}')}")
        os._exit(Exit.DONE)
    _, status = os.waitpid(process, 0)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else Exit.FAILED)
