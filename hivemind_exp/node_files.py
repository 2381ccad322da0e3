"""The files in a node's directory."""

import json
import re
import secrets
import shlex
from contextlib import suppress
from pathlib import Path

from hivemind_exp import atomic_write
from hivemind_exp.errors import FileProblem
from hivemind_exp.foreign_text import foreign
from hivemind_exp.list_command import list_command

SECRET_BYTES = 32
SEAL = "checkpoint.json"
"""File in a checkpoint with its step, its round, the node that wrote it, what that had spent, and the digests of the
other files."""


class NodeFiles:
    """Paths below a node's directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.identity = root / "node.json"
        """What was fixed when the node was created (JSON)."""
        self.config = root / "config.json"
        """The configuration of the latest run (JSON)."""
        self.lock = root / "lock"
        """Locked (flock) while the node is running."""
        self.events = root / "events.jsonl"
        """The machine-readable log (JSON lines). It can be rotated or deleted at any time: nothing depends on it. Its
        older parts are beside it (``hivemind_exp.event_files``)."""
        self.run = root / "run.json"
        """Whether the node has begun, and how its latest run began and ended (JSON)."""
        self.log = root / "trainer.log"
        """The trainer's output."""
        self.server_log = root / "server.log"
        """The output of the server that the node starts (``offload.serving.command``)."""
        self.prompt = root / "prompt.json"
        """The prompt style that the node's calibration chose, and what it found (JSON)."""
        self.journal = root / "journal.sqlite"
        """Completions and step manifests (SQLite)."""
        self.ledger = root / "ledger.sqlite"
        """Requests that cost money (SQLite). Kept when everything else is deleted: caps apply to the node's whole
        life."""
        self.spent = root / "spent.json"
        """The total that the node has spent, in case the ledger is lost (JSON). Kept like the ledger."""
        self.consent = root / "consent.json"
        """The providers that the operator agreed to pay (JSON)."""
        self.checkpoints = root / "checkpoints"
        """One directory per checkpoint."""
        self.served = root / "served"
        """Adapters on their way to a server (``offload.kind = "policy"``). Empty unless the node runs."""
        self.base = root / "base"
        """The tiny model after its warm-up, before the first step."""
        self.key = root / "identity.key"
        """The node's Ed25519 key in libp2p's format. Anyone who has this key can act as this node."""
        self.claims = root.parent / ".identities"
        """Locks on identities, shared by all nodes in the same parent directory, so that no two running nodes use
        the same key."""
        self.incarnation = root / "incarnation.json"
        """How often the node's identity was started and restored, so that copies of it notice each other (JSON)."""
        self.quarantine = root / "quarantine.json"
        """The peers and providers that the node does not learn from for now (JSON)."""
        self.charter = root / "charter"
        """The swarm's signed charter, as received."""
        self.swarm = root / "swarm"
        """What the node remembers about its swarm: its port, known peers and their reputation."""
        self.inputs = root / "inputs.json"
        """Digests of the operator's files that the node learns from (JSON). Without it, any contents are accepted."""
        self.secret_file = root / "secret"
        """The node's secret: 32 random bytes. They need no format number: any other length is refused."""
        self.hub = root / "hub"
        """The next upload to the hub, and a record of the last one."""

    def fixed_charter(self) -> str | None:
        """Return the charter id with which a node without a swarm was created; None if it is unknown or in a swarm.

        It depends on how the paths of question files were written at that time, so it is not computed again. Raises
        ``FileProblem`` if it is damaged: it determines the questions.
        """
        try:
            made = json.loads(self.identity.read_bytes())
            charter = None if made.get("swarm") else made["charter"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        if charter is not None and not re.fullmatch(r"[0-9a-f]{64}", str(charter)):
            message = f"{self.identity} is damaged: its charter is {foreign(charter)}"
            raise FileProblem(message, next=list_command(self.identity))
        return charter

    def secret(self) -> bytes:
        """Return the node's secret, created on the first call with mode 0600. It determines the held-out questions.

        Raises ``FileProblem`` if the file is damaged or cannot be read.
        """
        with suppress(FileExistsError):
            atomic_write.write(self.secret_file, secrets.token_bytes(SECRET_BYTES), exclusive=True)
        try:
            secret = self.secret_file.read_bytes()
        except OSError as error:
            message = f"cannot read {self.secret_file}: {error.strerror}"
            raise FileProblem(message, next=list_command(self.secret_file)) from error
        if len(secret) != SECRET_BYTES:
            raise FileProblem(
                f"{self.secret_file} is damaged: {len(secret)} bytes instead of {SECRET_BYTES}. It determines the "
                "held-out questions. If you delete it, the node draws new ones, and accuracies from before and after "
                "cannot be compared",
                next=shlex.join(["rm", str(self.secret_file)]),
            )
        return secret
