"""Backups of a node's key, as text: a few lines that say whose it is, and the key, locked or not.

::

    swarmctl identity backup 1
    # Whoever can read this file can be this node.
    peer 12D3KooW…
    name brisk amber otter
    node maths
    saved 2026-11-25T03:20:00Z
    key plain BASE64                 the key file
    key scrypt-aes256gcm BASE64      salt (16 bytes), nonce (12), the key file encrypted and authenticated

A passphrase is made costly to guess by scrypt with N = 2^17, r = 8, p = 1 (128 MiB, half a second). PKCS8, the usual
format, is not used: the library writes it with 2048 rounds of PBKDF2, three hundred times too few.
"""

import base64
import os
import shlex
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hivemind_exp.errors import IdentityProblem
from hivemind_exp.swarm.identity import BACKUP, Identity, animal_name
from swarmctl.storage.json_file import now

_FIRST = BACKUP.decode() + " 1"
_PLAIN, _LOCKED = "plain", "scrypt-aes256gcm"
_SALT, _NONCE = 16, 12


def written(identity: Identity, node: str, passphrase: str | None) -> bytes:
    """Return the content of a backup."""
    kind, key = _PLAIN, identity.to_bytes()
    if passphrase is not None:
        kind, salt, nonce = _LOCKED, os.urandom(_SALT), os.urandom(_NONCE)
        key = salt + nonce + _cipher(passphrase, salt).encrypt(nonce, key, identity.peer_id.encode())
    lines = [
        _FIRST,
        "# Whoever can read this file can be this node.",
        f"peer {identity.peer_id}",
        f"name {animal_name(identity.peer_id)}",
        f"node {node}",
        f"saved {now()}",
        f"key {kind} {base64.b64encode(key).decode()}",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def is_locked(content: bytes) -> bool:
    """Whether it takes a passphrase to read a backup."""
    return content.startswith(BACKUP) and f"\nkey {_LOCKED} ".encode() in content


def read(content: bytes, path: Path, passphrase: str | None) -> Identity:
    """Return the identity in a backup, or in a copy of a key file.

    Raises IdentityProblem where there is none, it is damaged, or the passphrase is wrong.
    """
    if not content.startswith(BACKUP):
        return Identity.from_bytes(content, path)
    damaged = IdentityProblem(f"{path} is damaged: take another copy of it", next=f"ls -l {shlex.quote(str(path))}")
    try:
        first, *lines = content.decode("ascii").split("\n")
        fields = dict(line.split(" ", maxsplit=1) for line in lines if line and not line.startswith("#"))
        peer, (kind, text) = fields["peer"], fields["key"].split(" ")
        key = base64.b64decode(text, validate=True)
    except (ValueError, KeyError) as error:
        raise damaged from error
    if first != _FIRST or kind not in (_PLAIN, _LOCKED):
        raise IdentityProblem(
            f"{path} was written by a newer version of swarmctl", next="swarmctl identity restore --help"
        )
    if kind == _LOCKED:
        key = _unlocked(key, peer, passphrase or "", path)
    identity = Identity.from_bytes(key, path)
    if identity.peer_id != peer:
        raise damaged
    return identity


def _unlocked(key: bytes, peer: str, passphrase: str, path: Path) -> bytes:
    salt, nonce, body = key[:_SALT], key[_SALT : _SALT + _NONCE], key[_SALT + _NONCE :]
    try:
        return _cipher(passphrase, salt).decrypt(nonce, body, peer.encode())
    except (InvalidTag, ValueError) as error:
        raise IdentityProblem(
            f"the passphrase is wrong, or {path} is damaged",
            next=f"swarmctl identity restore {shlex.quote(str(path))}",
        ) from error


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    secret = passphrase.encode("utf-8", "surrogateescape")
    return AESGCM(Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(secret))
