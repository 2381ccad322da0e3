"""How a model uses tools, as text: their descriptions, its calls, and their results.

One form for all models, whatever their chat template makes of tools: calls as JSON in ``<tool_call>`` tags, as Hermes
and Qwen write them, and results in ``<tool_response>`` tags in a user's turn.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_CALL = re.compile(r"<tool_call>((?:(?!<tool_call>).)*?)</tool_call>", re.DOTALL)
_INTRODUCTION = (
    "You can use tools. To call one, write\n"
    '<tool_call>{"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}</tool_call>\n'
    "and stop. You get its result in <tool_response> tags. These are the tools, one per line:"
)


class ToolCall(NamedTuple):
    """One call of a tool, as the model wrote it."""

    name: str
    arguments: str
    """JSON."""


def with_tools(chat: Sequence[Mapping[str, str]], tools: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return a conversation's first messages with the description of tools in the system turn.

    ``tools``: tables with ``name``, ``description`` and ``parameters`` (a JSON schema).
    """
    messages = [dict(message) for message in chat]
    if not tools:
        return messages
    listed = [json.dumps({key: tool[key] for key in ("name", "description", "parameters")}) for tool in tools]
    text = "\n".join([_INTRODUCTION, *listed])
    if messages and messages[0]["role"] == "system":
        messages[0]["content"] = f"{messages[0]['content']}\n\n{text}"
        return messages
    return [{"role": "system", "content": text}, *messages]


def read_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Return the text before the calls in a turn of the model, and the calls. All of the text if there is no call.

    A call that is not JSON with a name and arguments is no call.
    """
    calls = [call for found in _CALL.finditer(text) if (call := _call(found[1])) is not None]
    return (text[: text.index("<tool_call>")].strip(), calls) if calls else (text, [])


def _call(text: str) -> ToolCall | None:
    try:
        table = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        return None
    arguments = table.get("arguments", {})
    return ToolCall(table["name"], json.dumps(arguments)) if isinstance(arguments, dict) else None


def as_turns(messages: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Yield an environment's messages (role, text) as turns. Results of tools that follow each other are one turn."""
    results: list[str] = []
    for role, text in messages:
        if role == "tool":
            results.append(f"<tool_response>\n{text}\n</tool_response>")
            continue
        if results:
            yield {"role": "user", "content": "\n".join(results)}
            results = []
        yield {"role": role, "content": text}
    if results:
        yield {"role": "user", "content": "\n".join(results)}
