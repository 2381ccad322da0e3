"""The conditions of a step besides its rows and weights: settings and machine. Recorded with each step's result."""

import json
import platform
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch

from hivemind_exp.config import Config
from hivemind_exp.models.device import Compute
from hivemind_exp.trainer.row_tensors import LAYOUT


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a step's result depends on besides its rows and weights."""

    settings: dict[str, Any]
    """The settings, by section."""
    device: str
    accelerator: str | None
    dtype: str
    threads: int
    torch: str
    processor: str
    """The architecture, and the instructions that torch uses."""
    layout: int = 1
    """How a step's rows become tensors (``row_tensors.LAYOUT``). Older versions do not record it."""

    @classmethod
    def now(cls, config: Config, compute: Compute) -> Self:
        """Return the conditions of this process."""
        model, train = config.model, config.train
        settings = {
            "model": model.model_dump(mode="json", include={"lora", "gradient_checkpointing", "load_in_4bit"}),
            "train": train.model_dump(mode="json"),
            "generation": {"temperature": config.generation.temperature},
        }
        processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
        machine = compute.device, compute.accelerator, compute.dtype
        return cls(settings, *machine, torch.get_num_threads(), str(torch.__version__), processor, LAYOUT)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return what ``text`` describes; None if a version with other fields wrote it."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def text(self) -> str:
        """Return the conditions as JSON, the same for the same conditions."""
        return json.dumps(asdict(self), sort_keys=True)

    def apply(self, config: Config) -> Config:
        """Return a configuration with these settings. Raises ``ValueError`` if this version has others."""
        body = config.model_dump(mode="json")
        for section, values in self.settings.items():
            body[section] = {**body[section], **values}
        body["train"] |= {"processes": 1, "shard": False}  # a replay is one process
        return Config.model_validate(body)

    def exact(self, other: "Conditions") -> bool:
        """Return whether a step gives the same bits under both: on the same kind of processor, with the same torch."""
        alone = self.settings.get("train", {}).get("processes", 1) == 1  # the order of a sum depends on it
        return alone and self.device == "cpu" and replace(self, settings={}) == replace(other, settings={})
