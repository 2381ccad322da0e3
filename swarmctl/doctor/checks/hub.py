"""The Hugging Face hub: whether it knows the token, and whether the profile's model can be had."""

import json
import shlex
import shutil
import sys
from pathlib import Path

from swarmctl.doctor.check import Context, Finding, failed, ok, skipped, warning
from swarmctl.doctor.checks.model import ask_for_config, hub_key
from swarmctl.doctor.web import ask_hub
from swarmctl.keys.finder import Key, LocationKind
from swarmctl.keys.http_client import HttpAnswer, Unanswered
from swarmctl.paths import shown
from swarmctl.storage import hub_cache as places
from swarmctl.terminal.sentences import size


def login() -> str:
    """Return the command that signs in to the hub."""
    beside = Path(sys.executable).with_name("hf")
    return "hf auth login" if shutil.which("hf") else f"{shlex.quote(str(beside))} auth login"


def token(context: Context) -> Finding:
    """Ask the hub whether it knows the token. Free, and it changes nothing."""
    key = hub_key(context)
    if key is None:
        return ok("no token; public models need none")
    if context.offline or places.offline(context.environment):
        return skipped(f"{key.label}; not asked, offline")
    if not key.value:
        return ok(f"{key.label}; `swarmctl keys test huggingface` asks the hub about it")
    address = places.endpoint(context.environment)
    if key.rival(context.environment):
        return skipped(f"{key.label}; it is for {places.ENDPOINT} and is not shown to {address} ($HF_ENDPOINT)")
    return _asked(context, key, address)


def _asked(context: Context, key: Key, address: str) -> Finding:
    try:
        answer = ask_hub("GET", f"{address}/api/whoami-v2", token=key.value)
    except Unanswered as error:
        return skipped(f"{key.label}; {address} cannot be reached: {error}")
    if answer.status == 200:
        if context.resolved is not None and context.config.hub.repo and _role(answer) == "read":
            text = f"{key.label} is accepted, but may only read, and hub.repo is set: pushing needs one that may write"
            return failed(text, "swarmctl keys set huggingface")
        return ok(f"{key.label}, accepted")
    if answer.status in (401, 403):
        cure = f"unset {key.spot.source}" if key.spot.place is LocationKind.ENVIRONMENT else login()
        return failed(f"{key.label}: the hub refuses it ({answer.status})", cure)
    return skipped(f"{key.label}; {address} does not tell whether it is good ({answer.status})")


def _role(answer: HttpAnswer) -> str | None:
    """Return what a token may do: "read", "write" or "fineGrained"; None where the hub does not tell."""
    try:
        return str(json.loads(answer.body)["auth"]["accessToken"]["role"])
    except (ValueError, KeyError, TypeError):
        return None


def model(context: Context) -> Finding:
    """Look for the model on this machine, else ask the hub for it as ``run`` would."""
    wanted = context.config.model
    if wanted.name == "tiny":
        return ok("tiny is built on the spot; no hub is needed")
    directory = places.local_directory(wanted.name)
    if directory is not None:
        return _directory(directory)
    cached = places.snapshot(context.environment, wanted.name, wanted.revision)
    held = sum(path.stat().st_size for path in places.weights(cached)) if cached is not None else 0
    if held:
        return ok(f"{wanted.name} is cached, {size(held)}")
    have = f"of {wanted.name} only the configuration is cached" if cached else f"{wanted.name} is not on this machine"
    if places.offline(context.environment):
        return failed(f"{have}, and HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
    if context.offline:
        return skipped(f"{have}; the hub was not asked, offline")
    return _remote(context, have)


def _directory(path: Path) -> Finding:
    demo = "swarmctl run --profile demo"
    if not (path / "config.json").is_file():
        return failed(f"{shown(path)} holds no model: config.json is missing", demo)
    found = places.weights(path)
    if not found:
        return failed(f"{shown(path)} has a config.json but no weights", demo)
    return ok(f"{shown(path)}, {size(sum(each.stat().st_size for each in found))}")


def _remote(context: Context, have: str) -> Finding:
    address = places.endpoint(context.environment)
    try:
        answer = ask_for_config(context, "HEAD")
    except Unanswered as error:
        return failed(f"{have}, and {address} cannot be reached: {error}", "swarmctl run --profile demo")
    if answer.status < 400:
        return ok(f"{have}; the hub has it, the first run downloads it")
    return _refused(context, answer) or warning(
        f"{have}, and {address} answers with {answer.status}", context.again("hub")
    )


def _refused(context: Context, answer: HttpAnswer) -> Finding | None:
    """Return what a refusal means. To a stranger, a private model and none at all are the same."""
    name, code, key = context.config.model.name, answer.headers.get("x-error-code"), hub_key(context)
    default = context.changed(model__name="Qwen/Qwen2.5-0.5B-Instruct")
    if code == "GatedRepo" or answer.status == 403:
        if key is None:
            return failed(f"{name} is gated: its owners want your account to accept their terms", login())
        return failed(f"{name} is gated, and the account of {key.label} has not been let in", default)
    if code == "RevisionNotFound":
        text = f"{name} has no revision {context.config.model.revision}"
        return failed(text, context.changed(model__revision="main"))
    if answer.status in (401, 404):
        return failed(f"the hub knows no model {name}{'' if key else ' (a private one needs a token)'}", default)
    return None
