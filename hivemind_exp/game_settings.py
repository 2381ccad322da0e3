"""The settings of the game: the table ``[game]`` of a profile."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from hivemind_exp.settings_table import NotNegative, Positive, Section

StageName = Literal["answer", "critique", "resolve"]
"""A stage that an API may complete. ``sampling`` has only the first."""
STAGE_NAMES: tuple[str, ...] = get_args(StageName)


class GameConfig(Section):
    """The game: what happens in a round."""

    kind: Literal["sampling", "study-group"] = "sampling"
    """"sampling": one stage, I local groups and J groups from peers (swarm sampling, arXiv 2509.08721).
    "study-group": several stages on the same questions, such as answer and critique, with one step per stage."""
    role: Literal["none", "pirate", "knight", "mobster", "announcer", "founder", "random"] = "none"
    """Role that the node plays in "study-group". "random": a different one for each question."""
    rounds: NotNegative = 0
    """Total rounds of the node, over all runs. 0: until you stop it."""
    groups: Positive = 8
    """I: questions per round. Each gets one group of completions."""
    group_size: Annotated[int, Field(ge=2)] = 8
    """G: completions per question."""
    refill: NotNegative = 0
    """How many extra questions a round may ask. If all rewards in a group are equal, the group teaches nothing, and an
    extra question takes its place (dynamic sampling, arXiv 2503.14476). This machine answers them; they take time, but
    no money (a judge's grades for them do cost money). 0: none. Only in "sampling"."""
    rest: NotNegative = 2
    """For how many passes over a fixed set (jsonl, gsm8k) a question is skipped, if all or none of the node's
    completions were correct the last two times. 0: none is skipped. Has no effect in a swarm."""
    curriculum: bool = False
    """Start with easier questions than the tasks' parameters ask for: where a new node answers some correctly. A task
    gets harder, up to those parameters, when more than 90 % of its completions are correct, and easier when fewer than
    10 % are. Only reasoning-gym's generators have such levels. Of several tasks, those are asked more often whose
    groups have both correct and wrong completions. In a swarm, only if its charter allows it."""
    format_reward: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Reward for a completion in exactly the requested format, in addition to the outcome, until the node follows the
    format. Only the node's own training uses it. 0: none. Only in "sampling"."""
    partial_credit: bool = False
    """Use the verifier's partial credit for near misses. Off: 1 for a correct answer, 0 for any other."""

    @property
    def steps_a_round(self) -> int:
        """Training steps in a round: one for each stage."""
        return len(STAGE_NAMES) if self.kind == "study-group" else 1

    @property
    def only_sampling(self) -> list[str]:
        """The names of the settings in use that have no effect in "study-group"."""
        return [name for name in ("refill", "format_reward") if getattr(self, name)]

    @property
    def only_training(self) -> list[str]:
        """The names of the settings in use that have no effect in a relay."""
        return [name for name in ("refill", "curriculum", "format_reward") if getattr(self, name)]
