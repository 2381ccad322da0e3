"""The program that accesses the system keyring for ``keys`` and ``doctor``. It is started by its path.

It is a separate process because a call to a keyring that never answers can only be ended by killing its process. Reads
``{"do": "get" | "set" | "delete" | "state", "user": …, "key": …}`` from standard input and prints
``{"key": …}``, for ``state`` ``{"backend": …, "locked": …, "problem": …}``, or ``{"error": …, "message": …}``.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE = "swarmctl"
_MOST_S = 90
"""The helper ends after this time, even if its parent process died and the keyring never answers."""
_PR_SET_DUMPABLE = 4
_INTERACTION_NOT_ALLOWED = -25308
"""macOS: no one can be asked to unlock the keychain, for example over SSH."""
_OF_THE_SYSTEM = ("macOS",) if sys.platform == "darwin" else ("SecretService", "libsecret", "kwallet")


def _kind(backend: type[KeyringBackend]) -> str:
    return backend.__module__.removeprefix("keyring.backends.")


def _backend() -> KeyringBackend | None:
    """Return the best system backend that works here, by ``keyring``'s own priorities.

    ``keyring.core`` is not used. It would first follow a variable or a configuration file to any other backend, such as
    one that stores plain text or nothing. It would also load other packages' backends into a process that handles keys.
    """
    from keyring.backend import KeyringBackend, by_priority

    for module in _OF_THE_SYSTEM:
        importlib.import_module(f"keyring.backends.{module}")
    usable = (kind for kind in KeyringBackend.get_viable_backends() if _kind(kind) in _OF_THE_SYSTEM)
    best = max(usable, default=None, key=by_priority)
    return best() if best else None


def _state(backend: KeyringBackend) -> dict[str, Any]:
    """Return the keyring's kind and whether it is locked (null: unknown). Reads no secret and opens no dialog."""
    state: dict[str, Any] = {"backend": _kind(type(backend)), "locked": None, "problem": None}
    if state["backend"] != "SecretService":
        return state
    import secretstorage
    from secretstorage.exceptions import ItemNotFoundException, SecretStorageException

    try:
        # ``get_default_collection`` would create a missing collection and ask for its password in a dialog.
        return state | {"locked": secretstorage.Collection(secretstorage.dbus_init()).is_locked()}
    except ItemNotFoundException:
        return state | {"problem": "it has no default collection yet"}
    except SecretStorageException as error:
        return state | {"problem": str(error)}


def _done(backend: KeyringBackend, do: str, user: str, key: str | None) -> str | None:
    """Run a request; return the key that the keyring has afterwards."""
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
    """Run a request; return its result or error."""
    try:
        backend = _backend()
        if backend is None:
            return {"error": "absent", "message": "no Secret Service, KWallet or Keychain is available"}
        if order["do"] == "state":
            return _state(backend)
        return {"key": _done(backend, order["do"], order["user"], order["key"])}
    except Exception as error:  # noqa: BLE001 - each backend has its own errors
        code = getattr(error.__cause__ or error, "args", (None,))[:1]
        message = f"{type(error).__name__}: {error}".replace(order.get("key") or "\0", "…")
        locked = code == (_INTERACTION_NOT_ALLOWED,) or "KeyringLocked" in message or "ismiss" in message
        return {"error": "locked" if locked else "failed", "message": message}


def _hide_memory() -> None:
    """Like ``hivemind_exp.processes.kernel.hide_memory``, which this program cannot import."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


if __name__ == "__main__":
    _hide_memory()
    signal.alarm(_MOST_S)
    print(json.dumps(answer(json.loads(sys.stdin.buffer.read()))))
