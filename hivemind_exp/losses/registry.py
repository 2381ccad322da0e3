"""The losses by name. To add one, add a module of that name, a line here, and the name in ``TrainConfig``."""

from collections.abc import Mapping

from hivemind_exp.losses import f_tis, gated, hinted, luffy, policy, policy_text, positive, relay, sapo
from hivemind_exp.losses.base import Loss
from hivemind_exp.rollouts.types import Kind
from hivemind_exp.train_settings import TrainConfig

LOSSES: dict[str, Loss] = {
    "policy": policy.LOSS,
    "policy_text": policy_text.LOSS,
    "relay": relay.LOSS,
    "hinted": hinted.LOSS,
    # train.teacher_loss
    "gated": gated.LOSS,
    "luffy": luffy.LOSS,
    # train.peer_loss
    "positive": positive.LOSS,
    "sapo": sapo.LOSS,
    "f_tis": f_tis.LOSS,
}


def choose_losses(train: TrainConfig) -> Mapping[Kind, Loss]:
    """Return the loss for each kind of source: the one chosen in the settings, else the one with the kind's name."""
    chosen = {Kind.TEACHER: train.teacher_loss, Kind.PEER: train.peer_loss}
    return {kind: LOSSES[chosen.get(kind, kind.value)] for kind in Kind}
