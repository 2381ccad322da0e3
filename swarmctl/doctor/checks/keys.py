"""Keys: which ones the profile needs, where each comes from, and whether there is a keyring to keep them in."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.util import find_spec

from swarmctl.doctor.check import Context, Finding, failed, ok, skipped, warning
from swarmctl.doctor.checks.hub_token import find_keys
from swarmctl.doctor.checks.installation import install
from swarmctl.doctor.subprocesses import ask
from swarmctl.keys import keyring_probe

SECONDS = 3.0
"""Limit of the keyring, which may wait for a dialog that nobody sees."""
_OF_THE_SYSTEM = ("SecretService", "kwallet", "libsecret", "macOS")


def keyring(context: Context) -> Finding:
    """Find the keyring and whether it is locked, in a process that can be killed: one that hangs hangs for ever."""
    again = context.again("keys")
    without = f"PYTHON_KEYRING_BACKEND=keyring.backends.fail.Keyring {again}"
    try:
        # By its path and without the current directory: nothing else may answer to the name keyring.
        done = ask([sys.executable, "-P", keyring_probe.__file__], limit=SECONDS, environment=context.environment)
    except subprocess.TimeoutExpired:
        return failed(f"the keyring does not answer within {SECONDS:g} s; keys from the environment work", without)
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return failed(f"the keyring cannot be asked: {last}", _without_choice(context) or without)
    return _judged(answer)


def _without_choice(context: Context) -> str | None:
    return "unset PYTHON_KEYRING_BACKEND" if context.environment.get("PYTHON_KEYRING_BACKEND") else None


def _judged(answer: dict[str, object]) -> Finding:
    backend = str(answer["backend"])
    kind = backend.removeprefix("keyring.backends.").split(".", 1)[0]
    if kind == "fail":
        return skipped("no keyring here, as on most servers; keys come from the environment")
    if kind not in _OF_THE_SYSTEM:
        return warning(
            f"{backend} is no keyring of the system: keys would lie in a file or nowhere",
            install("keyring", "secretstorage"),
        )
    if answer.get("problem"):
        return warning(f"{kind}: {answer['problem']}; keys from the environment work")
    if answer["locked"]:
        # Reading what is not there opens the dialog that unlocks.
        return warning(f"{kind} is locked", f"{shlex.quote(sys.executable)} -m keyring get swarmctl unlock")
    return ok(f"{kind}, unlocked" if answer["locked"] is False else f"{kind}; whether it is locked is not told")


def huggingface(context: Context) -> Finding:
    """Tell where the hub's token comes from. Whether the hub accepts it is ``hub.token``."""
    found = _found("huggingface", context)
    if found is None and context.resolved is not None and context.config.hub.repo:
        return failed("hub.repo is set, and there is no token to push with", "swarmctl keys set huggingface")
    return found or ok("none; only gated and private models need one")


def wandb(context: Context) -> Finding:
    """Look for what reporting to Weights & Biases needs, where the profile asks for it."""
    if "wandb" not in context.config.report.to:
        return ok("not needed: report.to does not name wandb")
    if find_spec("wandb") is None:
        return failed("report.to names wandb, which is not installed", install("wandb"))
    if context.environment.get("WANDB_MODE") in ("offline", "disabled"):
        return ok(f"not needed: WANDB_MODE is {context.environment['WANDB_MODE']}")
    return _found("wandb", context) or failed(
        "report.to names wandb, and there is no key for it", "swarmctl keys set wandb"
    )


def _found(name: str, context: Context) -> Finding | None:
    found = find_keys(name, context.environment)
    if not found:
        return None
    hidden = [other for other in found[1:] if other.value is None or other.value != found[0].value]
    return ok(found[0].label + (f", which hides {', '.join(other.label for other in hidden)}" if hidden else ""))
