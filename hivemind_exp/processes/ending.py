"""How a process ended, in words."""

import signal

FREE_MEMORY = "close other programs or use a smaller model"
"""What helps if the kernel kills a process because memory ran out."""


def how_ended(status: int | None, *, helps: str = FREE_MEMORY) -> str:
    """Return how a process ended, after its name: ``exited with code 3`` or ``crashed (SIGSEGV)``.

    ``status``: the exit code; negative: the signal that killed it. Only the kernel, on most machines, sends SIGKILL to
    such a process, when memory runs out. ``helps``: what helps then.
    """
    if status == -signal.SIGKILL:
        return f"was killed (SIGKILL), probably by the kernel because memory ran out ({helps})"
    if status is None or status >= 0:
        return f"exited with code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"was ended by {name}" if status == -signal.SIGTERM else f"crashed ({name})"
