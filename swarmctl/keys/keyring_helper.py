"""A process that talks to the system's keyring, so that one which never answers can be given up. Started by its path.

Reads ``{"do": "get" | "set" | "delete", "user": …, "key": …}`` from standard input and prints ``{"key": …}`` or
``{"error": …, "message": …}``.
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


def _backends() -> list[tuple[str, str]]:
    """Return (module, class) of what may hold a key. ``keyring`` itself would also choose plain-text files."""
    if sys.platform == "darwin":
        return [("keyring.backends.macOS", "Keyring")]
    return [
        ("keyring.backends.SecretService", "Keyring"),
        ("keyring.backends.libsecret", "Keyring"),
        ("keyring.backends.kwallet", "DBusKeyring"),
        ("keyring.backends.kwallet", "DBusKeyringKWallet4"),
    ]


def _backend() -> KeyringBackend | None:
    usable = []
    for module, name in _backends():
        kind: type[KeyringBackend] = getattr(importlib.import_module(module), name)
        try:
            usable.append((float(kind.priority), kind))
        except Exception:  # noqa: BLE001 - how a backend says that it cannot work differs with each
            continue
    return max(usable, key=lambda pair: pair[0])[1]() if usable else None


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked and say how it went."""
    from keyring.errors import KeyringLocked, PasswordDeleteError

    backend = _backend()
    if backend is None:
        return {"error": "absent", "message": "no Secret Service, KWallet or Keychain answers"}
    user = order["user"]
    try:
        if order["do"] == "set":
            backend.set_password(SERVICE, user, order["key"])
        elif order["do"] == "delete":
            try:
                backend.delete_password(SERVICE, user)
            except PasswordDeleteError:
                return {"key": None}
        return {"key": backend.get_password(SERVICE, user)}
    except KeyringLocked:
        return {"error": "locked", "message": "it is locked"}
    except Exception as error:  # noqa: BLE001 - each backend has errors of its own
        code = getattr(error.__cause__ or error, "args", (None,))[:1]
        kind = "locked" if code == (_INTERACTION_NOT_ALLOWED,) or "ismiss" in f"{error}" else "failed"
        message = f"{type(error).__name__}: {error}"
        return {"error": kind, "message": message.replace(order.get("key") or "\0", "…")}


if __name__ == "__main__":
    signal.alarm(_MOST_S)
    print(json.dumps(answer(json.loads(sys.stdin.buffer.read()))))
