"""Further questions for a round whose groups tie: dynamic sampling (DAPO, arXiv 2503.14476, section 3.2)."""

from collections.abc import Callable, Sequence

from hivemind_exp.losses.base import TIE
from hivemind_exp.rollouts.types import Group


def has_own(group: Group) -> bool:
    """Return whether any completion comes from the node's own weights."""
    return any(rollout.kind.own for rollout in group.rollouts)


def teaches(group: Group) -> bool:
    """Return whether a verified group can teach the node something.

    The rewards of its own completions differ, or other completions are better than its own, or none is its own.
    """
    own = [score for rollout, score in group.scored() if rollout.kind.own]
    others = [score.outcome for rollout, score in group.scored() if not rollout.kind.own]
    if not own:
        return True
    rewards = [score.reward for score in own]
    better = max(others, default=0.0) - min(score.outcome for score in own)
    return max(rewards) - min(rewards) >= TIE or better >= TIE


def refill(groups: Sequence[Group], most: int, ask: Callable[[int, int], list[Group]]) -> list[Group]:
    """Return ``groups``, and those of further questions until as many groups teach something as there were groups.

    ``ask(taken, count)``: returns the verified groups of the next ``count`` questions, after ``taken`` further ones.
    ``most``: how many further questions may be asked.
    """
    asked, taken = list(groups), 0
    while (count := min(len(groups) - sum(map(teaches, asked)), most - taken)) > 0:
        asked += ask(taken, count)
        taken += count
    return asked


def best(asked: Sequence[Group], count: int) -> list[Group]:
    """Return ``count`` of the groups, in the same order: first those that teach something."""
    chosen = sorted(range(len(asked)), key=lambda place: not teaches(asked[place]))[:count]
    return [asked[place] for place in sorted(chosen)]
