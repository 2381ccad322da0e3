"""Tells which keyring there is and whether it is locked, as JSON. Run as a program, so that it can be killed.

It reads no secret and opens no dialog: keyring itself would unlock, which on a desktop means a window.
"""

from __future__ import annotations

import json
import signal

SECONDS = 10
"""After this it ends by itself, should whoever asked be gone."""


def main() -> None:
    """Print ``{"backend", "locked", "problem"}``; ``locked`` is null where it is not told."""
    signal.alarm(SECONDS)
    import keyring

    backend = keyring.get_keyring()
    if type(backend).__module__ == "keyring.backends.chainer":
        backend = next(iter(getattr(backend, "backends", ())), backend)
    name = f"{type(backend).__module__}.{type(backend).__name__}"
    locked, problem = None, None
    if type(backend).__module__ == "keyring.backends.SecretService":
        locked, problem = _secret_service()
    print(json.dumps({"backend": name, "locked": locked, "problem": problem}))


def _secret_service() -> tuple[bool | None, str | None]:
    import secretstorage
    from secretstorage.exceptions import ItemNotFoundException, SecretStorageException

    try:
        # ``get_default_collection`` would make one that is missing, with a dialog for its password.
        return secretstorage.Collection(secretstorage.dbus_init()).is_locked(), None
    except ItemNotFoundException:
        return None, "it has no default collection yet"
    except SecretStorageException as error:
        return None, str(error)


if __name__ == "__main__":
    main()
