"""Make the imports of torch, transformers and TRL cheaper. They are most of what a short-lived process costs."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector inside the block. Exempt from it what exists at the end, if anything was imported.

    Libraries create a million objects that live as long as the process. The collector would look for garbage among
    them again and again.
    """
    was_enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        if was_enabled:
            gc.enable()


def leave_out(*libraries: str) -> None:
    """Make installed libraries look absent in this process, unless they have been imported already.

    Only for those that other libraries import if they can, and that this process does not need.
    """
    for name in libraries:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # as the import system documents: importing it fails
