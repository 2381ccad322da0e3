"""The system keyring: Secret Service, KWallet or the macOS Keychain only. Every call has a time limit."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from hivemind_exp.errors import KeyProblem
from hivemind_exp.foreign_text import foreign
from hivemind_exp.providers import PROVIDERS
from hivemind_exp.secrets import without_secrets
from swarmctl.keys.key_text import file_variable
from swarmctl.terminal.prompter import Prompter

ALONE_S = 3.0
"""Time limit when no one can answer the keyring's dialog. The helper's own CPU time does not count."""
ATTENDED_S = 60.0
"""Time limit when someone can answer it."""
QUIET_S = 1.0
"""After this time, a message says what the command is waiting for."""
_LOOK_S = 0.25
_BUSY = (
    ("running",) if sys.platform == "darwin" else ("running", "waiting")
)  # macOS does not report which processes are asleep
_UNLOCK = (
    "security unlock-keychain"
    if sys.platform == "darwin"
    else 'read -rs PASSWORD && printf %s "$PASSWORD" | gnome-keyring-daemon --replace --unlock --components=secrets'
)
_HELPER = Path(__file__).with_name("keyring_helper.py")


class KeyringAbsent(KeyProblem):
    """No keyring is available on this machine or in this session."""

    code = "keyring_absent"


class KeyringLocked(KeyProblem):
    """The keyring is locked."""

    code = "keyring_locked"


class KeyringSilent(KeyProblem):
    """The keyring did not answer in time, or answered with an error."""

    code = "keyring_silent"


class Keyring:
    """Keys in the system keyring, stored by name and host. A key is not found for another host."""

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter

    def get(self, name: str, host: str) -> str | None:
        """Return a key, or None if it is not stored. Raises KeyProblem."""
        return self._call("get", name, host)

    def set(self, name: str, host: str, key: str) -> None:
        """Write a key and read it back. Raises KeyProblem."""
        if self._call("set", name, host, key) != key:
            raise KeyringSilent(
                "the keyring accepted the key, but did not return it when read back", next=in_a_file(name)
            )

    def delete(self, name: str, host: str) -> None:
        """Delete a key; a missing key is not an error. Raises KeyProblem."""
        self._call("delete", name, host)

    def state(self) -> dict[str, Any]:
        """Return the keyring's kind and state, as the helper reports them. Reads no secret. Raises TimeoutError."""
        return self._ask({"do": "state"})

    def _call(self, do: Literal["get", "set", "delete"], name: str, host: str, key: str | None = None) -> str | None:
        try:
            answer = self._ask({"do": do, "user": f"{name}@{host}", "key": key})
        except TimeoutError as error:
            text = f"the keyring did not respond {error}. {_instead(name)}"
            raise KeyringSilent(text, next=in_a_file(name)) from None
        match answer:
            case {"error": "locked"}:
                text = f"the keyring is locked. Unlock it on your desktop, or here with its password. {_instead(name)}"
                raise KeyringLocked(text, next=_UNLOCK)
            case {"error": "absent"}:
                raise KeyringAbsent(no_keyring(name), next=in_a_file(name))
            case {"error": _, "message": message}:
                raise KeyringSilent(f"the keyring failed: {foreign(message)}. {_instead(name)}", next=in_a_file(name))
        return None if answer["key"] is None else str(answer["key"])

    def _ask(self, order: dict[str, str | None]) -> dict[str, Any]:
        # By path and with -P (current directory not searched), so that no other module is imported as keyring.
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
            return {"error": "failed", "message": "its helper process exited without a result"}
        finally:
            process.kill()
            process.wait()

    def _wait(self, process: subprocess.Popen[bytes], order: bytes, limit: float) -> bytes:
        """Return the helper's output. Only its waiting time counts toward the limit, because machines are busy."""
        from hivemind_exp.processes.progress import ProgressWatch

        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(order)
            process.stdin.close()
        process.stdin = None
        watch, idle, told = ProgressWatch(process.pid), 0.0, not self._prompter.can_ask
        while True:
            try:
                return process.communicate(timeout=_LOOK_S)[0]
            except subprocess.TimeoutExpired:
                idle += 0.0 if watch.look() in _BUSY else _LOOK_S
                if idle >= limit:
                    raise
            if not told and idle >= QUIET_S:
                told = True
                self._prompter.say(f"Waiting up to {limit:g} s for the keyring: it may be showing a dialog.")


def _instead(name: str) -> str:
    row = PROVIDERS.get(name)
    variable = f"set {row.variables[0]}, " if row and row.variables else ""
    file = f"set {file_variable(name)} to a file that contains the key"
    return f"Instead, you can {variable}{file}, or use --insecure-storage (a 0600 file)."


def no_keyring(name: str) -> str:
    """Return the message that there is no keyring, and what works instead."""
    return f"no keyring is available in this session (no Secret Service or KWallet). {_instead(name)}"


def in_a_file(name: str) -> str:
    """Return the command that saves a key in a file."""
    return f"swarmctl keys set {name} --insecure-storage"
