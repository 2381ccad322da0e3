"""The losses by name. To add one, follow "Add a loss" in ARCHITECTURE.md.

That is a module, its import and a line here, its name in a setting of ``TrainConfig``, and, for a teacher's loss, a
description in ``hivemind_exp.offload.loss_descriptions``. A loss on the node's own rows has a setting of its own, which
``choose_losses`` reads. One that is named after a kind of source needs no setting.
"""

from collections.abc import Mapping

from hivemind_exp.losses import f_tis, gated, hinted, luffy, policy, policy_text, positive, relay, sapo
from hivemind_exp.losses.base import Loss
from hivemind_exp.source_kinds import Kind
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
