"""``swarmctl identity backup`` and ``restore``. A backup is a few lines of text: whose key it is, and the key.

::

    swarmctl identity backup 1
    # Anyone who can read this file can impersonate this node.
    peer 12D3KooW…
    name brisk amber otter
    node maths
    saved 2026-11-25T03:20:00Z
    key plain BASE64                 the key file
    key scrypt-aes256gcm BASE64      salt (16 bytes), nonce (12), the key file encrypted and authenticated

scrypt makes a passphrase costly to guess, with N = 2^17, r = 8, p = 1 (128 MiB and half a second per guess). PKCS8, the
usual format, is not used: the library writes it with 2048 rounds of PBKDF2, three hundred times too few.
"""

import base64
import os
import shlex
import sys
import time
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from hivemind_exp import atomic_write
from hivemind_exp.errors import IdentityProblem
from hivemind_exp.list_command import list_command
from hivemind_exp.swarm.identity import BACKUP, Identity, animal_name, claim, read_file
from hivemind_exp.swarm.incarnation import IncarnationFile
from swarmctl.identity.new import chosen, opened, put, tell
from swarmctl.identity.show import describe
from swarmctl.nodes.lookup import all_nodes, existing, files_of
from swarmctl.paths import shown
from swarmctl.storage.disk_errors import checked_target, disk_errors
from swarmctl.storage.json_file import now
from swarmctl.terminal.command_line import command
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.prompter import Prompter
from swarmctl.terminal.views import Writer

_OTHERS = 0o077
_FIRST = BACKUP.decode() + " 1"
_PLAIN, _LOCKED = "plain", "scrypt-aes256gcm"
_SALT, _NONCE = 16, 12


def backup(file: Path, node: str | None, prompter: Prompter, *, yes: bool, locked: bool, as_json: bool) -> None:
    """Write a node's identity to ``file``, with mode 0600.

    Raises:
        IdentityProblem: the node has no identity, or no passphrase was given.
        ConfigurationError: the file already exists.
    """
    files = existing(chosen(node, f"swarmctl identity backup {shlex.quote(str(file))}"))
    name = files.root.name
    if not os.path.lexists(files.key):
        following = f"swarmctl identity new --node {shlex.quote(name)}"
        raise IdentityProblem(f"node {name} has no identity yet", next=following)
    identity = Identity.load(files.key)
    words = ["identity", "backup", str(file), "--node", name, *(["--passphrase"] if locked else []), "--yes"]
    target = checked_target(file, yes=yes, again=command(words))
    passphrase = _passphrase(prompter, "Passphrase:") if locked else None
    if locked and prompter.is_typed and _passphrase(prompter, "Repeat the passphrase:") != passphrase:
        raise IdentityProblem("the passphrases do not match; nothing was saved", next="swarmctl identity backup --help")
    with disk_errors(target.parent):
        atomic_write.write(target, written(identity, name, passphrase), exclusive=not target.exists())
    animal = animal_name(identity.peer_id)
    if as_json:
        print_json(node=name, peer_id=identity.peer_id, name=animal, file=str(target), locked=locked)
        return
    say = Writer(sys.stdout)
    say(f"Saved the identity {animal} ({identity.peer_id}) to {shown(target)}.")
    say("Restoring it requires the passphrase." if locked else "Anyone who can read it can impersonate this node.")


def restore(file: Path, node: str | None, prompter: Prompter, *, as_json: bool) -> None:
    """Give a node the identity in ``file``.

    Raises:
        IdentityProblem: the file contains no identity, a running node uses this identity, or the node has another
            identity and the user did not agree to replace it.
        NodeConflict: the node is running.
    """
    name = chosen(node, f"swarmctl identity restore {shlex.quote(str(file))}")
    path = file.expanduser()
    content, mode = read_file(path)
    passphrase = _passphrase(prompter, "Passphrase:") if is_locked(content) else None
    identity = read(content, path, passphrase)
    again = f"swarmctl identity restore {shlex.quote(str(file))} --node {shlex.quote(name)}"
    files = files_of(name)
    locked = opened(name, again)
    # The identity is claimed before the node is created and until the restore is complete, so that no other node runs
    # with it meanwhile.
    now_ms = int(time.time() * 1000)
    with disk_errors(files.claims), claim(files.claims, identity.peer_id, name, now_ms), locked:
        replaced = put(identity, files, prompter, f"{again} --yes")
        IncarnationFile(files.incarnation, identity.peer_id).restore()
    tell(identity, files, replaced, as_json=as_json)
    for other in map(describe, all_nodes()):
        if other["peer_id"] == identity.peer_id and other["node"] != name:
            prompter.say(f"warning: node {other['node']} has the same identity; only one of them can run at a time.")
    if mode & _OTHERS:
        prompter.say(f"warning: other users can read {shown(path)} (mode {mode:04o}) and impersonate this node.")


def _passphrase(prompter: Prompter, prompt: str) -> str:
    """Return a passphrase. Raises IdentityProblem if there is none."""
    silent = IdentityProblem(
        "a passphrase is required, but prompts are disabled; pipe it in", next="swarmctl identity --help"
    )
    text = prompter.secret(prompt, silent).rstrip("\r\n")
    if not text:
        raise IdentityProblem("no passphrase was given", next="swarmctl identity --help")
    return text


def written(identity: Identity, node: str, passphrase: str | None) -> bytes:
    """Return the content of a backup."""
    kind, key = _PLAIN, identity.to_bytes()
    if passphrase is not None:
        kind, salt, nonce = _LOCKED, os.urandom(_SALT), os.urandom(_NONCE)
        key = salt + nonce + _cipher(passphrase, salt).encrypt(nonce, key, identity.peer_id.encode())
    lines = [
        _FIRST,
        "# Anyone who can read this file can impersonate this node.",
        f"peer {identity.peer_id}",
        f"name {animal_name(identity.peer_id)}",
        f"node {node}",
        f"saved {now()}",
        f"key {kind} {base64.b64encode(key).decode()}",
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def is_locked(content: bytes) -> bool:
    """Whether a backup is protected with a passphrase."""
    return content.startswith(BACKUP) and f"\nkey {_LOCKED} ".encode() in content


def read(content: bytes, path: Path, passphrase: str | None) -> Identity:
    """Return the identity in a backup, or in a copy of a key file.

    Raises IdentityProblem if there is none, it is damaged, or the passphrase is wrong.
    """
    if not content.startswith(BACKUP):
        return Identity.from_bytes(content, path)
    damaged = IdentityProblem(f"{path} is damaged; use another copy", next=list_command(path))
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
        salt, nonce, body = key[:_SALT], key[_SALT : _SALT + _NONCE], key[_SALT + _NONCE :]
        try:
            key = _cipher(passphrase or "", salt).decrypt(nonce, body, peer.encode())
        except (InvalidTag, ValueError) as error:
            raise IdentityProblem(
                f"the passphrase is wrong, or {path} is damaged",
                next=f"swarmctl identity restore {shlex.quote(str(path))}",
            ) from error
    identity = Identity.from_bytes(key, path)
    if identity.peer_id != peer:
        raise damaged
    return identity


def _cipher(passphrase: str, salt: bytes) -> AESGCM:
    secret = passphrase.encode("utf-8", "surrogateescape")
    return AESGCM(Scrypt(salt=salt, length=32, n=2**17, r=8, p=1).derive(secret))
