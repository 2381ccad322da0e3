"""Tasksets of ``verifiers`` 0.4 with tools, and environments of one agent that take several turns with it.

In ``verifiers``, an agent is a program, and tools are servers. Here the agent is the node's model in a plain chat loop,
and tools are called in this process: the sandbox runs no programs and no servers.
"""

import importlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, Protocol

from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.base import EnvironmentReply, Verdict
from hivemind_exp.tasks.families.environment_answers import ENDLESS, EnvironmentLoop, unsupported
from hivemind_exp.tasks.families.model_turns import ModelTurns
from hivemind_exp.tasks.families.tool_text import ToolCall, as_turns, read_calls, with_tools

Plain = tuple[str, str, list[tuple[str, str]]]
"""A message's role, text, and calls of tools."""


class TasksOfAgent(Protocol):
    """What is needed of a taskset (``environment_v1``)."""

    package: str
    vf: Any
    loop: EnvironmentLoop
    environment: Any
    """The class of the environment."""

    def toolsets(self, task: Any = None) -> list[Any]:
        """Return the taskset's tools, or those of one task."""

    def task(self, data: Mapping[str, Any]) -> Any:
        """Return a task from its data."""

    def config(self) -> Any:
        """Return the configuration of the environment."""

    def new_trace(self, task: Any, nodes: Sequence[Any]) -> Any:
        """Return a task's trace."""

    async def begin(self, task: Any, trace: Any) -> None:
        """Prepare a task."""

    async def finish(self, task: Any, trace: Any) -> None:
        """Score a task."""

    def verdict(self, trace: Any) -> Verdict:
        """Return a scored trace's reward."""


class _NoRoom(Exception):
    """There is no room for another turn."""


