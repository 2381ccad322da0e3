"""Checkpoints: written atomically and verified on load. Several are kept, in case the newest is damaged."""

import errno
import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from hivemind_exp import atomic_write, formats, node_files
from hivemind_exp.errors import CheckpointError
from hivemind_exp.events import Emit, WarningEvent
from hivemind_exp.foreign_text import foreign
from hivemind_exp.full_disk import disk_full
from hivemind_exp.node_id import NodeId, of_another_node, read_id

MODEL = "model"
"""Directory in a checkpoint that ``from_pretrained`` reads: the whole model, or the adapter."""
STATE = "trainer.pt"
"""File in a checkpoint with the state of the optimizer, the schedule and the random generators."""
SEAL = node_files.SEAL
PARTIAL = ".partial-"
"""Name prefix of a checkpoint that is being written, or whose writer died."""
DAMAGED = "damaged-"
"""Name prefix of a damaged checkpoint that was set aside."""
PIECE = 1 << 24
"""Bytes that are read between two checks whether the checkpoint is still wanted."""
FULL = 1 << 20
"""Free bytes below which a failed write is attributed to a full disk."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A directory whose files are unchanged since it was written."""

    path: Path
    step: int
    """Optimizer steps behind the weights."""
    round: int
    """Rounds finished."""


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """One node's checkpoints, named by step."""

    root: Path
    _keep: int
    _emit: Emit
    pinned: set[int] = field(default_factory=set)
    """Steps of checkpoints that are kept in addition to the newest ones. Steps since then need not be replayable."""
    owner: NodeId | None = None
    """The node, which its checkpoints name; None if it has no id."""
    spent: Callable[[], float] = float
    """Returns what the node has spent so far, in US dollars, in case all other records of it are lost."""

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for leftover in self.root.glob(f"{PARTIAL}*"):
            shutil.rmtree(leftover)

    def save(
        self,
        step: int,
        round_: int,
        write: Callable[[Path], None],
        *,
        restored: int | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Checkpoint:
        """Create a checkpoint: let ``write`` fill a directory, then seal it and move it into place.

        Args:
            restored: the step of the checkpoint whose weights are saved again. An existing one is then replaced.
            check: called between pieces of the work. What it raises abandons the checkpoint.

        Raises ``DiskFull`` if the disk is full. A failed checkpoint leaves nothing behind.
        """
        final = self.root / f"{step:08d}"
        if final.exists() and restored is None:
            return Checkpoint(final, step, round_)
        partial = self.root / f"{PARTIAL}{step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            write(partial)
            about: dict[str, object] = {"step": step, "round": round_}
            if restored is not None:
                about["restored"] = restored
            if self.owner is not None:
                about["node"] = self.owner.as_json()
            if usd := self.spent():
                about["usd"] = usd
            _seal(partial, about, check)
            if final.exists():  # it becomes a leftover in one step
                final.rename(self.root / f"{PARTIAL}{step:08d}.replaced")
            partial.rename(final)
            atomic_write.sync(self.root)
        except BaseException as error:
            full = _is_full(error, self.root)
            shutil.rmtree(partial, ignore_errors=True)
            if full:
                free = shutil.disk_usage(self.root).free
                what = f"a checkpoint in {self.root} ({free / 2**20:.1f} MiB free); earlier checkpoints are intact"
                raise disk_full(what, self.root) from error
            raise
        self._prune()
        return Checkpoint(final, step, round_)

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint. Renames damaged ones, with a warning.

        Raises ``NodeConflict`` if one is another node's.
        """
        for path in sorted(self._directories(), reverse=True):
            check_owner(path, self.owner)
        for path in sorted(self._directories(), reverse=True):
            problem = damage(path)
            if problem is None:
                seal = json.loads((path / SEAL).read_text())
                return Checkpoint(path, seal["step"], seal["round"])
            aside = self.root / f"{DAMAGED}{path.name}"
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            message = f"checkpoint {path.name} is damaged ({problem}): renamed it to {aside}, using the previous one"
            self._emit(WarningEvent(code="checkpoint_damaged", message=message))
        return None

    def oldest_step(self) -> int:
        """Return the step of the oldest checkpoint that is not only pinned. The journal must reach back to it.

        0 while there are fewer checkpoints than are kept: steps can then be replayed from the model before training.
        """
        steps = sorted(int(path.name) for path in self._directories())
        return 0 if len(steps) < self._keep else steps[-self._keep]

    def damaged(self) -> list[Path]:
        return sorted(self.root.glob(f"{DAMAGED}*"))

    def _directories(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.name.isdigit()]

    def _prune(self) -> None:
        for leftover in self.root.glob(f"{PARTIAL}*.replaced"):
            shutil.rmtree(leftover)
        for path in sorted(self._directories())[: -self._keep]:
            if int(path.name) in self.pinned:
                continue
            # Rename first, because a half-deleted checkpoint must not look like a damaged one.
            doomed = path.rename(self.root / f"{PARTIAL}{path.name}")
            shutil.rmtree(doomed)


def find(root: Path, step: int | None = None) -> Checkpoint | None:
    """Return a node's checkpoint by its step, or its newest intact one; None if it has none yet.

    Changes nothing: the node may be running. Raises ``CheckpointError`` if the one with this step is missing, or if
    what would be returned is damaged.
    """
    known = {int(path.name): path for path in root.glob("[0-9]*") if path.name.isdigit()}
    if step is not None and step not in known:
        raise CheckpointError(f"no checkpoint {step}; there are {', '.join(map(str, sorted(known))) or 'none yet'}")
    problem = None
    for number in sorted(known, reverse=True) if step is None else [step]:
        problem = damage(known[number])
        if problem is None:
            seal = json.loads((known[number] / SEAL).read_text())
            return Checkpoint(known[number], seal["step"], seal["round"])
    if problem is not None:
        raise CheckpointError(f"checkpoint {number} is damaged: {problem}")
    return None


def check_owner(path: Path, owner: NodeId | None) -> None:
    """Raise ``NodeConflict`` if another node wrote a checkpoint. One that names no node may be of any."""
    if owner is None:
        return
    try:
        its = read_id(json.loads((path / SEAL).read_text()).get("node"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return  # it is damaged
    if its is not None and not owner.owns(its):
        place = shlex.quote(str(path.parents[1] / "other-node"))
        aside = f"mkdir -p {place} && mv {shlex.quote(str(path))} {place}"
        raise of_another_node(path, "a checkpoint", its, owner, aside)


def _seal(directory: Path, about: dict[str, object], check: Callable[[], None]) -> None:
    """Write the digests of a checkpoint's files, and what else is known about it."""
    files = {}
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        files[str(path.relative_to(directory))] = _digest(path, check)
        atomic_write.sync(path)
        check()
    atomic_write.write(
        directory / SEAL, json.dumps({"schema": formats.FORMAT} | about | {"sha256": files}, indent=1), None
    )


def damage(directory: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None if all files are unchanged since it was sealed.

    Raises ``FileProblem`` if a newer version wrote it.
    """
    try:
        seal = json.loads((directory / SEAL).read_text())
        formats.check_number(directory / SEAL, seal.get("schema"))
        for name, digest in seal["sha256"].items():
            if _digest(directory / name) != digest:
                return f"{name} has changed"
        if not isinstance(seal["round"], int) or seal["step"] != int(directory.name):
            return f"{SEAL} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"cannot be read: {foreign(error)}"
    return None


def _digest(path: Path, check: Callable[[], None] = lambda: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            check()
    return digest.hexdigest()


def _is_full(error: BaseException, root: Path) -> bool:
    """Return whether an error means that the disk is full. Libraries with native code do not always say so."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error)
    return isinstance(error, Exception) and shutil.disk_usage(root).free < FULL
