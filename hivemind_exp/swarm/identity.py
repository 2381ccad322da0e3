"""A node's identity: an Ed25519 key, in the file format of libp2p's daemon.

A peer id contains the public key, so knowing a peer's id is enough to verify its signatures (libp2p, "Peer Ids and
Keys"). This module does not import hivemind.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import base58
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hivemind_exp import atomic_write
from hivemind_exp.errors import IdentityProblem
from hivemind_exp.list_command import list_command
from hivemind_exp.swarm.incarnation import Incarnation, superseded

SIGNATURE_BYTES = 64
PEER_ID_CHARACTERS = 52
"""Length of every Ed25519 peer id."""
_PUBLIC = bytes.fromhex("002408011220")
"""Prefix of the public key (32 bytes) in a peer id: the header of an "identity" multihash of 36 bytes, then the start
of a protobuf with the key's type (1: Ed25519)."""
_PRIVATE = bytes.fromhex("08011240")
"""Prefix of the secret seed (32 bytes) and public key (32 bytes) in a private key's protobuf."""
_RSA = bytes.fromhex("0800")
_LONGEST = 65_536
BACKUP = b"swarmctl identity backup"
"""First bytes of a backup (``swarmctl.identity.backup``)."""
_CONTEXT = b"swarmctl\x00"
"""Prefix of everything that is signed here. The daemon signs its handshakes with the same key, and neither signature
may be valid as the other."""
_OTHERS = 0o077


class Identity:
    """A key that signs as ``peer_id``. Its ``repr`` does not show the key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.peer_id = base58.b58encode(_PUBLIC + key.public_key().public_bytes_raw()).decode()

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"

    def sign(self, message: bytes) -> bytes:
        """Return the signature (64 bytes). The message must begin with its kind, so that a signature of one kind is
        not valid for another."""
        return self._key.sign(_CONTEXT + message)

    @classmethod
    def generate(cls) -> Self:
        """Return a new identity, in memory only."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def create(cls, path: Path) -> Self:
        """Create an identity and its file, with mode 0600 from the start.

        Raises FileExistsError if ``path`` exists, even as a dangling link; OSError.
        """
        made = cls.generate()
        made.save(path)
        return made

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a key file.

        Raises:
            IdentityProblem: the file does not exist, others can access it, or it is not an Ed25519 key for libp2p.
        """
        content, mode = read_file(path)
        if mode & _OTHERS:
            raise IdentityProblem(
                f"other users can read {path} (mode {mode:04o}) and impersonate this node",
                next=f"chmod 600 {shlex.quote(str(path))}",
            )
        return cls.from_bytes(content, path)

    @classmethod
    def from_bytes(cls, content: bytes, path: Path) -> Self:
        """Return the identity in a key file's content. ``path`` is used in error messages.

        Raises IdentityProblem if the content is not an Ed25519 key for libp2p.
        """
        body = content.removeprefix(_PRIVATE)
        if len(body) == 64 and len(content) == 68:
            key = Ed25519PrivateKey.from_private_bytes(body[:32])
            if key.public_key().public_bytes_raw() == body[32:]:
                return cls(key)
        raise IdentityProblem(f"{path} {_what_else(content)}", next=list_command(path))

    def to_bytes(self) -> bytes:
        """Return the content of the key file: the secret itself."""
        return _PRIVATE + self._key.private_bytes_raw() + self._key.public_key().public_bytes_raw()

    def save(self, path: Path, *, replace: bool = False) -> None:
        """Write the key file atomically, with mode 0600. With ``replace``, replace an existing file or link.

        Raises FileExistsError if ``path`` exists and ``replace`` is not set; OSError.
        """
        atomic_write.write(path, self.to_bytes(), exclusive=not replace)


def read_file(path: Path) -> tuple[bytes, int]:
    """Return a file's content, at most 64 KiB, and its mode. Raises IdentityProblem."""
    listed = list_command(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait
    except OSError as error:
        raise IdentityProblem(f"cannot read {path}: {error.strerror}", next=listed) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IdentityProblem(f"{path} is not a regular file", next=listed)
        return os.read(descriptor, _LONGEST), stat.S_IMODE(status.st_mode)
    except OSError as error:
        raise IdentityProblem(f"cannot read {path}: {error.strerror}", next=listed) from error
    finally:
        os.close(descriptor)


def verify(peer_id: str, message: bytes, signature: bytes) -> bool:
    """Whether ``peer_id`` signed ``message``. Never raises, whatever a peer sends."""
    key = _public_bytes(peer_id)
    if key is None or not isinstance(signature, bytes) or not isinstance(message, bytes):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _CONTEXT + message)
    except (InvalidSignature, ValueError):
        return False
    return True


def is_peer_id(text: str) -> bool:
    """Whether ``text`` is the id of a peer with an Ed25519 key, in its canonical form."""
    return _public_bytes(text) is not None


