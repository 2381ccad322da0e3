"""On-policy distillation: for each token that this node sampled, how much likelier a teacher finds it than the node.

The node minimises the reverse KL divergence KL(π_θ ‖ π_teacher) on its own samples. It needs the teacher's
log-probability of each sampled token, not its whole distribution: MiniLLM (arXiv 2306.08543, sections 2.1 and 2.2),
GKD (arXiv 2306.13649, section 3), and "On-Policy Distillation" (Thinking Machines Lab, 2025). As there, the discount is
0: a token gets no credit for the tokens after it.

It is added to the advantage of ``policy``. The step then follows the gradient of E[A] - KL(π_θ ‖ π_teacher), which is
reinforcement learning with the teacher as its reference (GKD, section 3.1): the node can become better than its
teacher, and right answers resist a teacher that is wrong. There is no coefficient: A counts standard deviations of a
group's rewards, and the divergence counts nats.
"""

from torch import Tensor

from hivemind_exp.losses.base import TokenRows

LARGEST = 5.0
"""Cap on |log π_teacher - log π_θ| in nats. A token that a teacher finds impossible (vLLM says -9999) must not outweigh
a whole batch. The value is our choice."""


def token_advantages(logps: Tensor, teacher_logps: Tensor) -> Tensor:
    """Return log π_teacher - log π_θ, (B, T), detached, within ±5. NaN where the teacher's is unknown."""
    return (teacher_logps - logps.detach()).clamp(-LARGEST, LARGEST)


def distil(rows: TokenRows) -> Tensor:
    """Return the loss per token, (B, T), whose gradient is that of the reverse KL divergence, by policy gradient.

    0 for tokens that no teacher has scored.
    """
    if rows.teacher_logps is None:
        return rows.logps.new_zeros(rows.logps.shape)
    advantages = token_advantages(rows.logps, rows.teacher_logps).nan_to_num(nan=0.0)
    return -(rows.logps - rows.logps.detach()).exp() * advantages
