"""Environments of ``verifiers`` 0.1 with several turns: ``MultiTurnEnv``, ``ToolEnv`` and what derives from them.

An environment runs its own loop (``rollout``). Where it asks a model, it waits here until the node has the model's
turn. So it decides alone what the model hears, when the conversation ends, and what it earns.
"""

import contextvars
import importlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import ModuleType
from typing import Any

from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.base import EnvironmentReply, Verdict
from hivemind_exp.tasks.families.environment_answers import ENDLESS, EnvironmentLoop, check_terms, unsupported
from hivemind_exp.tasks.families.model_turns import ModelTurns
from hivemind_exp.tasks.families.own_code import MOST_QUESTIONS
from hivemind_exp.tasks.families.question_files import reference_text
from hivemind_exp.tasks.families.tool_text import as_turns, read_calls, with_tools

_OF_GROUPS = ("completions", "states", "prompts", "answers", "infos", "tasks")
"""Arguments of reward functions that get all completions of a question at once."""
_ROLES = ("system", "user", "assistant", "tool")
_CURRENT: contextvars.ContextVar["_Conversation"] = contextvars.ContextVar("conversation")


def adapted(package: str, environment: Any, most_turns: int) -> ModuleType:
    """Return a module with ``questions``, ``begin_conversation`` and ``most_turns``.

    Raises ``TaskError`` if the environment is not supported.
    """
    adapter = _Adapter(package, environment, most_turns)
    found = ModuleType("swarmctl_conversations")
    vars(found).update(
        questions=lambda _seed: adapter.rows,
        begin_conversation=lambda entry: _Conversation(adapter, entry),
        most_turns=environment.max_turns,
    )
    return found


class _Adapter:
    """One environment, whose loop asks here for the model's turns."""

    def __init__(self, package: str, environment: Any, most_turns: int) -> None:
        self.package = package
        self.environment = environment
        self.types: Any = importlib.import_module("verifiers.types")
        self.too_long: type[Exception] = importlib.import_module("verifiers.errors").OverlongPromptError
        self.loop = EnvironmentLoop(package)
        self.client = _client()
        own = environment.max_turns
        environment.max_turns = min(own, most_turns) if own > 0 else most_turns
        environment.timeout_seconds = None  # it would count the time that the model needs
        environment.get_model_response = _ask
        self.terms = list(self._terms(environment.rubric))
        check_terms(package, len(self.terms))
        if not any(weight > 0 for _, _, weight in self.terms):
            raise unsupported(package, "has no reward function with a positive weight")
        self.rows = [self._row(row) for row in islice(environment.get_dataset(), MOST_QUESTIONS + 1)]

    def _terms(self, rubric: Any) -> Iterator[tuple[Any, Any, float]]:
        """Yield each weighted reward function with its rubric and weight."""
        if (several := getattr(rubric, "rubrics", None)) is not None:
            for each in several:
                yield from self._terms(each)
            return
        for function, weight in zip(rubric.funcs, rubric.weights, strict=True):
            if not weight:
                continue
            if not inspect.signature(function).parameters.keys().isdisjoint(_OF_GROUPS):
                raise unsupported(self.package, f"compares completions with each other in {function.__name__}")
            yield rubric, function, float(weight)

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row of the environment as a question, with the first messages of its conversation."""
        given = dict(row)
        if isinstance(given["prompt"], str):
            raise unsupported(self.package, "continues a text instead of a conversation")
        info = given.get("info") or {}
        info = json.loads(info) if isinstance(info, str) else info
        chat = list(as_turns((role, text) for role, text, _ in self.plain(given["prompt"])))
        tools = info.get("tool_defs") or self.environment.tool_defs or []
        tables = [tool if isinstance(tool, Mapping) else tool.model_dump() for tool in tools]
        asked = [message["content"] for message in chat if message["role"] == "user"]
        return {
            "question": asked[-1] if asked else chat[-1]["content"],
            "answer": reference_text(given.get("answer")),
            "chat": with_tools(chat, tables),
            "row": given,
        }

    def plain(self, messages: Sequence[Any]) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Return messages as role, text and calls of tools. Raises ``TaskError`` for images and other roles."""
        return [self._plain(each if isinstance(each, Mapping) else each.model_dump()) for each in messages]

    def _plain(self, message: Mapping[str, Any]) -> tuple[str, str, list[tuple[str, str]]]:
        role, content = message["role"], message.get("content") or ""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if role not in _ROLES or any(part.get("type") != "text" for part in parts):
            raise unsupported(self.package, f"sends something other than text ({foreign(role)})")
        calls = [(call["name"], call["arguments"]) for call in message.get("tool_calls") or ()]
        return role, "".join(part["text"] for part in parts), calls

    def response(self, text: str, cut: bool, number: int) -> Any:
        """Return a turn of the model as a response of a client."""
        said, calls = read_calls(text)
        called = [
            self.types.ToolCall(id=f"call-{number}-{place}", name=call.name, arguments=call.arguments)
            for place, call in enumerate(calls)
        ]
        message = self.types.ResponseMessage(
            content=said,
            tool_calls=called or None,
            finish_reason="length" if cut else "tool_calls" if called else "stop",
            is_truncated=cut,
        )
        return self.types.Response(id=str(number), created=0, model="node", usage=None, message=message)

    def verdict(self, state: Any) -> Verdict:
        """Return a finished conversation's reward. Its credit is the share of the best reward."""
        terms = []
        for rubric, function, weight in self.terms:
            objects = rubric.score_objects(state)
            taken = inspect.signature(function).parameters
            everything = any(each.kind is each.VAR_KEYWORD for each in taken.values())
            found = function(**{name: value for name, value in objects.items() if everything or name in taken})
            if inspect.iscoroutine(found):
                found = self.loop.run(found, function.__name__)
            terms.append((function.__name__, weight * float(found)))
        best = sum(weight for _, _, weight in self.terms if weight > 0)
        return Verdict(min(max(sum(value for _, value in terms) / best, 0.0), 1.0), tuple(terms))


