"""Keys: which ones the profile needs, where each comes from, and whether a keyring is available."""

import os
import shlex
import sys
from importlib.util import find_spec
from netrc import NetrcParseError, netrc
from pathlib import Path
from urllib.parse import urlsplit

from hivemind_exp.foreign_text import foreign
from swarmctl.doctor.check import Context, Finding, failed, ok, skipped, unknown, warning
from swarmctl.doctor.checks.installation import install
from swarmctl.keys.key_text import dotted_tail, last_four
from swarmctl.keys.keyring import Keyring
from swarmctl.paths import shown
from swarmctl.terminal.prompter import Prompter


def keyring(context: Context) -> Finding:
    """Check which keyring ``keys set`` would use, and whether it is locked."""
    again = context.again("keys")
    try:
        answer = Keyring(Prompter(silent=True)).state()
    except TimeoutError as error:
        return unknown(f"the keyring did not respond {error}; keys from the environment still work", again)
    match answer:
        case {"error": "absent"}:
            return skipped(
                "no keyring on this machine, as on most servers; `swarmctl keys set` offers a file that only you can "
                "read, and keys from the environment work, too"
            )
        case {"error": _, "message": message}:
            return failed(f"cannot use the keyring: {foreign(message)}", again)
        case {"backend": kind, "problem": str(problem)}:
            return warning(f"{kind}: {foreign(problem)}; keys from the environment still work")
        case {"backend": kind, "locked": True}:
            # Reading any entry, even a missing one, opens the dialog that unlocks the keyring.
            return warning(f"{kind} is locked", f"{shlex.quote(sys.executable)} -m keyring get swarmctl unlock")
        case {"backend": kind, "locked": locked}:
            return ok(f"{kind}, unlocked" if locked is False else f"{kind}; cannot see whether it is locked")
    raise ValueError(f"unexpected answer from the keyring helper: {answer}")


def huggingface(context: Context) -> Finding:
    """Report where the hub's token comes from. ``hub.token`` checks whether the hub accepts it."""
    found = _found("huggingface", context)
    if found is None and context.resolved is not None and context.config.hub.repo:
        return failed("hub.repo is set, but there is no token to push with", "swarmctl keys set huggingface")
    return found or ok("no token; only gated and private models need one")


def wandb(context: Context) -> Finding:
    """Check what reporting to Weights & Biases needs, if the profile uses it."""
    if "wandb" not in context.config.report.to:
        return ok("not needed: report.to does not include wandb")
    if find_spec("wandb") is None:
        return failed("report.to includes wandb, but wandb is not installed", install("wandb"))
    if context.environment.get("WANDB_MODE") in ("offline", "disabled"):
        return ok(f"not needed: WANDB_MODE is {context.environment['WANDB_MODE']}")
    login = _login(context)
    found = _found("wandb", context, *([login] if login else []))
    return found or failed("report.to includes wandb, but there is no wandb key", "swarmctl keys set wandb")


def _found(name: str, context: Context, *more: tuple[str, str]) -> Finding | None:
    """Report the key that is used and those it overrides. ``more``: (value, label) of keys for other programs."""
    found = [*((key.value, key.label) for key in context.keys.look(name)), *more]
    if not found:
        return None
    (used, first), *others = found
    hidden = [label for value, label in others if not value or value != used]
    return ok(first + (f", which overrides {', '.join(hidden)}" if hidden else ""))


def _login(context: Context) -> tuple[str, str] | None:
    """Return the key that ``wandb login`` saved, as (value, label). The wandb library reads it, so runs need not."""
    path = Path(os.path.expanduser(context.environment.get("NETRC", "~/.netrc")))
    host = urlsplit(context.environment.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        entry = netrc(str(path)).authenticators(host)
    except (OSError, NetrcParseError, UnicodeDecodeError):
        return None
    return (entry[2], f"{dotted_tail(last_four(entry[2]))} from {shown(path)}") if entry and entry[2] else None
