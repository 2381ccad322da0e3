"""One pure tensor function per kind of source, and how they add up.

Loss = L_own / tokens_own + λ · L_foreign / tokens_foreign, so that long foreign text cannot drown the node's own rows.
"""

from __future__ import annotations

from hivemind_exp.losses import peer, policy, policy_text, relay, teacher
from hivemind_exp.losses.base import GroupRows, Loss, LossSettings, TokenLoss, TokenRows
from hivemind_exp.rollouts.types import Kind

LOSSES: dict[Kind, Loss] = {
    Kind.POLICY: Loss(policy.weigh, policy.score_tokens),
    Kind.POLICY_TEXT: Loss(policy_text.weigh, policy_text.score_tokens),
    Kind.TEACHER: Loss(teacher.weigh, teacher.score_tokens),
    Kind.PEER: Loss(peer.weigh, peer.score_tokens),
    Kind.RELAY: Loss(relay.weigh, relay.score_tokens),
}

__all__ = ["LOSSES", "GroupRows", "Loss", "LossSettings", "TokenLoss", "TokenRows"]
