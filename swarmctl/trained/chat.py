"""``swarmctl chat``: a conversation with a model."""

import shutil
import sys

from swarmctl.errors import Exit
from swarmctl.terminal.safe_text import QuotedStream, clean, encodable
from swarmctl.terminal.sentences import several
from swarmctl.terminal.views import Writer
from swarmctl.trained.kept import kept
from swarmctl.trained.process import ModelProcess, model_process
from swarmctl.trained.target import ModelOptions, trained_node

_END = ("/exit", "/quit", "/bye", "exit", "quit")
_HELP = "To stop an answer, press Ctrl-C; to leave, type /exit or press Ctrl-D."


def chat(model: ModelOptions, *, system: str | None, seed: int) -> Exit:
    """Talk to the node's model until the user leaves. Raises ``NodeError``."""
    say = Writer(sys.stderr)
    first = None if model.temperature == 0 else seed
    with (
        kept(trained_node(model)) as node,
        model_process("chat", node, quiet=False, system=system, seed=first) as process,
    ):
        for _ in process.events("ready"):
            pass
        say(f"Chat with node {model.node} ({node.when}). {_HELP}")
        while (text := _read()) is not None:
            if text.strip() in _END:
                break
            if text.strip() == "/help":
                say(_HELP)
            elif text.strip():
                process.say(text)
                _answer(process, say)
    return Exit.DONE


def _read() -> str | None:
    """Return what the user types; None at the end of the input."""
    if not sys.stdin.isatty():
        line = sys.stdin.readline()
        return line.removesuffix("\n") if line else None
    import readline  # noqa: F401 - gives ``input`` a history and editing

    try:
        return input("> ")
    except EOFError:
        print()
        return None


def _answer(process: ModelProcess, say: Writer) -> None:
    mark = "  " if sys.stdout.isatty() else ""
    stream = QuotedStream(_put, mark, shutil.get_terminal_size().columns if mark else 2**31)
    while True:
        try:
            for event in process.events("answer", "refused"):
                match event["event"]:
                    case "text":
                        stream(event["text"])
                    case "refused":
                        say(f"error: {event['message']}")
                    case "answer":
                        stream.end()
                        _notes(event, say)
            return
        except KeyboardInterrupt:
            process.interrupt()


def _notes(answer: dict[str, object], say: Writer) -> None:
    if answer["stopped"]:
        say("Stopped.")
    elif answer["truncated"]:
        say("The answer was cut off at the length limit (--max-tokens).")
    if forgotten := answer["forgotten"]:
        assert isinstance(forgotten, int)
        say(f"The oldest {several(forgotten, 'turn')} no longer fit into the model's context and were dropped.")


def _put(text: str) -> None:
    sys.stdout.write(encodable(clean(text), sys.stdout.encoding))
    sys.stdout.flush()
