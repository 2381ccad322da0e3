"""``hinted``: supervised learning on this node's own correct answers to prompts with a hint, for prompts without it.

This is the rationalization of STaR (Zelikman et al. 2022, arXiv 2203.14465) with a hint about the method instead of the
answer, and a case of context distillation (Askell et al. 2021, arXiv 2112.00861, appendix A).

The rows are samples of π(· | prompt, hint), not of π(· | prompt). Correcting this by importance sampling would undo
their use: π(y | prompt) / π(y | prompt, hint) is small exactly where the hint made the difference, so the answers that
the node cannot find alone would weigh almost nothing. They are therefore learned like a teacher's text: if correct and
in the requested format, and weighted by max(0, 1 - mean of own rewards). Half of the weight goes to the same answer
after the prompt with the hint (``sources.hints``), because a node that learns nothing there forgets how to follow
hints.
"""

import re
from dataclasses import replace

import torch
from torch import Tensor

from hivemind_exp.losses import gated
from hivemind_exp.losses.base import GroupRows, Loss, likelihood
from hivemind_exp.train_settings import TrainConfig

_MENTION = re.compile(r"\bhint", re.IGNORECASE)


def mentions_hint(text: str) -> bool:
    """Return whether a completion refers to its hint. Learning it would teach the node to invent hints."""
    return _MENTION.search(text) is not None


def weigh(rows: GroupRows, train: TrainConfig) -> Tensor:
    """Return the weights that a teacher's rows would get. Also drops rows that refer to the hint."""
    clean = torch.tensor([not mentions_hint(text) for text in rows.texts], device=rows.outcomes.device)
    return gated.weigh(replace(rows, strict=rows.strict & clean), train)


LOSS = Loss(weigh, likelihood)
