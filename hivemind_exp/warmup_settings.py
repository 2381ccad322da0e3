"""The settings of what a model learns before the first round: the tables ``[warmup]`` and ``[warm_start]``."""

from typing import Annotated

from pydantic import Field

from hivemind_exp.settings_table import NotNegative, Positive, Section


class WarmupConfig(Section):
    """Supervised training before the first round. Only for the model "tiny", which starts with random weights, and
    the task spell_backward."""

    steps: NotNegative = 0
    """Optimizer steps. 0: none."""
    batch: Positive = 64
    """Demonstrations per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Learning rate of the warm-up."""


class WarmStartConfig(Section):
    """Warm start for a model that answers better if its prompt shows examples. Before the first round, the node samples
    answers to such prompts, and learns the correct ones for the prompts without examples. Only in "sampling"."""

    steps: NotNegative = 0
    """Maximum optimizer steps, at train.learning_rate. If few answers are correct, there are fewer. 0: none."""
    batch: Positive = 32
    """Answers per step. The node samples this many for each step, and learns each correct one up to four times."""
    examples: Annotated[int, Field(ge=1, le=8)] = 3
    """Examples in the prompts of the answers."""
