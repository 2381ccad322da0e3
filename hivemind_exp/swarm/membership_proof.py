"""Proof of membership: only peers that know the swarm's id may make and answer requests.

Only the invitation contains the id. Each request and each answer carries an HMAC whose key is derived from the
charter's hash. The HMAC covers both peer ids and the content, and the transport proves both ids, so an outsider cannot
replay a member's request or answer. This module does not import hivemind.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from hivemind_exp.bounded import BoundedDict

MAC_BYTES = 32
NONCE_BYTES = 16
WINDOW_S = 60.0
"""A request is valid only if its time differs from the receiver's clock by at most this many seconds."""
PING = "ping"
"""The request that is answered whatever its time, so that nodes find out how far their clocks differ."""
_REMEMBERED = 65_536


@dataclass(frozen=True, slots=True)
class ProvenRequest:
    """The parts of a request that its proof covers."""

    name: str
    nonce: bytes
    at: float
    """When it was made, Unix seconds."""
    body: bytes


class MembershipProof:
    """Creates and checks proofs for one member."""

    def __init__(self, swarm: str, own: str, clock: Callable[[], float] = time.time) -> None:
        """``swarm``: the charter's id (hex); ``own``: this node's peer id."""
        self._key = hashlib.sha256(b"swarmctl access 1\x00" + bytes.fromhex(swarm)).digest()
        self._own = own.encode()
        self._clock = clock
        self._nonces: BoundedDict[bytes, None] = BoundedDict(_REMEMBERED)

    def nonce(self) -> bytes:
        """Return a random nonce, which makes a request unique."""
        return secrets.token_bytes(NONCE_BYTES)

    def ask(self, servant: str, asked: ProvenRequest) -> bytes:
        """Return the proof for this node's request to ``servant``."""
        return self._mac(b"ask", self._own, servant.encode(), asked)

    def may_ask(self, caller: str, asked: ProvenRequest, proof: bytes) -> bool:
        """Whether ``caller`` is a member, and the request is recent (unless it is a ping) and not a replay."""
        if len(asked.nonce) != NONCE_BYTES or not (asked.name == PING or self.is_recent(asked.at)):
            return False
        expected = self._mac(b"ask", caller.encode(), self._own, asked)
        if not hmac.compare_digest(expected, proof) or asked.nonce in self._nonces:
            return False
        self._nonces[asked.nonce] = None
        return True

    def is_recent(self, at: float) -> bool:
        """Whether a request was made a moment ago by this node's clock. ``at``: Unix seconds."""
        return abs(at - self._clock()) <= WINDOW_S

    def answer(self, caller: str, name: str, nonce: bytes, body: bytes) -> bytes:
        """Return the proof for this node's answer to ``caller``'s request."""
        return self._mac(b"answer", caller.encode(), self._own, ProvenRequest(name, nonce, 0.0, body))

    def may_answer(self, servant: str, name: str, nonce: bytes, body: bytes, proof: bytes) -> bool:
        """Whether the answer to this node's request comes from ``servant``, and ``servant`` is a member."""
        expected = self._mac(b"answer", self._own, servant.encode(), ProvenRequest(name, nonce, 0.0, body))
        return hmac.compare_digest(expected, proof)

    def _mac(self, kind: bytes, caller: bytes, servant: bytes, asked: ProvenRequest) -> bytes:
        mac = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (kind, caller, servant, asked.name.encode(), asked.nonce, asked.at.hex().encode()):
            mac.update(len(part).to_bytes(4, "big") + part)
        mac.update(asked.body)
        return mac.digest()
