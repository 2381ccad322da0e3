"""Tasksets of ``verifiers`` 0.4, whose interface is ``verifiers.v1``.

A task is scored as ``vf-replay`` scores a saved one: from its trace, without a runtime. The trace has the task's prompt
and one reply, or a conversation (``environment_v1_turns``). What needs more is refused by its name: a harness, several
agents, a runtime (a machine in which programs run), or a model that judges.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from types import ModuleType
from typing import Any

from hivemind_exp.errors import TaskError
from hivemind_exp.tasks.base import Verdict
from hivemind_exp.tasks.families import environment_v1_turns
from hivemind_exp.tasks.families.environment_answers import (
    EnvironmentLoop,
    check_terms,
    choose_form,
    unsupported,
    written,
)
from hivemind_exp.tasks.families.own_code import MOST_QUESTIONS
from hivemind_exp.tasks.families.question_files import reference_text

ENDLESS = 10_000
"""Number of tasks of an endless taskset that are used."""
_COMPARED = 16
"""Number of tasks of a second pass that must be the same, because a resumed node loads them again."""


def loaded(package: str, module: str, params: Mapping[str, Any], most_turns: int) -> ModuleType:
    """Return a module with ``questions``, and ``score`` or ``begin_conversation``.

    Raises ``TaskError`` if the taskset is not supported.
    """
    code = importlib.import_module(module)
    taskset = _Taskset(package, module, params, most_turns)
    adapted = ModuleType(f"swarmctl_environment_{module}")
    vars(adapted).update(questions=taskset.questions, score=taskset.score)
    if taskset.turns is not None:
        adapted = environment_v1_turns.adapted(taskset.turns, lambda: taskset.questions(0))
    adapted.__file__ = code.__file__
    return adapted


class _Taskset:
    """The questions and the rewards of one taskset."""

    def __init__(self, package: str, module: str, params: Mapping[str, Any], most_turns: int) -> None:
        self.package = package
        self.vf: Any = importlib.import_module("verifiers.v1")
        self.loop = EnvironmentLoop(package)
        kind = self.vf.taskset_config_type(module)
        self._config = kind.model_validate({**params, "id": module})
        self.environment = self.vf.environment_class(module)
        if self.vf.default_harness_id(module) == module:
            raise unsupported(package, "has a harness of its own")
        self._taskset = self.vf.load_taskset(self._config)
        self._task_type = type(self._taskset).task_type()
        self._rows: list[dict[str, Any]] = []
        several = self.environment is not self.vf.SingleAgentEnv
        tools = [*self.toolsets(), *self._task_type.toolsets(self._config.task)]
        self.turns = environment_v1_turns.Turns(self, most_turns) if several or tools else None
        """None: a task has one reply."""

    def questions(self, _seed: int) -> list[dict[str, Any]]:
        """Return all tasks as questions. They are the same for every seed."""
        if not self._rows:
            self._rows = self._loaded()
        return self._rows

    def score(self, answer: str, question: Mapping[str, Any]) -> Verdict:
        """Return the reward. Its credit is the share of the best reward."""
        task = self.task(question["data"])
        vf, text = self.vf, written(question["form"], answer)
        nodes = list(self._opening(task))
        nodes.append(vf.MessageNode(parent=len(nodes) - 1, message=vf.AssistantMessage(content=text), sampled=True))
        trace = self.new_trace(task, nodes, is_completed=True, ok=True, stop_condition="agent_completed")

        async def scored() -> None:
            await self.begin(task, trace)
            await self.finish(task, trace)

        self.loop.run(scored(), "its reward functions")
        return self.verdict(trace)

    def toolsets(self, task: Any = None) -> list[Any]:
        """Return the taskset's tools, or those of one task."""
        return list(type(self._taskset).toolsets(self._config) if task is None else type(task).toolsets(task.config))

    def config(self) -> Any:
        """Return the configuration of the environment."""
        generic = importlib.import_module("verifiers.v1.utils.generic")
        kind = generic.concrete_type(self.environment, self.vf.EnvConfig, origin=self.vf.Env) or self.vf.EnvConfig
        return kind.model_validate({"taskset": self._config})

    def task(self, data: Mapping[str, Any]) -> Any:
        """Return a task from its data."""
        return self._task_type(self._task_type.data_type().model_validate(data), self._config.task)

    def _loaded(self) -> list[dict[str, Any]]:
        tasks = list(self._listed())
        for before, again in zip(tasks[:_COMPARED], self._taskset, strict=False):
            if before.hash != again.hash:
                raise unsupported(self.package, "loads different tasks each time")
        for task in tasks:
            self._check_task(task)
        if self.turns is not None:
            return [self.turns.row(self._data(task)) for task in tasks]
        rows = [self._row(task) for task in tasks]
        choose_form(self.package, rows, self.score)
        return rows

    def _listed(self) -> Iterator[Any]:
        bounded = self._taskset.bounded
        yield from islice(self._taskset, MOST_QUESTIONS if bounded else ENDLESS)

    def _row(self, task: Any) -> dict[str, Any]:
        data = task.data
        return {
            "question": "\n\n".join(self._texts(data)),
            "answer": reference_text(getattr(data, "answer", None)),
            "data": self._data(task),
        }

    def _data(self, task: Any) -> dict[str, Any]:
        data: dict[str, Any] = task.data.model_dump(mode="json", exclude_defaults=True)
        return data

    def _texts(self, data: Any) -> Iterator[str]:
        """Yield the texts of a prompt: instructions, then the question. Raises ``TaskError`` for a conversation."""
        if data.system_prompt:
            yield data.system_prompt
        if isinstance(data.prompt, str):
            yield data.prompt
            return
        if data.prompt is None:
            raise unsupported(self.package, "has tasks without a prompt, in which a user begins the conversation")
        roles = [message.role for message in data.prompt]
        if roles not in (["user"], ["system", "user"]):
            raise unsupported(self.package, f"has a conversation as a prompt ({', '.join(roles)})")
        for message in data.prompt:
            parts = [message.content] if isinstance(message.content, str) else message.content
            if any(getattr(part, "type", "text") != "text" for part in parts):
                raise unsupported(self.package, "has prompts with images")
            yield self.vf.types.content_text(message.content)

    async def begin(self, task: Any, trace: Any) -> None:
        """Prepare a task."""
        await task.setup(**_taken(task.setup, trace=trace, runtime=None))

    async def finish(self, task: Any, trace: Any) -> None:
        """Score a task."""
        await task.finalize(**_taken(task.finalize, trace=trace, runtime=None))
        await task.score(trace)

    def verdict(self, trace: Any) -> Verdict:
        """Return a scored trace's reward. Its credit is the share of the best reward."""
        rewards = {name: reward for name, reward in trace.rewards.items() if reward is not None}
        best = sum(max(reward.weight, 0.0) for reward in rewards.values())
        if not best:
            raise unsupported(self.package, "has no reward function with a positive weight")
        terms = tuple((name, float(reward.value)) for name, reward in rewards.items())
        return Verdict(min(max(sum(value for _, value in terms) / best, 0.0), 1.0), terms)

    def _opening(self, task: Any) -> Iterator[Any]:
        """Yield the nodes of a task's prompt."""
        vf, prompt = self.vf, task.data.prompt
        turns = [vf.UserMessage(content=prompt)] if isinstance(prompt, str) else list(prompt)
        if task.data.system_prompt:
            turns.insert(0, vf.SystemMessage(content=task.data.system_prompt))
        for place, turn in enumerate(turns):
            yield vf.MessageNode(parent=place - 1 if place else None, message=turn, sampled=False)

    def new_trace(self, task: Any, nodes: Sequence[Any], **more: Any) -> Any:
        """Return a task's trace."""
        vf = self.vf
        return vf.Trace(
            verifiers=vf.VersionInfo(version=importlib.import_module("verifiers").__version__),  # else it looks for git
            task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash),
            agent=vf.AgentInfo(config=vf.AgentConfig()),
            state=importlib.import_module("verifiers.v1.state").state_cls(type(task))(),
            nodes=list(nodes),
            **more,
        )

    def _check_task(self, task: Any) -> None:
        """Raise ``TaskError`` if a task needs more than a model and tools."""
        if task.config.judges:
            names = ", ".join(type(judge).__name__ for judge in task.plugged_judges())
            raise TaskError(
                f"environment {self.package} asks a model to judge ({names}), which is not supported. Use [judge] "
                "instead, together with a verifier",
                next="swarmctl tasks list",
            )
        data = task.data
        for needed, what in (
            (task.NEEDS_CONTAINER or data.image or data.agent_user, "needs a container"),
            (data.skills, "has skills for an agent"),
            (data.artifacts, "collects files from a runtime"),
            (_intercepting(task), "changes what the model is asked or replies (@intercept)"),
        ):
            if needed:
                raise unsupported(self.package, what)
        hooks = (*task.hooks("reward"), *task.hooks("metric"), task.finalize, task.setup)
        base = (self.vf.Task.setup, self.vf.Task.finalize)
        running = [hook.__name__ for hook in hooks if _function(hook) not in base and _needs_runtime(hook)]
        if running:
            raise unsupported(self.package, f"runs programs to score an answer: {', '.join(running)} needs a runtime")
        if not task.hooks("reward"):
            raise unsupported(self.package, "has no reward function")
        check_terms(self.package, len(task.hooks("reward")))


def _function(hook: Callable[..., Any]) -> Any:
    return getattr(hook, "__func__", hook)


def _needs_runtime(hook: Callable[..., Any]) -> bool:
    parameter = inspect.signature(hook).parameters.get("runtime")
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _taken(hook: Callable[..., Any], **given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in inspect.signature(hook).parameters}


def _intercepting(task: Any) -> Iterable[str]:
    """Return the names of a task's methods that change requests or replies."""
    return [name for kind in type(task).__mro__ for name, each in vars(kind).items() if hasattr(each, "intercept")]
