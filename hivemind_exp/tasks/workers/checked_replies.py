"""What the node takes from a worker. A process that ran others' code or read hostile text may send anything."""

import math
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from hivemind_exp.errors import NodeError, TaskError, WorkerFailed, from_code
from hivemind_exp.foreign_text import visible
from hivemind_exp.tasks.base import (
    FACTS,
    LARGEST_REWARD,
    LONGEST_REPLY,
    LONGEST_TERM,
    MOST_MESSAGES,
    MOST_TERMS,
    EnvironmentReply,
    Verdict,
)

TOO_SLOW = "too much CPU time"
UNJUDGED = "not verified"
_LONGEST_REASON = 1000
"""Characters of the reason why an answer could not be scored."""


class Unscored(str):
    """The reason why a job has no reply."""

    __slots__ = ()


def checked_verdict(reply: Any) -> float | Verdict | Unscored:
    """Return a verifier's reply. A process that read hostile text may send anything."""
    if isinstance(reply, Unscored):
        return reply
    match reply:
        case float():
            return _credit(reply)
        case {"credit": float(credit), "terms": list(terms), "why": str(why)} if len(terms) <= MOST_TERMS:
            named = [
                (visible(str(term[0])[:LONGEST_TERM]), term[1])
                for term in terms
                if isinstance(term, list) and len(term) == 2 and _is_reward(term[1])
            ]
            return Verdict(_credit(credit), tuple(named), visible(why[:_LONGEST_REASON]))
        case _:
            return Unscored(UNJUDGED)


def checked_reply(reply: Any) -> EnvironmentReply | Unscored:
    """Return an environment's reply. Raises ``TaskError`` if it cannot be used at all."""
    match reply:
        case Unscored():
            return reply
        case {"error": str(error)}:
            raise TaskError(visible(error[:_LONGEST_REASON]), next="swarmctl tasks list")
        case {"messages": list(messages), "verdict": verdict, "lost": bool(lost)} if _are_messages(messages):
            if any(message["role"] not in _ROLES for message in messages):
                raise TaskError(
                    "an environment writes turns of the model, which is not supported", next="swarmctl tasks list"
                )
            found = None if verdict is None else checked_verdict(verdict)
            if not isinstance(found, float | Unscored):
                plain = tuple({key: message[key] for key in ("role", "content")} for message in messages)
                return EnvironmentReply(plain, found, lost)
    return Unscored(UNJUDGED)


_ROLES = ("system", "user")
"""Roles of an environment's messages. Results of tools are a user's turns. Turns of the model would be learned."""


def checked_facts(ready: Any, still_open: Any, tasks: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what a worker reports once it is ready. Raises ``WorkerFailed`` if that is not a description of the tasks.

    Returns:
        The ``FACTS`` of each of its ``tasks`` tasks, and what the kernel does not enforce for it.
    """
    if not isinstance(ready, list) or len(ready) != tasks or not all(map(_are_facts, ready)):
        raise WorkerFailed(_ODD, next="swarmctl tasks list")
    if not isinstance(still_open, list):
        raise WorkerFailed(_ODD, next="swarmctl tasks list")
    return [{name: fact[name] for name in FACTS} for fact in ready], [visible(str(each)) for each in still_open]


_ODD = "a task worker sent something else than a description of its tasks; its task's code may have changed the worker"


def _are_facts(fact: Any) -> bool:
    match fact:
        case {
            "size": None | int(),
            "heldout_size": int(),
            "sha256": None | str(),
            "version": str(),
            "levels": list(levels),
            "printed": str(),
            "turns": int(turns),
        }:
            return (
                (fact["size"] is None or fact["size"] > 0) and turns >= 0 and all(isinstance(e, dict) for e in levels)
            )
    return False


def checked_error(code: Any, error: Any, next: Any) -> NodeError:
    """Return the error with which a worker ended before it was ready."""
    command = next if isinstance(next, str) and _is_harmless(next) else None
    return from_code(code, visible(str(error)[:_LONGEST_REASON]), command)


def _is_harmless(command: str) -> bool:
    """Whether a command is one that built-in tasks suggest. Anything else may come from a task's own code."""
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    try:
        parts = list(words)
    except ValueError:
        return False
    if any(set(word) <= set("();<>|&") for word in parts) or "`" in command or "$(" in command:
        return False
    return visible(command) == command and _is_known(parts)


def _is_known(words: list[str]) -> bool:
    match words:
        case ["swarmctl", *_] | ["ls", "-l", _] | ["cat", _]:
            return True
        case ["sed", "-n", lines, _]:
            return re.fullmatch("[0-9]+(,[0-9]+)?p", lines) is not None
        case [program, "download", *_]:
            return program == str(Path(sys.executable).with_name("hf"))
        case [program, "-m", "pip", "install", library]:
            return (program, library) == (sys.executable, "reasoning-gym")
    return False


def checked_item(reply: Any) -> tuple[str, dict[str, Any], str] | str:
    """Return a question as text, entry and key, or the reason why there is none."""
    match reply:
        case [str(text), dict(entry), str(key)] if all(isinstance(name, str) for name in entry):
            return text, entry, key
        case {"error": str(error)}:
            return visible(error[:_LONGEST_REASON])
        case Unscored():
            return str(reply)
    return "its worker sent something else"


def _is_reward(value: Any) -> bool:
    return isinstance(value, float) and abs(value) <= LARGEST_REWARD  # also false for NaN


def _are_messages(messages: list[Any]) -> bool:
    """Whether these are messages, and not more than can be used."""
    return (
        len(messages) <= MOST_MESSAGES
        and all(isinstance(each, dict) for each in messages)
        and all(isinstance(each.get(key), str) for each in messages for key in ("role", "content"))
        and sum(len(each["content"]) for each in messages) <= LONGEST_REPLY
    )


def _credit(credit: float) -> float:
    return min(max(credit, 0.0), 1.0) if math.isfinite(credit) else 0.0
