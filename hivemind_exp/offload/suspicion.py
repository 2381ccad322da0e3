"""What a service's answers give away about it, told once."""

from __future__ import annotations

import re

from hivemind_exp.events import Emit
from hivemind_exp.offload.api.chat import Answer, Fault
from hivemind_exp.offload.router import Service

ALIKE = 3
"""Groups in a row of equal completions, after which a server is said to ignore the temperature."""


class Suspicion:
    """Looks at answers, and warns of a server that answers as another model or samples greedily."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._alike = 0

    def look(self, service: Service, answer: Answer, texts: list[str]) -> None:
        """Take up one answer; ``texts`` are its usable completions."""
        if answer.model and not _same(_short(service.endpoint.model), _short(answer.model)):
            self._warn(
                service, "another_model", f"was asked for {service.endpoint.model} and answers as {answer.model}"
            )
        if len(texts) > 1:
            self._alike = self._alike + 1 if len(set(texts)) == 1 else 0
        if self._alike >= ALIKE:
            self._warn(service, "greedy", "gives equal completions of one prompt: it seems to ignore the temperature")

    def prompt_refused(self, service: Service, fault: Fault) -> None:
        """Tell that a service does not take every prompt."""
        self._warn(service, "prompt_refused", f"does not take every prompt ({fault.detail}); such places stay empty")

    def _warn(self, service: Service, code: str, text: str) -> None:
        if code not in service.warned:
            service.warned.add(code)
            self._emit("warning", code=code, message=f"{service.endpoint.label} {text}")


def _same(asked: str, told: str) -> bool:
    """Whether one name is the other, or a version of it: ``gpt-4o-2024-08-06`` of ``gpt-4o``; not ``gpt-4o-mini``."""
    short, long = sorted((asked, told), key=len)
    return re.fullmatch(rf"{re.escape(short)}([-@:](\d[\d.-]*|latest|free|v\d+))?", long) is not None


def _short(model: str) -> str:
    """Return a model's name without its owner: services add and drop it."""
    return model.rsplit("/", 1)[-1].lower()
