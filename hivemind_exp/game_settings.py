"""The settings of the game: the table ``[game]`` of a profile."""

from typing import Annotated, Literal

from pydantic import Field

from hivemind_exp.settings_table import NotNegative, Positive, Section


class GameConfig(Section):
    """The game: what happens in a round."""

    kind: Literal["sampling", "study-group"] = "sampling"
    """"sampling": one stage, I local groups and J groups from peers (swarm sampling, arXiv 2509.08721).
    "study-group": answer, critique the answers, resolve which is correct; one step per stage."""
    role: Literal["none", "pirate", "knight", "mobster", "announcer", "founder", "random"] = "none"
    """Role that the node plays in "study-group". "random": a different one for each question."""
    rounds: NotNegative = 0
    """Total rounds of the node, over all runs. 0: until you stop it."""
    groups: Positive = 8
    """I: questions per round. Each gets one group of completions."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """G: completions per question."""
    refill: NotNegative = 0
    """Most further questions per round. If all rewards in a group are equal, the group teaches nothing, and a further
    question takes its place (dynamic sampling, arXiv 2503.14476). This machine answers them; they take time, but no
    money. 0: none. Only in "sampling"."""
    partial_credit: bool = False
    """Use the verifier's partial credit for near misses. Off: 1 for a correct answer, 0 for any other."""
