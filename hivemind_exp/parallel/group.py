"""Sums of tensors over all processes of a node, with NCCL between GPUs and Gloo between CPUs."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, distributed

_BUCKET = 2**25
"""Elements. Smaller tensors are added up together, because each sum has a fixed cost."""
_LIMIT = timedelta(hours=6)
"""When the library itself gives up. The main process notices an ended process, and its supervisor one that hangs, long
before."""
_LOOK_S = 2e-4
_LAST_LOOKS, _BETWEEN_LOOKS_S = 20, 0.1
"""How often, and how many seconds apart, ``check`` is called after a sum has failed."""


class ProcessGroup:
    """One process's place among the processes that train a node."""

    def __init__(self, path: Path, place: int, processes: int, device: str) -> None:
        """Meet the other processes at the file ``path``. Waits for all of them. ``place``: 0 for the main process."""
        # Only processes of this machine take part, so nothing listens on the network.
        loopback = "lo0" if sys.platform == "darwin" else "lo"
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", loopback)
        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(torch.device(device, torch.cuda.current_device()))
        self.place, self.processes = place, processes
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            store=distributed.FileStore(str(path), processes),  # type: ignore[attr-defined]  # public, but not listed
            rank=place,
            world_size=processes,
            timeout=_LIMIT,
            device_id=torch.device(device, torch.cuda.current_device()) if on_gpu else None,
        )
        self._on_gpu, self._device = on_gpu, torch.device(device)

    def add_up(self, tensors: Iterable[Tensor], check: Callable[[], None]) -> None:
        """Replace each tensor with its sum over all processes, which is the same on each, bit by bit.

        All processes call this with tensors of the same shapes. ``check`` is called while they wait, and may raise.
        """
        for bucket in _buckets(tensors):
            joined = bucket[0] if len(bucket) == 1 else torch.cat([tensor.flatten() for tensor in bucket])
            work = distributed.all_reduce(joined, async_op=True)
            self._wait_for(work, check)
            if len(bucket) > 1:
                parts = torch.split(joined, [tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.copy_(part.view_as(tensor))
        self._wait_for_gpu(check)

    def spread(self, tensors: Iterable[Tensor], check: Callable[[], None]) -> None:
        """Replace each tensor with the main process's. All processes call this with tensors of the same shapes.

        Tensors on the CPU are sent through the GPU, one at a time.
        """
        for tensor in tensors:
            sent = tensor.detach().to(self._device)
            self._wait_for(distributed.broadcast(sent, src=0, async_op=True), check)
            if sent.device != tensor.device:
                tensor.detach().copy_(sent)
        self._wait_for_gpu(check)

    @contextmanager
    def guard(self, check: Callable[[], None], has_lost_one: Callable[[], bool] | None = None) -> Iterator[None]:
        """Let collectives inside the block, which do not call ``check`` while they wait, end if a process does.

        ``check`` is called once they have failed, and may raise. ``has_lost_one``: whether another process has ended;
        called by another thread. None: this process is ended by the main one then.
        """
        done = threading.Event()

        def watch() -> None:
            while not done.wait(_BETWEEN_LOOKS_S):
                if has_lost_one is not None and has_lost_one() and distributed.group.WORLD is not None:
                    distributed.group.WORLD.abort()  # NCCL would wait forever; Gloo notices
                    return

        watcher = threading.Thread(target=watch, daemon=True)
        watches = self._on_gpu and has_lost_one is not None
        if watches:
            watcher.start()
        try:
            yield
            if watches:
                self._wait_for_gpu(check)
        except RuntimeError:
            _look_for_the_cause(check)
            raise
        finally:
            done.set()
            if watches:
                watcher.join()

    def leave(self, *, together: bool) -> None:
        """Leave the group. ``together``: all processes do. NCCL would wait for those that have ended already."""
        if together or not self._on_gpu:
            distributed.destroy_process_group()

    def _wait_for(self, work: distributed.Work, check: Callable[[], None]) -> None:
        try:
            if not self._on_gpu:
                _poll(work.is_completed, check)
            work.wait()  # on a GPU, only its later work waits
        except RuntimeError:
            _look_for_the_cause(check)
            raise

    def _wait_for_gpu(self, check: Callable[[], None]) -> None:
        if self._on_gpu:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch does not annotate it
            done.record()
            _poll(done.query, check)


def wait_quietly() -> None:
    """Check nothing, as the processes do that die with the main one anyway."""


def _look_for_the_cause(check: Callable[[], None]) -> None:
    """Call ``check`` for a moment: a broken connection is noticed before the end of the process behind it."""
    for _ in range(_LAST_LOOKS):
        check()
        time.sleep(_BETWEEN_LOOKS_S)


def _poll(is_done: Callable[[], bool], check: Callable[[], None]) -> None:
    while not is_done():
        check()
        time.sleep(_LOOK_S)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors of the same number format, small ones together. Large ones must be contiguous."""
    small: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel() >= _BUCKET and tensor.is_contiguous():
            yield [tensor]
            continue
        waiting = small.setdefault(tensor.dtype, [])
        if sum(each.numel() for each in waiting) + tensor.numel() > _BUCKET and waiting:
            yield small.pop(tensor.dtype)
            waiting = small.setdefault(tensor.dtype, [])
        waiting.append(tensor)
    yield from (bucket for bucket in small.values() if bucket)
