"""The files of a node's directory, named once."""

import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp import atomic_write

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Paths below a node's directory."""

    root: Path

    @property
    def identity(self) -> Path:
        """What was fixed when the node was made (JSON)."""
        return self.root / "node.json"

    @property
    def config(self) -> Path:
        """The configuration of the latest run (JSON)."""
        return self.root / "config.json"

    @property
    def lock(self) -> Path:
        """Locked (flock) for as long as the node lives."""
        return self.root / "lock"

    @property
    def events(self) -> Path:
        """The log for machines."""
        return self.root / "events.jsonl"

    @property
    def log(self) -> Path:
        """What the trainer printed."""
        return self.root / "trainer.log"

    @property
    def journal(self) -> Path:
        """Completions and step manifests (SQLite)."""
        return self.root / "journal.sqlite"

    @property
    def ledger(self) -> Path:
        """Requests that cost money (SQLite). Outlives all else: caps are for the node's whole life."""
        return self.root / "ledger.sqlite"

    @property
    def consent(self) -> Path:
        """The providers that the operator agreed to pay (JSON)."""
        return self.root / "consent.json"

    @property
    def checkpoints(self) -> Path:
        """One directory a checkpoint."""
        return self.root / "checkpoints"

    @property
    def key(self) -> Path:
        """The node's Ed25519 key, as libp2p keeps it. Whoever has it is this node."""
        return self.root / "identity.key"

    @property
    def claims(self) -> Path:
        """Locks on identities, one for all nodes that stand beside each other: no two live ones share a key."""
        return self.root.parent / ".identities"

    @property
    def charter(self) -> Path:
        """The signed charter of the node's swarm, as it came."""
        return self.root / "charter"

    @property
    def swarm(self) -> Path:
        """What a node remembers of its swarm: its port, known peers, their reputation."""
        return self.root / "swarm"

    @property
    def hub(self) -> Path:
        """What goes to the hub next, and what went there last."""
        return self.root / "hub"

    def secret(self) -> bytes:
        """Return the node's secret, made at the first call with mode 0600. Held-out questions follow from it."""
        path = self.root / "secret"
        with suppress(FileExistsError):
            atomic_write.write(path, secrets.token_bytes(SECRET_BYTES), exclusive=True)
        return path.read_bytes()
