"""The losses by name. To add one, add a module in this package, a line here, and its name in ``TrainConfig``."""

from collections.abc import Mapping

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses import f_tis, hinted, luffy, peer, policy, policy_text, relay, sapo, teacher
from hivemind_exp.losses.base import Loss
from hivemind_exp.rollouts.types import Kind

LOSSES: dict[str, Loss] = {
    "policy": policy.LOSS,
    "policy_text": policy_text.LOSS,
    "relay": relay.LOSS,
    "hinted": hinted.LOSS,
    # train.teacher_loss
    "gated": teacher.LOSS,
    "luffy": luffy.LOSS,
    # train.peer_loss
    "positive": peer.LOSS,
    "sapo": sapo.LOSS,
    "f_tis": f_tis.LOSS,
}


def choose_losses(train: TrainConfig) -> Mapping[Kind, Loss]:
    """Return the loss for each kind of source: the one chosen in the settings, else the one with the kind's name."""
    chosen = {Kind.TEACHER: train.teacher_loss, Kind.PEER: train.peer_loss}
    return {kind: LOSSES[chosen.get(kind, kind.value)] for kind in Kind}
