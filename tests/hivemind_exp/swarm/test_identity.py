"""Identity keys: private files, in the format of libp2p's daemon, and used by one running node at a time."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from hivemind_exp.errors import IdentityProblem
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.swarm.identity import Identity, animal_name, claim, is_peer_id, verify

ONE = Identity.generate()
OTHER = Identity.generate()


def test_a_key_file_is_private_from_the_start_under_any_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = Identity.create(tmp_path / "key")
        made.save(tmp_path / "again", replace=True)
    finally:
        os.umask(before)
    for name in ("key", "again"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
        assert Identity.load(tmp_path / name).peer_id == made.peer_id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "key"]
    assert made.peer_id.startswith("12D3KooW")
    assert "PrivateKey" not in repr(made)


def test_a_key_never_overwrites_a_file_or_follows_a_link(tmp_path: Path) -> None:
    made = Identity.create(tmp_path / "key")
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    for name in ("key", "dangling"):
        with pytest.raises(FileExistsError):
            Identity.create(tmp_path / name)
    assert Identity.load(tmp_path / "key").peer_id == made.peer_id
    ONE.save(tmp_path / "dangling", replace=True)
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "dangling").is_symlink()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o622])
def test_a_key_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    Identity.create(tmp_path / "key")
    (tmp_path / "key").chmod(mode)
    with pytest.raises(IdentityProblem, match=r"other users can read .* and impersonate this node") as caught:
        Identity.load(tmp_path / "key")
    assert caught.value.next == f"chmod 600 {tmp_path}/key"


def rsa_file() -> bytes:
    """Return a key file as hivemind creates it: a protobuf of type RSA with PKCS1."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    body = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return b"\x08\x00\x12" + bytes([len(body) & 127 | 128, len(body) >> 7]) + body


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\x08\x01\x12\x40" + b"x" * 63, "damaged"),
        (b"\x08\x01\x12\x40" + b"x" * 64, "damaged"),
        (b"\x08\x01\x12\x40" + b"x" * 65, "damaged"),
        (os.urandom(70_000), "damaged"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", "another format"),
        (b"swarmctl identity backup 1\n", "is a backup"),
        (rsa_file(), "contains an RSA key"),
    ],
    ids=["empty", "short", "mixed", "long", "noise", "pem", "backup", "rsa"],
)
def test_the_error_says_what_a_file_contains_instead_of_a_key(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityProblem, match=told):
        Identity.load(path)


def test_unreadable_paths_are_reported(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "directory").mkdir(0o700)
    expected = {"pipe": "is not a regular file", "directory": "is not a regular file", "missing": "No such file"}
    for name, told in expected.items():
        with pytest.raises(IdentityProblem, match=told):
            Identity.load(tmp_path / name)


def test_a_full_disk_leaves_no_partial_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    ONE.save(tmp_path / "key")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        Identity.create(tmp_path / "other")
    with pytest.raises(OSError, match="No space"):
        OTHER.save(tmp_path / "key", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert Identity.load(tmp_path / "key").peer_id == ONE.peer_id


def test_a_signature_is_valid_for_one_peer_and_one_message() -> None:
    signature = ONE.sign(b"charter 1")
    assert len(signature) == 64
    assert verify(ONE.peer_id, b"charter 1", signature)
    assert not verify(OTHER.peer_id, b"charter 1", signature)
    assert not verify(ONE.peer_id, b"charter 2", signature)
    assert not verify(ONE.peer_id, b"charter 1", signature[:-1] + bytes([signature[-1] ^ 1]))
    raw = Ed25519PrivateKey.from_private_bytes(ONE.to_bytes()[4:36])
    # A signature that the daemon makes with the same key is not valid here, either.
    assert not verify(ONE.peer_id, b"charter 1", raw.sign(b"charter 1"))


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.one_of(st.text(max_size=60), st.none(), st.binary(max_size=60), st.just("1" * 10_000_000)),
    st.one_of(st.binary(max_size=80), st.none(), st.text(max_size=64)),
    st.one_of(st.binary(max_size=80), st.integers()),
)
def test_verify_never_raises(peer: str, message: bytes, signature: bytes) -> None:
    assert not verify(peer, message, signature)
    assert not verify(ONE.peer_id, message, signature)
    assert not is_peer_id(peer)


@settings(deadline=None)
@given(st.integers(0, 51), st.characters())
def test_a_peer_id_has_one_canonical_form(place: int, character: str) -> None:
    changed = ONE.peer_id[:place] + character + ONE.peer_id[place + 1 :]
    assert is_peer_id(ONE.peer_id)
    if changed != ONE.peer_id:
        assert not verify(changed, b"m", ONE.sign(b"m"))
    assert not is_peer_id(ONE.peer_id + character)
    assert not is_peer_id(character + ONE.peer_id)


def test_an_identity_can_only_be_claimed_once_per_machine(tmp_path: Path) -> None:
    claims = NodeFiles(tmp_path / "nodes/x").claims
    code = (
        "import sys; from pathlib import Path\n"
        "from hivemind_exp.swarm.identity import claim\n"
        f"with claim(Path({str(claims)!r}), {ONE.peer_id!r}, 'first'): print('mine', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"mine\n"
        with pytest.raises(IdentityProblem, match=rf"node first \(pid {holder.pid}\) is running as"):
            with claim(claims, ONE.peer_id, "second"):
                pass
        with claim(claims, OTHER.peer_id, "second"):
            pass
        holder.kill()
        holder.wait()
        with claim(claims, ONE.peer_id, "second"):
            with pytest.raises(IdentityProblem, match="node second"), claim(claims, ONE.peer_id):
                pass
    assert stat.S_IMODE(claims.stat().st_mode) == 0o700


def test_a_name_is_the_same_everywhere() -> None:
    assert animal_name("12D3KooWGC7PuG8iX3gLdZPzZRzTbLiZqYdkh1RbpVjfKNkbzRPm") == "agile lime ferret"
    names = {animal_name(str(number)) for number in range(2000)}
    assert len(names) > 1980
    assert all(len(name.split()) == 3 and name.isascii() and len(name) <= 30 for name in names)


@pytest.mark.slow
def test_the_daemon_uses_the_key(tmp_path: Path) -> None:
    made = Identity.create(tmp_path / "key")
    code = (
        "import asyncio, sys; from hivemind.p2p import P2P\n"
        "async def main():\n"
        "    p2p = await P2P.create(identity_path=sys.argv[1], check_if_identity_free=False,\n"
        "        host_maddrs=['/ip4/127.0.0.1/tcp/0'], nat_port_map=False, auto_nat=False, use_relay=False,\n"
        "        startup_timeout=60)\n"
        "    print(p2p.peer_id)\n"
        "    await p2p.shutdown()\n"
        "asyncio.run(main())"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "key"], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == made.peer_id
