"""Base models in 4 bits and AdamW with 8-bit moments, through bitsandbytes, which is an optional package."""

import importlib.util
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from hivemind_exp.config import Config
from hivemind_exp.errors import ConfigurationError

_PACKAGE = "bitsandbytes>=0.50"
"""The first version whose kernels for CPUs include both."""
_DEVICES = ("cuda", "cpu", "xpu")


def check_quantized(config: Config, device: str) -> None:
    """Raise ``ConfigurationError`` if the settings need bitsandbytes and it is missing or does not support a device."""
    wanted = {
        "model.load_in_4bit": ("false", config.model.load_in_4bit),
        "train.optimizer": ("adamw", config.train.optimizer == "adamw-8bit"),
    }
    for name, (off, needed) in wanted.items():
        if not needed:
            continue
        undo = f"swarmctl run --set {name}={off}"
        kind = device.partition(":")[0]
        if kind not in _DEVICES:
            raise ConfigurationError(f"{name} needs bitsandbytes, which does not support {kind}", next=undo)
        if importlib.util.find_spec("bitsandbytes") is None:
            command = shlex.join([sys.executable, "-m", "pip", "install", _PACKAGE])
            raise ConfigurationError(f"{name} needs bitsandbytes, which is not installed", next=command)


def four_bits(dtype: str) -> Any:
    """Return the configuration with which transformers loads weights in 4 bits (NF4, Dettmers et al. 2023, arXiv
    2305.14314), with quantized constants. The computation is in ``dtype``."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def copy_adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return copies of the adapters that a model already has."""
    return {name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name}


def restore_adapters(model: nn.Module, adapters: Mapping[str, Tensor]) -> None:
    """Return adapters to float32, which TRL rounds to bfloat16 if the weights under them are quantized.

    ``adapters``: as they were before; those that did not exist then are only converted.
    """
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.data = adapters.get(name, value.data).float()
