"""What both versions of ``verifiers`` need: the form of an answer, and an event loop for reward functions."""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from hivemind_exp.errors import NodeError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.tasks.base import FULL_CREDIT, MOST_TERMS, Verdict
from hivemind_exp.tasks.families.own_code import UnsupportedTask

FORMS = ("{}", "\\boxed{{{}}}", "<answer>\n{}\n</answer>", "<think>\n\n</think>\n{}", "#### {}")
"""Completions that contain just an answer. An environment reads at least one of them."""
_MARK = re.compile(r"<([A-Za-z][\w-]{0,40})>")
_FEW_MARKS = 4
ENDLESS = "goes on with a conversation in which the model gets no further turn"
_TRIED = 8
"""Number of reference answers that decide the form of an answer."""
MOST_STEPS = 1000
"""Steps of the event loop that one call may take. A call that takes more waits for something outside."""
_LAST_STEPS = 20
"""Steps that a cancelled call may take."""


def unsupported(package: str, what: str) -> UnsupportedTask:
    """Return the error for an environment that needs something that is missing here."""
    return UnsupportedTask(f"environment {package} {what}, which is not supported", next="swarmctl tasks list")


def check_terms(package: str, count: int) -> None:
    """Raise ``TaskError`` if an environment has more weighted reward functions than a reward may have parts."""
    if count > MOST_TERMS:
        raise unsupported(package, f"has {count} weighted reward functions, more than {MOST_TERMS}")


class _AtOnce(ThreadPoolExecutor):
    """Runs what is meant for another thread in this one: the sandbox has no threads."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the caller gets it
            done.set_exception(error)
        return done


class EnvironmentLoop:
    """Runs coroutines of an environment. Make it before the sandbox closes, because it needs a socket pair."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_AtOnce(1))
        self._loop.set_exception_handler(lambda *_: None)  # a conversation that is given up is no error

    def run(self, coroutine: Coroutine[Any, Any, Any], what: str) -> Any:
        """Return a coroutine's result. Raises ``TaskError`` if it waits, for a network or a clock."""
        task = self.begin(coroutine)
        self.run_until(task, task.done, what)
        return task.result()

    def begin(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Return a coroutine as a task, which runs in ``run_until``."""
        return self._loop.create_task(coroutine)

    def future(self) -> asyncio.Future[Any]:
        """Return a future of this loop."""
        return self._loop.create_future()

    def run_until(self, task: asyncio.Task[Any], until: Callable[[], bool], what: str) -> None:
        """Run a task until something holds. Raises ``TaskError`` if it waits, for a network or a clock."""
        if not self._holds(until, MOST_STEPS):
            task.cancel()
            self._holds(task.done, _LAST_STEPS)
            raise unsupported(self._package, f"waits for something in {what}, such as a model that judges")

    def _holds(self, what: Callable[[], bool], steps: int) -> bool:
        """Take steps until something holds. Return whether it does."""
        for _ in range(steps):
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()  # one step
            if what():
                return True
        return False


def forms_for(texts: Iterable[str]) -> list[str]:
    """Return the forms in which an answer may be expected, after these prompts: those with their tags come last."""
    marks = dict.fromkeys(name for text in texts for name in _MARK.findall(text))
    return [*FORMS, *(f"<{name}>{{}}</{name}>" for name in [*marks][:_FEW_MARKS] if name not in ("answer", "think"))]


def written(form: str, answer: str) -> str:
    """Return a completion with just this answer. One that is already in the form is not put into it again."""
    begin = form.partition("{}")[0].replace("{{", "{").strip()
    return answer if begin and begin in answer else form.format(answer)


def choose_form(package: str, rows: Sequence[dict[str, Any]], score: Callable[[str, dict[str, Any]], Verdict]) -> None:
    """Set each row's ``"form"``: that in which the reference answers (``"answer"``) earn most; the first of several.

    Where they never earn the whole reward, they are no references, and ``"answer"`` becomes None.
    Raises ``TaskError`` if they earn nothing.
    """
    forms = forms_for(row["question"] for row in rows[:_TRIED])
    known = [row for row in rows if row["answer"] is not None][:_TRIED]

    def earned(form: str, row: dict[str, Any]) -> float:
        return _credit(lambda: score(row["answer"], row | {"form": form}))

    total = {form: sum(earned(form, row) for row in known) for form in forms}
    best = max(forms, key=total.__getitem__) if known else forms[0]
    if known and not total[best]:
        score(known[0]["answer"], known[0] | {"form": best})  # the reason, if it is an exception
        raise unsupported(
            package, f"gives the reference answer {foreign(known[0]['answer'], 80)} no reward in any supported form"
        )
    right = not known or all(earned(best, row) >= FULL_CREDIT for row in known)
    if not right:
        print(f"The reference answers earn {total[best] / len(known):.0%} of the reward, so they are not used.")
    for row in rows:
        row.update(form=best, answer=row["answer"] if right else None)


def _credit(score: Callable[[], Verdict]) -> float:
    """Return the credit, which is 0 if the environment cannot read a text in this form."""
    try:
        return score().credit
    except NodeError:
        raise
    except Exception:  # noqa: BLE001 - an environment may raise anything for an answer that it cannot read
        return 0.0
