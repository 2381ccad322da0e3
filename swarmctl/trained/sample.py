"""``swarmctl sample``: what a model answers, to questions of its tasks or to a prompt."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from hivemind_exp.errors import ConfigurationError
from swarmctl.errors import UsageError
from swarmctl.storage.disk_errors import disk_errors
from swarmctl.storage.json_file import read_json, write_json
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import QuotedStream, encodable, quoted
from swarmctl.terminal.sentences import several
from swarmctl.terminal.streams import can_draw, width_of
from swarmctl.terminal.views import Writer
from swarmctl.trained.process import model_process
from swarmctl.trained.target import ModelOptions, TrainedNode, trained_node

Quote = Callable[[str], Iterator[str]]
_INDENT = "    "
_MARK = f"{_INDENT}| "
_QUESTIONS = 3
LATEST = "sample.json"
"""The file in a node's directory with the latest prompt."""


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """What ``sample`` asks."""

    prompt: str | None
    """None: held-out questions, or the latest prompt."""
    last: bool
    """Repeat the latest prompt."""
    questions: int | None
    base: bool
    """Show the answer before training, too."""
    system: str | None
    seed: int
    as_json: bool


def sample(model: ModelOptions, options: SampleOptions) -> None:
    """Print what the node's model answers. Raises ``NodeError``."""
    if options.last and options.prompt is not None:
        raise UsageError("PROMPT or --last, not both", next="swarmctl sample --help")
    node = trained_node(model)
    prompt, system = _latest(node) if options.last else (options.prompt, None)
    system = system if options.system is None else options.system
    if prompt is not None:
        with disk_errors(node.files.root):
            write_json(node.files.root / LATEST, {"schema": 1, "prompt": prompt, "system": system})
    order: dict[str, Any] = {
        "text": prompt,
        "questions": options.questions or _QUESTIONS,
        "base": options.base or prompt is None,
        "system": system,
        "seed": options.seed if model.temperature else None,
    }
    with model_process("sample", node, quiet=options.as_json, **order) as process:
        if options.as_json:
            _print_json(node, list(process.events()))
        else:
            _print(node, process.events(), streaming=can_draw(sys.stdout, os.environ))


def _latest(node: TrainedNode) -> tuple[str, str | None]:
    """Return the latest prompt that a node was given, and its system prompt. Raises ConfigurationError without one."""
    found = read_json(node.files.root / LATEST) or {}
    prompt, system = found.get("prompt"), found.get("system")
    if not isinstance(prompt, str):
        name = shlex.quote(node.files.root.name)
        raise ConfigurationError(
            f"node {node.files.root.name} has not been given a prompt yet", next=f"swarmctl sample {name} PROMPT"
        )
    return prompt, system if isinstance(system, str) else None


def _print_json(node: TrainedNode, events: list[dict[str, Any]]) -> None:
    samples: list[dict[str, Any]] = []
    for event in events:
        body = {key: value for key, value in event.items() if key != "event"}
        if event["event"] == "question":
            samples.append({"task": None, "reference": None, **body, "after": None})
        elif event["event"] == "answer":
            samples[-1]["after"] = body
    print_json(node=node.files.root.name, checkpoint=node.at(), samples=samples)


def _print(node: TrainedNode, events: Iterator[dict[str, Any]], *, streaming: bool) -> None:
    say, width = Writer(sys.stdout), width_of(sys.stdout)
    quote = partial(quoted, mark=_MARK, width=width, full=True)
    stream = QuotedStream(_put, _MARK, width or 0)
    asked = 0
    for event in events:
        match event["event"]:
            case "question":
                asked += 1
                for line in _question(event, asked, quote):
                    say(line, None if line.startswith(_MARK) else _INDENT)
                say(f"  {node.when}:")
            case "text" if streaming:
                stream(event["text"])
            case "answer":
                stream.end()
                for line in [] if streaming else quote(event["text"]):
                    say(line)
                say(_verdict(event), _INDENT)
    if asked == 0:
        Writer(sys.stderr)(f"Node {node.files.root.name} has no held-out questions.")


def _put(text: str) -> None:
    sys.stdout.write(encodable(text, sys.stdout.encoding))
    sys.stdout.flush()


def _question(event: dict[str, Any], number: int, quote: Quote) -> Iterator[str]:
    if number > 1:
        yield ""
    task, before = event.get("task"), event["before"]
    yield "prompt" if task is None else f"question {number} ({task}), reference: {event['reference']}"
    yield from quote(event["question"])
    if before is not None:
        yield "  before training:"
        yield from quote(before["text"])
        yield _verdict(before)


def _verdict(answer: dict[str, Any]) -> str:
    """Return the line that follows an answer: whether it is correct, if that is known, and how long it is."""
    why = "" if answer["why"] in (None, "wrong") else f": {answer['why']}"
    word = {True: "correct, ", False: f"wrong{why}, ", None: ""}[answer["correct"]]
    cut = ", cut off at the length limit" if answer["truncated"] else ""
    return f"{_INDENT}{word}{several(answer['tokens'], 'token')}{cut}"
