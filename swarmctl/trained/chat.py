"""``swarmctl chat``: a conversation with a model."""

import json
import shlex
import sys
from contextlib import suppress
from typing import Any

from swarmctl.errors import Exit
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.hidden_input import HiddenInput
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import QuotedStream, clean, encodable
from swarmctl.terminal.sentences import several
from swarmctl.terminal.streams import width_of
from swarmctl.terminal.views import Writer
from swarmctl.trained.process import ModelProcess, model_process
from swarmctl.trained.target import ModelOptions, trained_node

_TINY = "tiny"
_END = ("/exit", "/quit", "/bye", "exit", "quit")
_HELP = "To stop an answer, press Ctrl-C; to leave, type /exit or press Ctrl-D."


def chat(model: ModelOptions, *, system: str | None, seed: int, as_json: bool = False) -> Exit:
    """Talk to the node's model until the user leaves. Raises ``NodeError``."""
    node = trained_node(model)
    say = Writer(sys.stderr)
    first = None if model.temperature == 0 else seed
    with model_process("chat", node, quiet=as_json, system=system, seed=first) as process:
        for _ in process.events("ready"):
            pass
        if as_json:
            for line in sys.stdin:
                if line.strip():
                    print_json(node=model.node, checkpoint=node.at(), **_answered(process, _message(line)))
            return Exit.DONE
        how = f" {_HELP}" if sys.stdin.isatty() else ""
        say(f"Chat with node {model.node} ({node.when}).{how}")
        if node.config.model.name == _TINY:
            questions = typed(f"swarmctl sample {shlex.quote(model.node)}")
            say(f"This tiny model knows only its task, in the task's own words. To see them: {questions}")
        while (text := _read()) is not None:
            if text.strip() in _END:
                break
            if text.strip() == "/help":
                say(_HELP)
            elif text.strip():
                process.say(text)
                _answer(process, say)
    return Exit.DONE


def _message(line: str) -> str:
    """Return the message in a line: the line itself, or the text of a JSON string."""
    text = line.removesuffix("\n")
    if text.lstrip().startswith('"'):
        with suppress(ValueError):
            found = json.loads(text)
            return found if isinstance(found, str) else text
    return text


def _answered(process: ModelProcess, message: str) -> dict[str, Any]:
    """Return a message and its answer, for scripts. An answer is None if the message was refused."""
    process.say(message)
    pieces: list[str] = []
    found: dict[str, Any] = {}
    for event in process.events("answer", "refused"):
        if event["event"] == "text":
            pieces.append(event["text"])
        else:
            found = event
    refused = found.get("message")
    return {
        "message": message,
        "answer": "".join(pieces) if refused is None else None,
        "truncated": found.get("truncated"),
        "forgotten": found.get("forgotten"),
        "error": refused,
    }


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
    """Print an answer as it comes. What is typed meanwhile is hidden, and appears in the next prompt."""
    width = width_of(sys.stdout)
    stream = QuotedStream(_put, "" if width is None else "  ", width or 2**31)
    with HiddenInput(sys.stdout, erase=lambda: None):
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
