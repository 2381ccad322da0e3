"""The Hugging Face hub: whether it accepts the token, and what is known about the profile's model without torch."""

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hivemind_exp.errors import KeyProblem
from hivemind_exp.foreign_text import foreign
from hivemind_exp.models import smollm2
from hivemind_exp.models.memory import TINY, Shape, count_weights
from hivemind_exp.providers import PROVIDERS
from swarmctl.doctor.check import LATER, Context, Finding, failed, ok, skipped, unknown, warning
from swarmctl.keys.finder import Key, LocationKind
from swarmctl.keys.http_client import HttpAnswer, Unanswered, request, timed_out
from swarmctl.keys.probe import headers_for
from swarmctl.paths import shown
from swarmctl.storage import hub_cache as places
from swarmctl.terminal.sentences import size

SECONDS = 2.0
"""Limit per request, including name resolution and redirects."""
_BUILT_IN = {
    "tiny": (Shape.read(TINY), "built locally"),
    smollm2.NAME: (Shape.read(smollm2.SHAPE), "in the Python package index"),
}
_USUAL = "Qwen/Qwen2.5-0.5B-Instruct"
"""The model that is suggested instead of one that cannot be downloaded."""
_OWN_COPY = "swarmctl run --model DIRECTORY"
"""``DIRECTORY`` stands for a copy of the model, downloaded elsewhere."""


def ask_hub(method: str, url: str, *, token: str | None = None) -> HttpAnswer:
    """Send a request; follow redirects only within the host. Raises Unanswered with a reason in lower case."""
    try:
        return request(method, url, headers_for(PROVIDERS["huggingface"], token), SECONDS)
    except Unanswered as error:
        reason = str(error)
        raise Unanswered(reason[:1].lower() + reason[1:]) from error


def _key(context: Context) -> Key | None:
    """Return the hub's token as a run would find it, without opening a keyring; None without a token."""
    return next(iter(context.keys.look("huggingface")), None)


def _ask_for_config(context: Context, method: str) -> HttpAnswer:
    """Request the config.json of the profile's model from the hub. Raises Unanswered."""
    wanted = context.config.model
    repository, revision = quote(wanted.name), quote(wanted.revision or "main", safe="")
    url = f"{places.endpoint(context.environment)}/{repository}/resolve/{revision}/config.json"
    key = _key(context)
    return ask_hub(method, url, token=key.value if key and not key.rival(context.environment) else None)


def shape(context: Context) -> tuple[Shape | None, str]:
    """Return the shape of the profile's model and where it was read, or None and why it is unknown."""
    return context.once("model", lambda: _find(context))


def _find(context: Context) -> tuple[Shape | None, str]:
    wanted = context.config.model
    directory, where = places.local_directory(wanted.name), "local directory"
    if directory is None:
        directory, where = places.snapshot(context.environment, wanted.name, wanted.revision), "cached"
    if directory is None and wanted.name in _BUILT_IN:
        return _BUILT_IN[wanted.name]
    if directory is not None:
        try:
            read = json.loads((directory / "config.json").read_bytes())
        except (OSError, ValueError, RecursionError):
            return None, f"{wanted.name} has no readable config.json"
        return _shaped(read, count_weights(places.weights(directory)), where)
    if context.offline or places.offline(context.environment):
        return None, f"{wanted.name} is not on this machine"
    try:
        answer = _ask_for_config(context, "GET")
        read = json.loads(answer.body) if answer.status == 200 else None
    except (KeyProblem, Unanswered, ValueError):
        read = None
    if not read:
        return None, f"cannot read {wanted.name}'s config.json from the hub"
    return _shaped(read, None, "on the hub")


def _shaped(read: Mapping[str, Any], parameters: int | None, where: str) -> tuple[Shape | None, str]:
    if found := Shape.read(read, parameters):
        return found, where
    kind = read.get("model_type", "unknown")
    return None, f"cannot compute the size of a model of type {foreign(kind)} from its config.json"


def login() -> str:
    """Return the command that signs in to the hub."""
    return f"{'hf' if shutil.which('hf') else shlex.quote(str(Path(sys.executable).with_name('hf')))} auth login"


def token(context: Context) -> Finding:
    """Ask the hub whether it accepts the token. Costs and changes nothing."""
    key = _key(context)
    if key is None:
        return ok("no token; only gated and private models need one")
    if context.offline or places.offline(context.environment):
        return skipped(f"{key.label}; not checked (offline)")
    if not key.value:
        return ok(f"{key.label}; to test it, run `swarmctl keys test huggingface`")
    address = places.endpoint(context.environment)
    if key.rival(context.environment):
        return skipped(
            f"{key.label}; not checked: it belongs to {key.origin} and is not sent to {address} ($HF_ENDPOINT)"
        )
    return _asked(context, key, address)


