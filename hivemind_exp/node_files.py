"""The files of a node's directory, named once."""

import secrets
from contextlib import suppress
from pathlib import Path

from hivemind_exp import atomic_write

SECRET_BYTES = 32


class NodeFiles:
    """Paths below a node's directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity = root / "node.json"
        """What was fixed when the node was made (JSON)."""
        self.config = root / "config.json"
        """The configuration of the latest run (JSON)."""
        self.lock = root / "lock"
        """Locked (flock) for as long as the node lives."""
        self.events = root / "events.jsonl"
        """The log for machines."""
        self.log = root / "trainer.log"
        """What the trainer printed."""
        self.journal = root / "journal.sqlite"
        """Completions and step manifests (SQLite)."""
        self.ledger = root / "ledger.sqlite"
        """Requests that cost money (SQLite). Outlives all else: caps are for the node's whole life."""
        self.consent = root / "consent.json"
        """The providers that the operator agreed to pay (JSON)."""
        self.checkpoints = root / "checkpoints"
        """One directory a checkpoint."""
        self.key = root / "identity.key"
        """The node's Ed25519 key, as libp2p keeps it. Whoever has it is this node."""
        self.claims = root.parent / ".identities"
        """Locks on identities, one for all nodes that stand beside each other: no two live ones share a key."""
        self.charter = root / "charter"
        """The signed charter of the node's swarm, as it came."""
        self.swarm = root / "swarm"
        """What a node remembers of its swarm: its port, known peers, their reputation."""
        self.hub = root / "hub"
        """What goes to the hub next, and what went there last."""

    def secret(self) -> bytes:
        """Return the node's secret, made at the first call with mode 0600. Held-out questions follow from it."""
        path = self.root / "secret"
        with suppress(FileExistsError):
            atomic_write.write(path, secrets.token_bytes(SECRET_BYTES), exclusive=True)
        return path.read_bytes()
