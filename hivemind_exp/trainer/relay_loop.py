"""The loop of a relay: an API generates, this node verifies and keeps. No model is loaded, nothing is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hivemind_exp.events import RolloutsEvent
from hivemind_exp.rollouts.types import Group, Kind
from hivemind_exp.trainer.metrics import summarise_rows
from hivemind_exp.trainer.round_loop import RoundLoop
from hivemind_exp.trainer.round_timer import RoundTimer


@dataclass(kw_only=True)
class RelayLoop(RoundLoop):
    """Plays rounds of ``sampling`` whose groups are verified, shared and kept."""

    publish: Callable[[int, Sequence[Group]], None] | None = None
    """Shares a round's groups with a swarm."""

    def run(self) -> None:
        """Go on after the last round whose completions were all verified.

        Raises ``StopRequested`` after a stop, and ``NodeError`` where the node must not go on.
        """
        self.progress.round = self.journal.verified_rounds()
        while not self._finished():
            self.stop.check()
            self._play_round()

    def _play_round(self) -> None:
        timer, stage_run = RoundTimer(), self._cursor.next()
        groups = self._complete(stage_run, timer)
        if self.publish is not None:
            with timer("share"):
                self.publish(stage_run.round, groups)
        summary = summarise_rows([pair for group in groups for pair in group.scored()])
        summary |= {"completion_length": None, "tokens": None, "lag": None}  # not known without tokenizer and weights
        self.emit(RolloutsEvent(round=stage_run.round, stage=stage_run.stage, source=Kind.RELAY, **summary))
        self._emit_round(stage_run.round, timer, None)
        self.progress.round += 1


def encode_as_bytes(text: str, _truncated: bool) -> tuple[int, ...]:
    """Stand in for a tokenizer, which a relay has not."""
    return tuple(text.encode()) or (0,)
