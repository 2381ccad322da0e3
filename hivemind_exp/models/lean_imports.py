"""Import less of transformers."""

import sys


def without_scipy() -> None:
    """Let transformers believe that scipy is not installed, which it imports only for the losses of object detectors.

    Only for processes that do nothing but use a causal language model. Other libraries can still import scipy.
    Does nothing if scipy has been imported already.
    """
    if "scipy" in sys.modules:
        return
    sys.modules["scipy"] = None  # type: ignore[assignment]  # as the import system documents: it looks absent
    try:
        from transformers.utils import is_scipy_available

        is_scipy_available()  # remembers the answer
    finally:
        del sys.modules["scipy"]
