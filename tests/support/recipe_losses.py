"""Minimal examples of the recipes of ARCHITECTURE.md about what is learned from a source."""

from __future__ import annotations

from tests.support.recipe_copies import Copy

ADD_LOSS = "Add a loss"


def add_loss(code: Copy) -> None:
    code.write(
        "hivemind_exp/losses/plain.py",
        '''"""``plain``: every row weighs one."""

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, likelihood
from hivemind_exp.train_settings import TrainConfig


def weigh(rows: GroupRows, _train: TrainConfig) -> Tensor:
    """Return (G,) ones."""
    return torch.ones_like(rows.outcomes)


LOSS = Loss(weigh, likelihood)
''',
    )
    registry = "hivemind_exp/losses/registry.py"
    code.put(registry, "from hivemind_exp.losses import f_tis, gated, hinted, luffy, ", "plain, ")
    code.put(registry, "LOSSES: dict[str, Loss] = {", '\n    "plain": plain.LOSS,')
    code.put("hivemind_exp/train_settings.py", '    teacher_loss: Literal["gated", "luffy"', ', "plain"')
    described = '\n    "plain": "teacher: every row weighs one",'
    last = '    "luffy": "teacher: LUFFY policy shaping, f(π) = π/(π + 0.1), with advantages within the joint group",'
    code.put("hivemind_exp/offload/loss_descriptions.py", last, described)


ADD_OWN_LOSS = "Add a loss on the node's own rows"


def add_own_loss(code: Copy) -> None:
    code.write(
        "hivemind_exp/losses/centred.py",
        '''"""``centred``: the reward minus the group's mean, without its standard deviation (arXiv 2503.20783)."""

import torch
from torch import Tensor

from hivemind_exp.losses.base import GroupRows, Loss, drop
from hivemind_exp.losses.policy import score_tokens
from hivemind_exp.train_settings import TrainConfig


def weigh(rows: GroupRows, train: TrainConfig) -> Tensor:
    """Return (G,) advantages; NaN for old rows."""
    stale = torch.tensor([lag is None or lag > train.max_lag for lag in rows.lags], device=rows.outcomes.device)
    return drop(rows.outcomes - rows.own_outcomes.mean(), stale)


LOSS = Loss(weigh, score_tokens, own=True)
''',
    )
    registry = "hivemind_exp/losses/registry.py"
    code.put(registry, "from hivemind_exp.losses import ", "centred, ")
    code.put(registry, '    "policy": policy.LOSS,', '\n    "centred": centred.LOSS,')
    code.put(registry, "    chosen = {", "Kind.POLICY: train.own_loss, ")
    before = "    teacher_loss: Literal["
    field = '    own_loss: Literal["policy", "centred"] = "policy"\n    """Loss on the node\'s own rows."""\n'
    code.replace("hivemind_exp/train_settings.py", before, field + before)
    before, shown = '    "train.teacher_loss": ', "tests/test_recipes.py::test_add_a_loss_on_the_nodes_own_rows"
    code.replace("tests/test_every_setting.py", before, f'    "train.own_loss": "{shown}",\n{before}')
    line = '    "train.own_loss": ("policy or centred", ("both",)),\n'
    code.replace("tests/swarmctl/settings/test_problems.py", before, line + before)


ADD_KIND = "Add a kind of source"


def add_kind(code: Copy) -> None:
    types, last = "hivemind_exp/source_kinds.py", '    """Any engine. Nothing is learned."""'
    code.put(types, last, '\n    DRAFT = "draft"\n    """A smaller model on this machine."""')
    code.put("hivemind_exp/losses/registry.py", '    "hinted": hinted.LOSS,', '\n    "draft": gated.LOSS,')
    code.put("hivemind_exp/hub/card.py", '    Kind.RELAY: "any engine",', '\n    Kind.DRAFT: "a smaller model",')
    before, draft = "    Kind.HINTED: ", '    Kind.DRAFT: "draft: supervised learning on correct answers",\n'
    code.replace("hivemind_exp/offload/loss_descriptions.py", before, draft + before)
