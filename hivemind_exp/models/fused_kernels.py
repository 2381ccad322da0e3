"""Fused kernels for NVIDIA cards, through Liger (Hsu et al. 2024, arXiv 2410.10989), which is an optional package.

They compute norms, rotary embeddings and gated units in one kernel each, in training and generation. Does not import
torch.
"""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hivemind_exp.errors import ConfigurationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hivemind_exp.config import ModelConfig

PACKAGE = "liger-kernel>=0.8"
INSTALL = shlex.join([sys.executable, "-m", "pip", "install", PACKAGE])
_KERNELS = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    # The step computes log-probabilities itself, in tiles.
    "cross_entropy": False,
    "fused_linear_cross_entropy": False,
}
_replaced: dict[tuple[str, str], tuple[Any, Any]] = {}
"""What Liger replaced in the modules that define models, by module and name: the original and its kernel."""


def check_fused(model: ModelConfig, device: str) -> None:
    """Raise ``ConfigurationError`` if the settings demand fused kernels that this device or installation lacks."""
    if model.fused_kernels is not True:
        return
    if not device.startswith("cuda"):
        undo = "swarmctl run --set model.fused_kernels=auto"
        raise ConfigurationError(f"model.fused_kernels needs an NVIDIA GPU, and the device is {device}", next=undo)
    if not installed():
        raise ConfigurationError("model.fused_kernels needs liger-kernel, which is not installed", next=INSTALL)


def installed() -> bool:
    """Return whether Liger is installed."""
    return importlib.util.find_spec("liger_kernel") is not None


def are_used(model: ModelConfig, device: str) -> bool:
    """Return whether a model on this device gets fused kernels, if Liger has them for its family."""
    import torch

    nvidia = device.startswith("cuda") and torch.version.cuda is not None
    return nvidia and model.fused_kernels is not False and installed()


def fuse(model: PreTrainedModel, settings: ModelConfig, device: str) -> bool:
    """Let a model compute with fused kernels, if the settings and the device allow it. Return whether it does.

    Raises ``ConfigurationError`` if the settings demand them and Liger has none for the model's family.
    """
    if not are_used(settings, device):
        return False
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    from transformers.integrations.liger import apply_liger_kernel

    family = model.config.model_type
    if family not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        if settings.fused_kernels is True:
            undo = "swarmctl run --set model.fused_kernels=auto"
            raise ConfigurationError(f"liger-kernel has no kernels for models of the family {family}", next=undo)
        return False
    before = {name: dict(vars(module)) for name, module in _modeling_modules()}
    apply_liger_kernel(model, _KERNELS)
    for name, module in _modeling_modules():
        for key, original in before.get(name, {}).items():
            if (kernel := getattr(module, key)) is not original:
                _replaced.setdefault((name, key), (original, kernel))
    return True


@contextmanager
def plain_models() -> Iterator[None]:
    """Build models without fused kernels inside the block, and compute with them.

    Besides the model that ``fuse`` was given, Liger changes the modules that define its family. So without this, every
    later model of the family would get kernels, which fail on a CPU.
    """
    for (name, key), (original, _) in _replaced.items():
        setattr(sys.modules[name], key, original)
    try:
        yield
    finally:
        for (name, key), (_, kernel) in _replaced.items():
            setattr(sys.modules[name], key, kernel)


def _modeling_modules() -> list[tuple[str, Any]]:
    return [
        (name, module)
        for name, module in sys.modules.items()
        if name.startswith("transformers.models.") and ".modeling_" in name
    ]
