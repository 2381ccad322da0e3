"""An environment's own loop, which waits where it asks a model until the node has the model's turn."""

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any

from hivemind_exp.tasks.families.environment_answers import EnvironmentLoop


class ModelTurns:
    """One rollout of an environment, as a coroutine that calls ``ask`` for each turn of the model."""

    def __init__(self, loop: EnvironmentLoop) -> None:
        self._loop = loop
        self._waiting: asyncio.Future[Any] | None = None
        self._task: asyncio.Task[Any] | None = None

    @property
    def wanted(self) -> bool:
        """Whether the environment waits for a turn of the model. If not, it has ended."""
        return self._waiting is not None

    @property
    def result(self) -> Any:
        """What the coroutine returned. Raises what it raised."""
        assert self._task is not None
        return self._task.result()

    def start(self, rollout: Coroutine[Any, Any, Any], context: contextvars.Context | None = None) -> None:
        """Run the coroutine until it wants a turn, or ends. Raises ``TaskError`` if it waits for something else."""
        self._task = (context or contextvars.copy_context()).run(self._loop.begin, rollout)
        self._go_on()

    async def ask(self) -> Any:
        """Return the model's next turn, once it is there. For the coroutine."""
        self._waiting = self._loop.future()
        return await self._waiting

    def answer(self, turn: Any) -> None:
        """Let the coroutine go on with a turn, or with an exception instead of one."""
        waiting, self._waiting = self._waiting, None
        assert waiting is not None
        if isinstance(turn, Exception):
            waiting.set_exception(turn)
        else:
            waiting.set_result(turn)
        self._go_on()

    def _go_on(self) -> None:
        task = self._task
        assert task is not None
        self._loop.run_until(task, lambda: self._waiting is not None or task.done(), "its turns")
        if task.done():
            self._waiting = None
