"""Steps of which several processes compute the gradient, as the main process sees them."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hivemind_exp.errors import ProcessEnded
from hivemind_exp.journal.records import Manifest
from hivemind_exp.models.out_of_memory import within_memory
from hivemind_exp.parallel.team import UPDATE, Team
from hivemind_exp.trainer.step_measures import StepMeasures

COMPARE_EVERY = 16
"""Before every so many steps, all processes compare their weights."""
_INTEGERS = {2: torch.int16, 4: torch.int32}


def measure_together(
    team: Team, manifest: Manifest, own: Callable[[], StepMeasures], *, recompute: bool
) -> tuple[StepMeasures, None] | tuple[None, str]:
    """Have all processes compute their shares of a step's gradient, and begin the update if none ran out of memory.

    Returns what all measured together; or, if memory ran out, None and whose memory. ``own``: computes this process's
    share. ``recompute``: whether activations are recomputed.
    """
    team.ask("gradient", [manifest.pack(), recompute])
    measured, ran_out = within_memory(own)
    answers = team.answers()
    ran_out = next((answer["ran_out"] for answer in answers if answer["ran_out"]), ran_out)
    if measured is None or ran_out is not None:
        return None, str(ran_out)
    team.ask(UPDATE, None)
    return StepMeasures.join([measured, *(StepMeasures.unpack(answer["measured"]) for answer in answers)]), None


def compare_weights(team: Team, weights: Iterable[Tensor]) -> None:
    """Raise ``ProcessEnded`` unless all processes have the same weights, which a restart gives them."""
    team.ask("digest", None)
    own = digest(weights)
    if any(answer != own for answer in team.answers()):
        raise ProcessEnded("the processes that train this node no longer have the same weights")


def digest(weights: Iterable[Tensor]) -> int:
    """Return a number that is the same for the same bits."""
    bits = [each.detach().view(_INTEGERS[each.element_size()]) for each in weights]
    sums: list[int] = torch.stack([each.sum(dtype=torch.int64) for each in bits]).tolist()
    return sum((place + 1) * value for place, value in enumerate(sums)) % 2**63
