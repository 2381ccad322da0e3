"""The losses by name. A new one is a module beside this one, a line here, and its name in ``TrainConfig``."""

from collections.abc import Mapping

from hivemind_exp.config import TrainConfig
from hivemind_exp.losses import f_tis, luffy, peer, policy, policy_text, relay, sapo, teacher
from hivemind_exp.losses.base import Loss
from hivemind_exp.rollouts.types import Kind

LOSSES: dict[str, Loss] = {
    "policy": policy.LOSS,
    "policy_text": policy_text.LOSS,
    "relay": relay.LOSS,
    # train.teacher_loss
    "gated": teacher.LOSS,
    "luffy": luffy.LOSS,
    # train.peer_loss
    "positive": peer.LOSS,
    "sapo": sapo.LOSS,
    "f_tis": f_tis.LOSS,
}


def choose_losses(train: TrainConfig) -> Mapping[Kind, Loss]:
    """Return the loss of each kind of source: by the settings where they name one, else the one named as the kind."""
    chosen = {Kind.TEACHER: train.teacher_loss, Kind.PEER: train.peer_loss}
    return {kind: LOSSES[chosen.get(kind, kind.value)] for kind in Kind}
