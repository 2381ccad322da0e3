"""Keys: which ones the profile needs, where each comes from, and whether there is a keyring to keep them in."""

import os
import shlex
import sys
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from swarmctl.doctor.check import Context, Finding, failed, ok, skipped, warning
from swarmctl.doctor.checks.installation import install
from swarmctl.keys.key_text import dotted_tail, last_four
from swarmctl.keys.keyring import Keyring
from swarmctl.paths import shown
from swarmctl.terminal.prompter import Prompter


def keyring(context: Context) -> Finding:
    """Find the keyring that ``keys set`` would use, and whether it is locked."""
    again = context.again("keys")
    try:
        answer = Keyring(Prompter(silent=True)).state()
    except TimeoutError as error:
        return failed(f"the keyring does not answer {error}; keys from the environment work", again)
    match answer:
        case {"error": "absent"}:
            return skipped("no keyring here, as on most servers; keys come from the environment")
        case {"error": _, "message": message}:
            return failed(f"the keyring cannot be asked: {message}", again)
        case {"backend": kind, "problem": str(problem)}:
            return warning(f"{kind}: {problem}; keys from the environment work")
        case {"backend": kind, "locked": True}:
            # Reading what is not there opens the dialog that unlocks.
            return warning(f"{kind} is locked", f"{shlex.quote(sys.executable)} -m keyring get swarmctl unlock")
        case {"backend": kind, "locked": locked}:
            return ok(f"{kind}, unlocked" if locked is False else f"{kind}; whether it is locked is not told")
    raise ValueError(f"the keyring's helper answers {answer}")


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
    login = _login(context)
    found = _found("wandb", context, *([login] if login else []))
    return found or failed("report.to names wandb, and there is no key for it", "swarmctl keys set wandb")


def _found(name: str, context: Context, *more: tuple[str, str]) -> Finding | None:
    """Say which key is used and which others that hides; ``more``: (value, label) of those that only others use."""
    found = [*((key.value, key.label) for key in context.keys.look(name)), *more]
    if not found:
        return None
    (used, first), *others = found
    hidden = [label for value, label in others if not value or value != used]
    return ok(first + (f", which hides {', '.join(hidden)}" if hidden else ""))


def _login(context: Context) -> tuple[str, str] | None:
    """Return what ``wandb login`` left, as (value, label). Its library reads that by itself, so no run is given it."""
    path = Path(os.path.expanduser(context.environment.get("NETRC", "~/.netrc")))
    host = urlsplit(context.environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        entry = netrc(str(path)).authenticators(host)
    except (OSError, NetrcParseError, UnicodeDecodeError):
        return None
    return (entry[2], f"{dotted_tail(last_four(entry[2]))} from {shown(path)}") if entry and entry[2] else None
