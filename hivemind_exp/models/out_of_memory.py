"""Recognize errors that mean that memory ran out, and free memory that is no longer needed. Does not import torch."""

import contextlib
import gc
import sys
from collections.abc import Callable
from typing import TypeVar

ACCELERATOR, HOST, APPLE = "the accelerator", "this machine", "the Apple GPU"
_Result = TypeVar("_Result")


def what_ran_out(error: BaseException) -> str | None:
    """Return what ran out of memory, such as "the accelerator"; None if an error means something else."""
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "CUBLAS_STATUS_ALLOC_FAILED" in text:
        return ACCELERATOR
    if type(error).__name__ == "AcceleratorError" and "out of memory" in text.lower():
        return ACCELERATOR
    if "MPS backend out of memory" in text:
        return APPLE
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "not enough memory" in text:
        return HOST
    return None


def within_memory(work: Callable[[], _Result]) -> tuple[_Result, None] | tuple[None, str]:
    """Return what ``work`` returns, and None; or, if memory ran out meanwhile, None and whose memory."""
    try:
        return work(), None
    except Exception as error:
        ran_out = what_ran_out(error)
        if ran_out is None:
            raise
    # Only now, because the error holds the tensors of the functions that it was raised in.
    free_cached()
    return None, ran_out


def free_cached() -> None:
    """Return memory that torch keeps for later to the device."""
    gc.collect()
    torch = sys.modules.get("torch")
    for name in () if torch is None else ("cuda", "xpu", "mps"):
        with contextlib.suppress(RuntimeError):
            getattr(torch, name).empty_cache()
