"""The settings of the optimizer step and the names of the losses: the table ``[train]`` of a profile."""

from typing import Annotated, Literal

from pydantic import Field

from hivemind_exp.settings_table import AutoPositive, NotNegative, Positive, Section

JOINT_LOSSES = frozenset({"luffy"})
"""Values of ``train.teacher_loss`` with ``Loss.joins_baseline``. They are named here, too, for code that must not
import torch."""
NOT_SHARDED = {
    'train.optimizer = "adamw-8bit"': "moments in 8 bits cannot be divided",
    "model.load_in_4bit = true": "weights in 4 bits cannot be divided",
    "model.fused_kernels = true": "fused kernels are not tested with parts of a model",
    'model.dtype = "float16"': "each process sees only a part of the gradient, but its scaler needs all of it",
    'offload.kind = "policy"': "no process has all the weights that a server needs",
}
"""The settings with which ``train.shard`` cannot be used, and why."""


class TrainConfig(Section):
    """GRPO (arXiv 2402.03300) with token-level normalization (DAPO, arXiv 2503.14476)."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Peak learning rate of AdamW. Adapters (model.lora) need about ten times the rate of full weights."""
    teacher_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of steps that learn only from a teacher: supervised learning. Unset: 1e-5, or 1e-4 with
    adapters (model.lora), but at least train.learning_rate."""
    optimizer: Literal["adamw", "adamw-8bit"] = "adamw"
    """AdamW. "adamw-8bit" stores its moments in 8 bits (Dettmers et al. 2022, arXiv 2110.02861): a quarter of the
    memory. It needs the package bitsandbytes."""
    warmup_steps: NotNegative = 10
    """Steps over which the learning rate rises. Constant afterwards, because a node has no planned end."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this norm."""
    micro_batch: AutoPositive = "auto"
    """Rows per forward and backward pass. Affects memory and speed, not the loss. "auto": as many as fit into a GPU's
    free memory, at most 64; 4 without one. If memory runs out, activations are recomputed first; then it is halved."""
    processes: Positive = 1
    """Processes that train the node together, each with a GPU of its own: `run --gpus N`. Affects speed, not the loss.
    With model.device = "cpu", they share the CPU."""
    shard: bool = False
    """Divide weights, gradients and optimizer state among the processes, instead of keeping a copy in each, so that a
    larger model fits into several GPUs (PyTorch's FSDP2, arXiv 2304.11277). Needs train.processes of at least 2."""
    max_lag: NotNegative = 4
    """Rows of the node's own policy that are older than this many steps are dropped."""
    beta: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the KL penalty on the node's own rows. 0: no reference model, and `kl` is null."""
    off_policy_weight: Annotated[float, Field(ge=0)] = 1.0
    """λ: weight of an external row, relative to one of the node's own."""
    peer_loss: Literal["positive", "sapo", "f_tis"] = "positive"
    """Loss on peers' groups: correct completions only, weighted by 1 - this node's pass rate; both signs of advantage
    (arXiv 2509.08721); or filtered truncated importance sampling (arXiv 2605.22537)."""
    teacher_loss: Literal["gated", "luffy"] = "gated"
    """Loss on a teacher's verified text: supervised learning, or policy shaping (arXiv 2504.14945)."""

    @property
    def joins_baseline(self) -> bool:
        """Whether a teacher's rows are compared, by outcome alone, with the node's own rows in the same group."""
        return self.teacher_loss in JOINT_LOSSES
