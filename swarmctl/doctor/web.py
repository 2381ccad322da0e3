"""One small request to the hub, within the time that a check has."""

from hivemind_exp.providers import PROVIDERS
from swarmctl.keys.http_client import HttpAnswer, Unanswered, request
from swarmctl.keys.probe import headers_for

SECONDS = 2.0
"""Limit of one request, name server and redirects included."""


def ask_hub(method: str, url: str, *, token: str | None = None) -> HttpAnswer:
    """Ask, following redirects within the host alone. Raises Unanswered, with a reason that begins small."""
    try:
        return request(method, url, headers_for(PROVIDERS["huggingface"], token), SECONDS)
    except Unanswered as error:
        reason = str(error)
        raise Unanswered(reason[:1].lower() + reason[1:]) from error
