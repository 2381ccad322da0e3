"""Import less of transformers and peft."""

import sys

from hivemind_exp.config import Config
from hivemind_exp.processes.imports import leave_out


def without_bitsandbytes(config: Config) -> None:
    """Let peft believe that bitsandbytes is not installed, unless the settings need it.

    peft imports it for models with quantized weights only, but does so for all models, which takes more than a second.
    Does nothing if it has been imported already.
    """
    if not config.model.load_in_4bit and config.train.optimizer != "adamw-8bit":
        leave_out("bitsandbytes")


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
