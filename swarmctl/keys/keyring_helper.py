"""The program that talks to the system's keyring, for ``keys`` and ``doctor`` alike. Started by its path.

A process, and not ``keyring`` called here: a keyring that never answers can only be given up together with whoever
asked. Reads ``{"do": "get" | "set" | "delete" | "state", "user": …, "key": …}`` from standard input and prints
``{"key": …}``, for ``state`` ``{"backend": …, "locked": …, "problem": …}``, or ``{"error": …, "message": …}``.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE = "swarmctl"
_MOST_S = 90
"""It ends by itself even when whoever started it died and the keyring never answers."""
_INTERACTION_NOT_ALLOWED = -25308
"""macOS: nobody can be asked to unlock the keychain, as over SSH."""
_OF_THE_SYSTEM = ("macOS",) if sys.platform == "darwin" else ("SecretService", "libsecret", "kwallet")


def _kind(backend: type[KeyringBackend]) -> str:
    return backend.__module__.removeprefix("keyring.backends.")


def _backend() -> KeyringBackend | None:
    """Return the best of the system's own backends that work here, by the priorities that ``keyring`` gives them.

    ``keyring.core`` would first follow a variable or a file to any other, such as one that keeps plain text or nothing,
    and load what other packages bring along into a process that is handed keys.
    """
    from keyring.backend import KeyringBackend, by_priority

    for module in _OF_THE_SYSTEM:
        importlib.import_module(f"keyring.backends.{module}")
    usable = (kind for kind in KeyringBackend.get_viable_backends() if _kind(kind) in _OF_THE_SYSTEM)
    best = max(usable, default=None, key=by_priority)
    return best() if best else None


def _state(backend: KeyringBackend) -> dict[str, Any]:
    """Say which keyring it is and whether it is locked (null: not told). Reads no secret and opens no dialog."""
    told: dict[str, Any] = {"backend": _kind(type(backend)), "locked": None, "problem": None}
    if told["backend"] != "SecretService":
        return told
    import secretstorage
    from secretstorage.exceptions import ItemNotFoundException, SecretStorageException

    try:
        # ``get_default_collection`` would make one that is missing, with a dialog for its password.
        return told | {"locked": secretstorage.Collection(secretstorage.dbus_init()).is_locked()}
    except ItemNotFoundException:
        return told | {"problem": "it has no default collection yet"}
    except SecretStorageException as error:
        return told | {"problem": str(error)}


def _done(backend: KeyringBackend, do: str, user: str, key: str | None) -> str | None:
    """Do what is asked and return the key that the keyring has afterwards."""
    from keyring.errors import PasswordDeleteError

    if do == "set":
        backend.set_password(SERVICE, user, key or "")
    elif do == "delete":
        try:
            backend.delete_password(SERVICE, user)
        except PasswordDeleteError:
            return None
    return backend.get_password(SERVICE, user)


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked and say how it went."""
    try:
        backend = _backend()
        if backend is None:
            return {"error": "absent", "message": "no Secret Service, KWallet or Keychain answers"}
        if order["do"] == "state":
            return _state(backend)
        return {"key": _done(backend, order["do"], order["user"], order["key"])}
    except Exception as error:  # noqa: BLE001 - each backend has errors of its own
        code = getattr(error.__cause__ or error, "args", (None,))[:1]
        message = f"{type(error).__name__}: {error}".replace(order.get("key") or "\0", "…")
        locked = code == (_INTERACTION_NOT_ALLOWED,) or "KeyringLocked" in message or "ismiss" in message
        return {"error": "locked" if locked else "failed", "message": message}


if __name__ == "__main__":
    signal.alarm(_MOST_S)
    print(json.dumps(answer(json.loads(sys.stdin.buffer.read()))))
