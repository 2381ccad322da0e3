"""The system's keyring: Secret Service, KWallet or the macOS Keychain, and nothing else. Every call is bounded."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from hivemind_exp.errors import KeyProblem
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.secrets import without_secrets
from swarmctl.keys.key_text import file_variable
from swarmctl.terminal.prompter import Prompter

ALONE_S = 3.0
"""How long a keyring may take where nobody could answer its dialog."""
ATTENDED_S = 60.0
"""How long it may take where somebody could."""
QUIET_S = 1.0
"""After this, whoever waits is told what for."""
_UNLOCK = (
    "security unlock-keychain"
    if sys.platform == "darwin"
    else 'read -rs PASSWORD && printf %s "$PASSWORD" | gnome-keyring-daemon --replace --unlock --components=secrets'
)
_HELPER = Path(__file__).with_name("keyring_helper.py")


class KeyringAbsent(KeyProblem):
    """This machine, or this login, has no keyring."""

    code = "keyring_absent"


class KeyringLocked(KeyProblem):
    """The keyring is there, and locked."""

    code = "keyring_locked"


class KeyringSilent(KeyProblem):
    """The keyring did not answer in time, or answered with an error."""

    code = "keyring_silent"


class Keyring:
    """Keys in the system's keyring, each under its name and host: asked for another host, it has none."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter

    def get(self, name: str, host: str) -> str | None:
        """Return a key, or None where it is not there. Raises KeyProblem."""
        return self._call("get", name, host)

    def set(self, name: str, host: str, key: str) -> None:
        """Write a key and read it back. Raises KeyProblem."""
        if self._call("set", name, host, key) != key:
            raise KeyringSilent("the keyring took the key but does not give it back", next=_in_a_file(name))

    def delete(self, name: str, host: str) -> None:
        """Remove a key; one that is not there is no error. Raises KeyProblem."""
        self._call("delete", name, host)

    def state(self) -> dict[str, Any]:
        """Return which keyring there is and how it is, as the helper says. Reads no secret; raises TimeoutError."""
        return self._ask({"do": "state"})

    def _call(self, do: Literal["get", "set", "delete"], name: str, host: str, key: str | None = None) -> str | None:
        try:
            answer = self._ask({"do": do, "user": f"{name}@{host}", "key": key})
        except TimeoutError as error:
            text = f"the keyring did not answer {error}. {_instead(name)} (a 0600 file)"
            raise KeyringSilent(text, next=_in_a_file(name)) from None
        match answer:
            case {"error": "locked"}:
                text = f"the keyring is locked. Unlock it on the desktop, or here with its password. {_instead(name)}"
                raise KeyringLocked(text, next=_UNLOCK)
            case {"error": "absent"}:
                text = f"this login has no keyring (no Secret Service, no KWallet). {_instead(name)} (a 0600 file)"
                raise KeyringAbsent(text, next=_in_a_file(name))
            case {"error": _, "message": message}:
                raise KeyringSilent(f"the keyring failed: {message}. {_instead(name)}", next=_in_a_file(name))
        return None if answer["key"] is None else str(answer["key"])

    def _ask(self, order: dict[str, str | None]) -> dict[str, Any]:
        # By its path and without the current directory: nothing else may answer to the name keyring.
        process = subprocess.Popen(
            [sys.executable, "-P", str(_HELPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=without_secrets(os.environ),
        )
        limit = ATTENDED_S if self._prompter.can_ask else ALONE_S
        try:
            output = self._wait(process, json.dumps(order).encode(), limit)
            return dict(json.loads(output.splitlines()[-1]))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"within {limit:g} s") from None
        except (ValueError, IndexError):
            return {"error": "failed", "message": "the process that asks it ended without a word"}
        finally:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes], order: bytes | None, limit: float) -> bytes:
        if self._prompter.can_ask:
            with suppress(subprocess.TimeoutExpired):
                return process.communicate(order, timeout=QUIET_S)[0]
            self._prompter.say(f"Waiting up to {limit:g} s for the keyring: it may be showing a dialog.")
            order, limit = None, limit - QUIET_S
        return process.communicate(order, timeout=limit)[0]


def _instead(name: str) -> str:
    row = PROVIDERS.get(name)
    variable = f"set {row.variables[0]}, " if row and row.variables else ""
    file = f"name a file with the key in {file_variable(name)}"
    return f"Without it: {variable}{file}, or save it with --insecure-storage"


def _in_a_file(name: str) -> str:
    return f"swarmctl keys set {name} --insecure-storage"