class _Conversation:
    """One rollout of the environment, which waits for the model's next turn."""

    def __init__(self, adapter: _Adapter, entry: Mapping[str, Any]) -> None:
        self._adapter = adapter
        self._heard: list[tuple[str, str, list[tuple[str, str]]]] = []
        self._said = 0
        self._turns = ModelTurns(adapter.loop)
        context = contextvars.copy_context()
        context.run(_CURRENT.set, self)
        self._turns.start(adapter.environment.rollout(dict(entry["row"]), adapter.client, "node", {}), context)
        if not self._turns.wanted:
            _ = self._turns.result  # the reason, if it is an exception
            raise unsupported(adapter.package, "ends a conversation before the model's first turn")
        if self._heard != adapter.plain(entry["row"]["prompt"]):
            raise unsupported(adapter.package, "changes its first messages when a conversation begins")

    async def ask(self, messages: Sequence[Any]) -> Any:
        """Return the model's turn after ``messages``, once it is there."""
        self._heard = self._adapter.plain(messages)
        return await self._turns.ask()

    def said(self, text: str, last: bool) -> EnvironmentReply:
        """Return the environment's reply to a turn of the model."""
        adapter, before = self._adapter, self._heard
        self._said += 1
        self._turns.answer(adapter.response(text, last, self._said))
        own, calls = read_calls(text)
        before = [*before, ("assistant", own, [(call.name, call.arguments) for call in calls])]
        if self._turns.wanted:
            if self._heard[: len(before)] != before:
                raise unsupported(adapter.package, "changes earlier messages of a conversation")
            if not last and self._said < adapter.environment.max_turns:
                added = ((role, content) for role, content, _ in self._heard[len(before) :])
                return EnvironmentReply(tuple(as_turns(added)))
        return self.end()

    def end(self) -> EnvironmentReply:
        """Return the verdict. An environment that waits for another turn learns that there is no room for one."""
        adapter = self._adapter
        if self._turns.wanted:
            self._turns.answer(adapter.too_long())
        if self._turns.wanted:
            raise unsupported(adapter.package, ENDLESS)
        state = self._turns.result
        final = state.get("final_env_response")
        heard = adapter.plain(final) if final and not isinstance(final, str) else [("user", final or "", [])]
        added = ((role, content) for role, content, _ in heard if content)
        return EnvironmentReply(tuple(as_turns(added)), adapter.verdict(state))


async def _ask(_state: Any, prompt: Sequence[Any], *_: Any, **__: Any) -> Any:
    """Stand in for an environment's ``get_model_response``."""
    return await _CURRENT.get().ask(prompt)


def _client() -> Any:
    """Return a client that is never used: an environment's state needs one."""
    base: Any = importlib.import_module("verifiers.clients").Client
    unused: Any = type("_UnusedClient", (base,), {})
    unused.__abstractmethods__ = frozenset()
    return object.__new__(unused)
