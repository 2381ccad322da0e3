"""What both versions of ``verifiers`` need: the form of an answer, and an event loop for reward functions."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from hivemind_exp.errors import NodeError, TaskError

FORMS = ("{}", "\\boxed{{{}}}", "<answer>\n{}\n</answer>", "<think>\n\n</think>\n{}", "#### {}")
"""Completions that contain just an answer. An environment reads at least one of them."""
_MARK = re.compile(r"<([A-Za-z][\w-]{0,40})>")
_FEW_MARKS = 4
MOST_STEPS = 10_000
"""Steps of the event loop that one call may take. A call that takes more waits for something outside."""


def unsupported(package: str, what: str) -> TaskError:
    """Return the error for an environment that needs something that is missing here."""
    return TaskError(f"environment {package} {what}, which is not supported", next="swarmctl tasks list")


class Loop:
    """Runs reward functions that are coroutines. Make it before the sandbox closes, because it needs a socket pair."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._loop = asyncio.new_event_loop()

    def run(self, coroutine: Coroutine[Any, Any, Any], what: str) -> Any:
        """Return a coroutine's result. Raises ``TaskError`` if it waits, for a network or a clock."""
        task = self._loop.create_task(coroutine)
        for _ in range(MOST_STEPS):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()
            if task.done():
                return task.result()
        task.cancel()
        self._loop.call_soon(self._loop.stop)
        self._loop.run_forever()
        raise unsupported(self._package, f"waits for something in {what}, such as a model that judges")


def forms_for(texts: Iterable[str]) -> list[str]:
    """Return the forms in which an answer may be expected, after these prompts: those with their tags come last."""
    marks = dict.fromkeys(name for text in texts for name in _MARK.findall(text))
    return [*FORMS, *(f"<{name}>{{}}</{name}>" for name in [*marks][:_FEW_MARKS] if name not in ("answer", "think"))]


def written(form: str, answer: str) -> str:
    """Return a completion with just this answer. One that is already in the form is not put into it again."""
    begin = form.partition("{}")[0].replace("{{", "{").strip()
    return answer if begin and begin in answer else form.format(answer)


def best_form(forms: Sequence[str], references: Sequence[str], credit: Callable[[str, int], float]) -> str:
    """Return the form in which the reference answers earn most; the first of several.

    ``credit``: the credit of a completion for the reference at a position.
    """
    found, most = forms[0], -1.0
    for form in forms:
        earned = sum(_credit(credit, written(form, answer), place) for place, answer in enumerate(references))
        if earned > most:
            found, most = form, earned
    return found


def _credit(credit: Callable[[str, int], float], text: str, place: int) -> float:
    """Return the credit, which is 0 if the environment cannot read a text in this form."""
    try:
        return credit(text, place)
    except NodeError:
        raise
    except Exception:  # noqa: BLE001 - an environment may raise anything for an answer that it cannot read
        return 0.0