class Turns:
    """The conversations of one taskset."""

    def __init__(self, tasks: TasksOfAgent, most_turns: int) -> None:
        self.tasks, self.most = tasks, most_turns
        vf, config = tasks.vf, tasks.config()
        agents = importlib.import_module("verifiers.v1.configs.agent").agent_config_fields(config)
        if len(agents) != 1:
            name = tasks.environment.__name__
            raise unsupported(tasks.package, f"runs its tasks with {name}, so with {len(agents)} agents")
        if (tasks.environment.start, tasks.environment.stop) != (vf.Env.start, vf.Env.stop):
            raise unsupported(tasks.package, f"starts resources of its own ({tasks.environment.__name__})")
        ((self.agent, settings),) = agents.items()
        self.most = min(most_turns, settings.max_turns or most_turns)
        self.environment = tasks.environment(config)
        self.plain_loop = tasks.environment is vf.SingleAgentEnv
        self.call_hook: Callable[..., Any] = importlib.import_module("verifiers.v1.session").call_hook
        self.read: Callable[..., Any] = importlib.import_module("verifiers.v1.dialects").parse_message
        self.shared = Toolbox(tasks.package, tasks.toolsets())
        tasks.loop.run(self.shared.open(), "its tools")
        self._described: list[Mapping[str, Any]] | None = None

    def row(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return a task as a question, with the first messages of its conversation."""
        first = self.first(self.tasks.task(data)) if self.plain_loop else AgentConversation(self, {"data": data}).heard
        chat = list(as_turns((role, text) for role, text, _ in first))
        asked = [message["content"] for message in chat if message["role"] == "user"]
        return {
            "question": asked[-1] if asked else chat[-1]["content"],
            "first": [list(each) for each in first],
            "chat": with_tools(chat, self._tools(data)),
            "data": dict(data),
        }

    def _tools(self, data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """Return the descriptions of all tools. They are the same for every task."""
        if self._described is None:
            own = Toolbox(self.tasks.package, self.tasks.toolsets(self.tasks.task(data)))
            self.tasks.loop.run(own.open(), "its tools")
            self._described = [*self.shared.described, *own.described]
        return self._described

    def first(self, task: Any) -> list[Plain]:
        return [self.plain(message) for message in self.opening(task)]

    def opening(self, task: Any) -> Iterator[Any]:
        """Yield the messages with which a task's prompt opens a conversation."""
        vf, data = self.tasks.vf, task.data
        if data.system_prompt:
            yield vf.SystemMessage(content=data.system_prompt)
        yield from [vf.UserMessage(content=data.prompt)] if isinstance(data.prompt, str) else data.prompt or ()

    def plain(self, message: Any) -> Plain:
        """Return a message as role, text and calls. Raises ``TaskError`` for images."""
        content = message.content or ""
        parts = [] if isinstance(content, str) else content
        if any(getattr(part, "type", "text") != "text" for part in parts):
            raise unsupported(self.tasks.package, f"sends something else than text ({foreign(message.role)})")
        calls = [(call.name, call.arguments) for call in getattr(message, "tool_calls", None) or ()]
        return message.role, self.tasks.vf.types.content_text(content), calls


def adapted(turns: Turns, rows: Callable[[], list[dict[str, Any]]]) -> ModuleType:
    """Return a module with ``questions``, ``begin_conversation`` and ``most_turns``."""
    found = ModuleType("swarmctl_conversations")
    vars(found).update(
        questions=lambda _seed: rows(),
        begin_conversation=lambda entry: AgentConversation(turns, entry),
        most_turns=turns.most,
    )
    return found


class Toolbox:
    """Tools, called in this process."""

    def __init__(self, package: str, toolsets: Sequence[Any]) -> None:
        self._package, self._toolsets = package, toolsets
        self._homes: dict[str, tuple[Any, Any, str]] = {}
        """By the name that the model sees: the tool's set, its server and its own name."""
        self.described: list[Mapping[str, Any]] = []

    async def open(self, task: Any = None) -> None:
        """Set the tools up; with ``task``, for one task."""
        for toolset in self._toolsets:
            if toolset.config.url:
                raise unsupported(self._package, f"has tools on a server ({type(toolset).__name__})")
            server: Any = importlib.import_module("mcp.server.mcpserver").MCPServer(type(toolset).__name__)
            await toolset.setup()
            if task is not None:
                await toolset.setup_task(task.data)
            toolset.register(server)
            prefix = f"{toolset.server_name}_" if toolset.server_name else ""
            for tool in await server.list_tools():
                name = f"{prefix}{tool.name}"
                self._homes[name] = toolset, server, tool.name
                about = {"name": name, "description": tool.description or "", "parameters": tool.input_schema}
                self.described.append(about)

    async def call(self, call: ToolCall, state: Any) -> str | None:
        """Return what a call gives, or the reason why it fails. None if there is no such tool."""
        if call.name not in self._homes:
            return None
        toolset, server, name = self._homes[call.name]

        async def pull() -> Any:
            return state if isinstance(state, toolset._state_cls) else toolset._inert_state

        async def push(_before: object) -> None:
            """The state is the conversation's own."""

        toolset._pull_state, toolset._push_state = pull, push
        try:
            result = await server.call_tool(name, json.loads(call.arguments))
        except Exception as error:  # noqa: BLE001 - the model gets it as the result
            return str(error)
        return "\n".join(part.text for part in result.content if part.type == "text")


class AgentConversation:
    """One task, whose agent is the node's model."""

    def __init__(self, turns: Turns, entry: Mapping[str, Any]) -> None:
        self.turns = turns
        self.heard: list[Plain] = []
        self.trace: Any = None
        self._task = turns.tasks.task(entry["data"])
        self._model = ModelTurns(turns.tasks.loop)
        self._model.start(self._play())
        package = turns.tasks.package
        if not self._model.wanted:
            _ = self._model.result  # the reason, if it is an exception
            raise unsupported(package, "ends a conversation before the model's first turn")
        if "first" in entry and self.heard != [(role, text, []) for role, text, _ in entry["first"]]:
            raise unsupported(package, "begins a conversation in another way each time")

    async def _play(self) -> None:
        """Run the environment's program."""
        tasks, environment = self.turns.tasks, self.turns.environment
        agents = _Agents(self.turns.agent, _Agent(self))
        await environment.setup(agents)
        await environment.run(self._task, agents)
        if self.trace is not None:
            task = self.trace.task
            episode = tasks.vf.Episode(env=tasks.vf.EnvInfo(), task=task, traces=[self.trace], ok=True)
            await environment.finalize(self._task, episode)

    async def ask(self) -> tuple[str, bool]:
        """Return the model's next turn, and whether it is the last."""
        self.heard = [self.turns.plain(node.message) for node in self.trace.nodes]
        found: tuple[str, bool] = await self._model.ask()
        return found

    def said(self, text: str, last: bool) -> EnvironmentReply:
        """Return the environment's reply to a turn of the model."""
        known = len(self.heard) + 1
        self._model.answer((text, last))
        if not self._model.wanted or last:
            return self.end()
        added = ((role, content) for role, content, _ in self.heard[known:])
        return EnvironmentReply(tuple(as_turns(added)))

    def end(self) -> EnvironmentReply:
        """Return the verdict. A program that waits for another turn learns that there is no room for one."""
        if self._model.wanted:
            self._model.answer(_NoRoom())
        if self._model.wanted:
            raise unsupported(self.turns.tasks.package, ENDLESS)
        _ = self._model.result
        return EnvironmentReply(verdict=self.turns.tasks.verdict(self.trace))


class _Agents:
    """Stands in for the environment's agents, of which there is one."""

    def __init__(self, name: str, agent: "_Agent") -> None:
        setattr(self, name, agent)


class _Agent:
    """Stands in for an agent."""

    trainable = True

    def __init__(self, conversation: AgentConversation) -> None:
        self._conversation = conversation

    async def run(self, task: Any, **_: Any) -> Any:
        """Let the model work on a task in one go, with its tools."""
        async with self.interaction(task) as interaction:
            await interaction.turn()
        return self._conversation.trace

    @asynccontextmanager
    async def interaction(self, task: Any, **_: Any) -> AsyncIterator["_Interaction"]:
        """Open a conversation about a task, and score it at the end."""
        conversation, turns = self._conversation, self._conversation.turns
        if conversation.trace is not None:
            raise unsupported(turns.tasks.package, "gives its agent several tasks at a time")
        trace = conversation.trace = turns.tasks.new_trace(task, ())
        own = Toolbox(turns.tasks.package, turns.tasks.toolsets(task))
        await own.open(task)
        await turns.tasks.begin(task, trace)
        yield _Interaction(conversation, task, own)
        trace.stop("user_closed")
        trace.ok = True
        await turns.tasks.finish(task, trace)


class _Interaction:
    """A conversation, as the environment's program sees it."""

    def __init__(self, conversation: AgentConversation, task: Any, tools: Toolbox) -> None:
        self._conversation, self._task, self._own = conversation, task, tools
        self.trace = conversation.trace
        self._vf = conversation.turns.tasks.vf

    async def turn(self, message: Any = None) -> Any:
        """Return what the model says to a message, after its calls of tools. Without one, to the task's prompt."""
        turns, trace = self._conversation.turns, self.trace
        begun = bool(trace.nodes)
        given = [] if message is None else [message] if isinstance(message, str) else list(message)
        messages = [] if begun else list(turns.opening(self._task))
        for each in given:
            told = self._vf.UserMessage(content=each) if isinstance(each, str) else each
            messages.append(turns.read(told) if isinstance(told, dict) else told)
        before, nodes = trace.num_turns, len(trace.nodes)
        if not await self._stopped():
            for each in messages:
                self._add(each)
            await self._model()
        if trace.num_turns == before:
            return self._vf.Segment(messages=[], terminated=True)
        added = [node for node in trace.nodes[nodes:] if node.sampled or node.message.role == "tool"]
        return self._vf.Segment(messages=[node.message for node in added])

    async def _model(self) -> None:
        """Let the model take turns until it calls no tool."""
        while not await self._stopped():
            try:
                text, last = await self._conversation.ask()
            except _NoRoom:
                self.trace.stop("max_total_tokens")
                return
            said, calls = read_calls(text)
            number = self.trace.num_turns
            called = [
                self._vf.ToolCall(id=f"call-{number}-{place}", name=call.name, arguments=call.arguments)
                for place, call in enumerate(calls)
            ]
            self._add(self._vf.AssistantMessage(content=said, tool_calls=called or None), sampled=True)
            if last:
                self.trace.stop("max_total_tokens")
            if last or not calls:
                return
            for call, about in zip(calls, called, strict=True):
                self._add(self._vf.ToolMessage(tool_call_id=about.id, name=call.name, content=await self._call(call)))

    async def _call(self, call: ToolCall) -> str:
        for tools in (self._own, self._conversation.turns.shared):
            if (result := await tools.call(call, self.trace.state)) is not None:
                return result
        return f"there is no tool named {call.name}"

    async def _stopped(self) -> bool:
        """Whether the model gets no further turn."""
        turns, trace = self._conversation.turns, self.trace
        if trace.stop_condition is None and trace.num_turns >= turns.most:
            trace.stop("max_turns")
        for stop in self._task.hooks("stop"):
            if trace.stop_condition is None and await turns.call_hook(stop, {self._vf.Trace: trace}):
                trace.stop(stop.__name__)
        return trace.stop_condition is not None

    def _add(self, message: Any, *, sampled: bool = False) -> None:
        nodes = self.trace.nodes
        nodes.append(self._vf.MessageNode(parent=len(nodes) - 1 if nodes else None, message=message, sampled=sampled))