def _asked(context: Context, key: Key, address: str) -> Finding:
    try:
        answer = ask_hub("GET", f"{address}/api/whoami-v2", token=key.value)
    except Unanswered as error:
        return skipped(f"{key.label}; cannot reach {address}: {error}")
    if answer.status == 200:
        if context.resolved is not None and context.config.hub.repo and _role(answer) == "read":
            text = f"{key.label} is accepted but read-only; pushing to hub.repo needs a token with write access"
            return failed(text, "swarmctl keys set huggingface")
        return ok(f"{key.label}, accepted")
    if answer.status in (401, 403):
        remedy = f"unset {key.spot.source}" if key.spot.place is LocationKind.ENVIRONMENT else login()
        return failed(f"{key.label}: the hub rejects this token (HTTP {answer.status})", remedy)
    return skipped(f"{key.label}; cannot check it: {address} responded with HTTP {answer.status}")


def _role(answer: HttpAnswer) -> str | None:
    """Return the role of a token: "read", "write" or "fineGrained"; None if the hub does not report it."""
    try:
        return str(json.loads(answer.body)["auth"]["accessToken"]["role"])
    except (ValueError, KeyError, TypeError):
        return None


def model(context: Context) -> Finding:
    """Look for the model on this machine, then on the hub, as ``run`` would."""
    wanted = context.config.model
    if wanted.name == "tiny":
        return ok("tiny is built locally; nothing to download")
    directory = places.local_directory(wanted.name)
    if directory is not None:
        return _directory(directory)
    cached = places.snapshot(context.environment, wanted.name, wanted.revision)
    held = _weights_size(cached) if cached is not None else 0
    if held:
        return ok(f"{wanted.name} is cached, {size(held)}")
    if wanted.name == smollm2.NAME:
        return ok(f"{smollm2.TITLE} is not on this machine; the first run downloads it ({smollm2.DOWNLOAD})")
    have = f"only the configuration of {wanted.name} is cached" if cached else f"{wanted.name} is not on this machine"
    if places.offline(context.environment):
        return failed(f"{have}, and HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
    return skipped(f"{have}; the hub was not checked (offline)") if context.offline else _remote(context, have)


def _weights_size(directory: Path) -> int:
    return sum(path.stat().st_size for path in places.weights(directory))


def _directory(path: Path) -> Finding:
    from hivemind_exp.models.model_location import without_config

    if not (path / "config.json").is_file():
        what, command = without_config(path)
        return failed(f"{shown(path)} is not a model directory: {what}", command or _OWN_COPY)
    if not places.weights(path):
        return failed(f"{shown(path)} has a config.json but no weights", _OWN_COPY)
    return ok(f"{shown(path)}, {size(_weights_size(path))}")


def _remote(context: Context, have: str) -> Finding:
    address = places.endpoint(context.environment)
    try:
        answer = _ask_for_config(context, "HEAD")
    except Unanswered as error:
        text = f"{have}, and {address} is unreachable: {error}. To use a local copy, pass --model DIRECTORY"
        return (unknown if timed_out(error) else failed)(text, "swarmctl run --profile demo")
    if answer.status < 400:
        return ok(f"{have}; the first run downloads it from the hub")
    text = f"{have}, and {address} responded with HTTP {answer.status}. {LATER}"
    return _refused(context, answer) or warning(text, context.again("hub"))


def _refused(context: Context, answer: HttpAnswer) -> Finding | None:
    """Return the finding for a refusal. Without access, a private model looks the same as a missing one."""
    name, code, key = context.config.model.name, answer.headers.get("x-error-code"), _key(context)
    default = context.changed(model__name=smollm2.NAME if name == _USUAL else _USUAL)
    if code == "GatedRepo" or answer.status == 403:
        if key is None:
            return failed(f"{name} is gated: sign in with an account that has accepted its terms", login())
        return failed(f"{name} is gated, and the account of {key.label} has no access to it", default)
    if code == "RevisionNotFound":
        text = f"{name} has no revision {context.config.model.revision}"
        return failed(text, context.changed(model__revision="main"))
    if answer.status in (401, 404):
        return failed(f"the hub has no model {name}{'' if key else ' (a private model needs a token)'}", default)
    return None
