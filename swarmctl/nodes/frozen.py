"""A node's processes that a signal has stopped (SIGSTOP, or Ctrl-Z in a terminal): they do nothing until continued."""

import contextlib
from collections.abc import Iterator

ENGINE = "hivemind_exp.offload.process.server"
"""The module that the API process runs."""
MEMBER = "hivemind_exp.runner.member"
"""The module that the processes run which train a node with its trainer (``train.processes``)."""
_LOOKS = 2
"""Looks in a row at which a process is stopped before it is reported. One that continues at once is not."""


class FrozenWatch:
    """Looks at a running node's trainer, API process and training processes again and again."""

    def __init__(self, trainer: int) -> None:
        self._trainer = trainer
        self._looks: dict[int, int] = {}
        """For each stopped process, the looks in a row at which it was stopped."""

    def look(self) -> list[str]:
        """Return a sentence for each process that has been found stopped, or that no longer is."""
        before, said = self._looks, []
        self._looks = {}
        for pid, sentence in frozen(None, self._trainer):
            self._looks[pid] = before.get(pid, 0) + 1
            if self._looks[pid] == _LOOKS:
                said.append(f"warning: {sentence}")
        return said + [
            f"Process {pid} is no longer stopped."
            for pid, looks in before.items()
            if looks >= _LOOKS and pid not in self._looks
        ]


def frozen(supervisor: object, trainer: object) -> Iterator[tuple[int, str]]:
    """Yield the stopped ones of a node's processes: the process, and a sentence that says how to continue it.

    ``supervisor`` and ``trainer`` are their process ids, as the node's lock file has them, or None.

    The trainer itself replaces its other processes if they are stopped.
    """
    for what, pid, so in _processes(supervisor, trainer):
        if _is_stopped(pid):
            yield pid, f"{what} (pid {pid}) was stopped by a signal, so {so}. To continue it: kill -CONT {pid}"


def _processes(supervisor: object, trainer: object) -> Iterator[tuple[str, int, str]]:
    """Yield each process's name and id, and what its stop means."""
    if isinstance(supervisor, int):
        yield "swarmctl", supervisor, "it shows nothing"
    if isinstance(trainer, int):
        yield "the trainer", trainer, "the node does nothing"
        for child, module in _children(trainer):
            if module == ENGINE:
                yield "the API process", child, "no completions arrive from APIs"
            elif module == MEMBER:
                yield "a training process", child, "the node does nothing"


def _children(trainer: int) -> list[tuple[int, str]]:
    """Return the ids and modules of the trainer's engine and training processes."""
    import psutil  # imported here: most commands do not need it

    found: list[tuple[int, str]] = []
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(trainer).children():
            with contextlib.suppress(psutil.Error):  # it has just ended
                words = child.cmdline()
                found += [(child.pid, module) for module in (ENGINE, MEMBER) if module in words]
    return found


def _is_stopped(pid: int) -> bool:
    import psutil

    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return False
