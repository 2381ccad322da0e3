"""Starting a node over: its last run is set aside, and deleted only once the new run has started.

A run can still be refused after its directory is prepared: only the trainer, which imports torch, finds out whether the
device works. Then the last run is put back. After ``kill -9`` at any point, ``finish`` does the rest.
"""

import os
import shutil
from pathlib import Path

from hivemind_exp.node_files import NodeFiles
from swarmctl.nodes.history import has_begun

_MOVING = ".moving"
"""The directory, in the node's, for files that are being set aside or put back. All other files are the last run's."""
_PREVIOUS = ".previous"
"""The same directory once the last run is complete in it. All other files are the new run's."""


def set_aside(files: NodeFiles) -> None:
    """Set everything aside except the node's lock, key, secret, identity, consent and spending records.

    The secret stays so that the held-out questions, and with them accuracies, stay comparable.
    """
    finish(files)
    last = _of_a_run(files)
    if not last:
        return
    moving = files.root / _MOVING
    moving.mkdir(mode=0o700)
    if files.identity.exists():  # a copy: the directory must never be without one
        shutil.copy2(files.identity, moving)
    for path in last:
        path.rename(moving / path.name)
    moving.rename(files.root / _PREVIOUS)


def finish(files: NodeFiles) -> None:
    """If a run is set aside, delete it if the new run has started, and put it back if not.

    The configuration and the trainer's log of a refused run stay, because they show what was wrong with it.
    """
    previous, moving = files.root / _PREVIOUS, files.root / _MOVING
    if previous.exists():
        if has_begun(files):
            shutil.rmtree(previous)
        else:
            for path in _of_a_run(files):
                if path not in (files.config, files.log):
                    _remove(path)
            previous.rename(moving)
    if moving.exists():
        for path in list(moving.iterdir()):
            target = files.root / path.name
            if target == files.identity or not os.path.lexists(target):
                path.replace(target)
        shutil.rmtree(moving)


def discard(files: NodeFiles) -> None:
    """Delete the last run if the new one has started."""
    previous = files.root / _PREVIOUS
    if previous.exists() and has_begun(files):
        shutil.rmtree(previous)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _of_a_run(files: NodeFiles) -> list[Path]:
    """Return the files and directories that belong to a run, and not to the node's whole life."""
    kept = {files.lock, files.identity, files.key, files.secret_file, files.consent, files.ledger, files.spent}
    kept.add(files.incarnation)
    kept |= {files.root / _MOVING, files.root / _PREVIOUS}
    return [
        path for path in files.root.iterdir() if path not in kept and not path.name.startswith(f"{files.ledger.name}-")
    ]
