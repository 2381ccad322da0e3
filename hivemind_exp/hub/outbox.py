"""What waits to be pushed: a copy of a checkpoint's model with its card, until the hub has it."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp import atomic_write

_PARTIAL = ".partial-"
_LAST = "pushed.json"
_ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Parcel:
    """One model that is to go to the hub."""

    path: Path
    round: int
    """Rounds finished when it was saved."""


class Outbox:
    """The parcels of one node, on the disk: what a crash or a hub that is down kept here waits for the next run."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(exist_ok=True)
        for leftover in root.glob(f"{_PARTIAL}*"):
            shutil.rmtree(leftover)

    def pack(self, round_: int, model: Path, card: str, base: str) -> Parcel:
        """Add a model. Its weights are linked, not copied: the checkpoint may be pruned while they are on their way.

        ``base`` is what an adapter says it belongs to; otherwise it would tell a path of this machine.
        """
        final = self._root / f"{round_:08d}"
        if not final.exists():
            partial = self._root / f"{_PARTIAL}{final.name}"
            shutil.copytree(model, partial, copy_function=_link)
            # Written anew: writing into a file that is linked would change the checkpoint.
            atomic_write.write(partial / "README.md", card, None)
            adapter = partial / _ADAPTER
            if adapter.is_file():
                told = json.loads(adapter.read_text(encoding="utf-8"))
                atomic_write.write(adapter, json.dumps(told | {"base_model_name_or_path": base}, indent=2), None)
            partial.rename(final)
        return Parcel(final, round_)

    def waiting(self) -> Parcel | None:
        """Return the newest parcel."""
        rounds = self._rounds()
        return Parcel(self._root / f"{rounds[-1]:08d}", rounds[-1]) if rounds else None

    def holds(self, round_: int, repo: str) -> bool:
        """Say whether the model after ``round_`` rounds is here, or went to ``repo`` last."""
        return round_ in self._rounds() or self._last() == {"repo": repo, "round": round_}

    def done(self, parcel: Parcel, repo: str) -> None:
        """Note that a parcel has arrived, and remove it with all before it."""
        atomic_write.write(self._root / _LAST, json.dumps({"repo": repo, "round": parcel.round}))
        for round_ in self._rounds():
            if round_ <= parcel.round:
                shutil.rmtree(self._root / f"{round_:08d}")

    def _rounds(self) -> list[int]:
        return sorted(int(path.name) for path in self._root.iterdir() if path.name.isdigit())

    def _last(self) -> object:
        try:
            return json.loads((self._root / _LAST).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


def _link(source: str, target: str) -> str:
    """Link a file; copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
