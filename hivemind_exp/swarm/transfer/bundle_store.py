"""The bundles that this node serves, and those waiting for the trainer. Memory is bounded, whatever peers send."""

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from hivemind_exp.bounded import BoundedDict
from hivemind_exp.swarm.announcement import MAX_BUNDLE_BYTES, MAX_BUNDLES, MAX_GROUPS, MAX_STAGES, BundleRef

OTHERS_BYTES = 32 * 1024 * 1024
"""Maximum size, in bytes, of all peers' bundles that this node serves to others."""
WAITING_BYTES = 64 * 1024 * 1024
WAITING = 512
_SEEN_EACH = 64


@dataclass(frozen=True, slots=True)
class Received:
    """A bundle that a peer announced. Its hash was checked; all else remains to be verified."""

    peer: str
    """The author's peer id."""
    ref: BundleRef
    data: bytes


class BundleStore:
    """Serves bundles by hash: this node's newest, and those it fetched from peers."""

    def __init__(self) -> None:
        self._own: BoundedDict[bytes, tuple[BundleRef, bytes]] = BoundedDict(MAX_BUNDLES)
        self._others: BoundedDict[bytes, bytes] = BoundedDict(OTHERS_BYTES, weigh=len)
        self._lock = threading.Lock()

    def put(self, bundle: bytes, *, round_: int, stage: int, groups: int) -> BundleRef:
        """Add one of this node's bundles. If there are too many, the oldest is dropped.

        Raises ValueError if the bundle cannot be announced.
        """
        if not 0 < len(bundle) <= MAX_BUNDLE_BYTES:
            raise ValueError(f"a bundle must have 1 to {MAX_BUNDLE_BYTES} bytes, not {len(bundle)}")
        if not 0 <= groups <= MAX_GROUPS or not 0 <= stage < MAX_STAGES:
            raise ValueError(f"cannot announce a bundle of stage {stage} with {groups} groups")
        ref = BundleRef(round_, stage, hashlib.sha256(bundle).digest(), len(bundle), groups)
        with self._lock:
            self._own[ref.sha256] = ref, bundle
        return ref

    @property
    def refs(self) -> tuple[BundleRef, ...]:
        """This node's bundles, newest last."""
        with self._lock:
            return tuple(ref for ref, _ in self._own.values())

    def pass_on(self, sha256: bytes, bundle: bytes) -> None:
        """Add a peer's bundle, to serve it to others."""
        with self._lock:
            self._others[sha256] = bundle

    def get(self, sha256: bytes) -> bytes | None:
        with self._lock:
            return self._own[sha256][1] if sha256 in self._own else self._others.get(sha256)


class BundleInbox:
    """Received bundles, kept until the trainer takes them. If there are too many, the oldest are dropped."""

    def __init__(self, known: Callable[[str], bool]) -> None:
        """``known``: whether a peer is still in the swarm. If not, the inbox forgets which bundles it sent."""
        self._known = known
        self._waiting: deque[Received] = deque()
        self._weight = 0
        self._seen: dict[str, BoundedDict[bytes, None]] = {}
        self._lock = threading.Lock()

    def wants(self, peer: str, ref: BundleRef) -> bool:
        """Whether this bundle has never been received from this peer."""
        with self._lock:
            return ref.sha256 not in self._seen.get(peer, ())

    def put(self, received: Received) -> None:
        with self._lock:
            if received.peer not in self._seen:
                for peer in [peer for peer in self._seen if not self._known(peer)]:
                    del self._seen[peer]
            seen = self._seen.setdefault(received.peer, BoundedDict(_SEEN_EACH))
            if received.ref.sha256 in seen:
                return
            seen[received.ref.sha256] = None
            self._waiting.append(received)
            self._weight += len(received.data)
            while self._weight > WAITING_BYTES or len(self._waiting) > WAITING:
                self._weight -= len(self._waiting.popleft().data)

    def take(self) -> list[Received]:
        """Return the bundles received since the last call, each once, in order of arrival."""
        with self._lock:
            taken, self._waiting, self._weight = list(self._waiting), deque(), 0
            return taken