@contextlib.contextmanager
def claim(directory: Path, peer_id: str, node: str = "", restored: int = 0) -> Iterator[None]:
    """Lock ``peer_id`` on this machine until the end of the block, whichever file its key is in.

    Args:
        directory: where the lock files are (``NodeFiles.claims``); created with mode 0700.
        node: name of the node that claims it, for the error message that another node gets.
        restored: when this copy of the identity was restored from a backup, in milliseconds since 1970; 0: never.

    Raises:
        IdentityProblem: another process uses ``peer_id``, or a copy that was restored later has used it.
        OSError: the lock file cannot be created.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Keep the file: if it were removed, two processes could each lock a file of that name.
    descriptor = os.open(directory / peer_id, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _taken(peer_id, os.pread(descriptor, 1024, 0)) from None
        if (newer := _restored(os.pread(descriptor, 1024, 0))) > restored:
            raise superseded(node, Incarnation(newer))
        holder = json.dumps({"pid": os.getpid(), "node": node, "restored": restored}).encode()
        with contextlib.suppress(OSError):  # only for the error message; the lock works without it on a full disk
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, holder, 0)
        yield
    finally:
        os.close(descriptor)


def shared_claims() -> Path | None:
    """Return a directory for locks that this user's nodes on this machine share, whatever their homes are.

    None if there is no safe one.
    """
    directory = Path(tempfile.gettempdir()) / f"swarmctl-{os.getuid()}"
    with contextlib.suppress(OSError):
        directory.mkdir(mode=0o700, exist_ok=True)
        status = directory.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & _OTHERS:
            return directory
    return None


def _restored(content: bytes) -> int:
    """Return what a lock file says about its last holder: when its identity was restored."""
    with contextlib.suppress(ValueError, AttributeError, RecursionError):
        found = json.loads(content).get("restored")
        return found if type(found) is int else 0
    return 0


def _taken(peer_id: str, content: bytes) -> IdentityProblem:
    try:
        holder = json.loads(content)
        who = f"node {holder['node']} (pid {holder['pid']})" if holder["node"] else f"pid {holder['pid']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        who = "another process"
    return IdentityProblem(
        f"{who} is running as {peer_id}: two running nodes cannot share an identity", next="swarmctl status"
    )


def _public_bytes(peer_id: object) -> bytes | None:
    # Check the length first: decoding takes quadratic time.
    if not isinstance(peer_id, str) or len(peer_id) != PEER_ID_CHARACTERS:
        return None
    try:
        decoded = base58.b58decode(peer_id)
    except ValueError:
        return None
    key = decoded.removeprefix(_PUBLIC)
    return key if len(key) == 32 and len(decoded) == 38 and base58.b58encode(decoded) == peer_id.encode() else None


def _what_else(content: bytes) -> str:
    """Return what a file contains instead of a key, as the end of a sentence."""
    if not content:
        return "is empty"
    if content.startswith(_RSA) and len(content) > 500:
        return "contains an RSA key, as RL Swarm and hivemind create; swarmctl needs an Ed25519 key"
    if content.startswith(BACKUP):
        return "is a backup; restore it with swarmctl identity restore"
    if content.startswith(b"-----BEGIN"):
        return "contains a key in another format"
    return "is not a libp2p key, or is damaged"


_MANNERS = """
    able agile alert ample apt bold brave brief bright brisk broad busy calm candid chief civil clear clever
    close cosy crisp daring deft dry eager early easy exact fair fast fine firm fleet fond frank free fresh gentle glad
    grand great handy happy hardy honest humble jolly keen kind large lean light lively loyal lucky merry mild modest
    neat nimble noble
"""
_COLOURS = """
    amber aqua ash azure beige birch black blue brass bronze brown buff cherry chrome cobalt copper coral cream
    crimson cyan denim ebony emerald fawn flax forest ginger gold green grey hazel honey indigo iron ivory jade khaki
    lavender lemon lilac lime linen maple maroon mauve mint moss navy ochre olive onyx opal orange pearl pine pink plum
    purple quartz red rose ruby rust saffron
"""
_ANIMALS = """
    adder alpaca ant antelope auk badger bat bear beaver bee beetle bison boar bobcat bull bunny camel carp
    cat cicada clam cobra cod colt condor coot cougar cow coyote crab crane cricket crow cuckoo deer dingo dodo dog
    dolphin donkey dove duck eagle eel egret elk emu ermine falcon ferret finch flea fly fox frog gazelle gecko gibbon
    giraffe gnat gnu goat goose gopher grouse gull hamster hare hawk hedgehog hen heron hippo horse hyena ibex ibis
    iguana impala jackal jaguar jay kestrel kiwi koala lamb lark lemur leopard lion lizard llama lobster loon lynx macaw
    magpie mole moose moth mouse mule newt okapi orca oryx osprey otter owl ox oyster panda parrot pelican penguin
    pigeon pony puffin puma quail rabbit
"""


def animal_name(peer_id: str) -> str:
    """Return a peer's display name, such as "brisk amber otter". It is the same everywhere and never changes.

    There are half a million names, so two peers of a large swarm may share one. A name proves nothing about identity.
    """
    number = int.from_bytes(hashlib.sha256(peer_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
    words = []
    for choices in map(str.split, (_MANNERS, _COLOURS, _ANIMALS)):
        number, place = divmod(number, len(choices))
        words.append(choices[place])
    return " ".join(words)
