"""The loop of a relay: an API generates, this node verifies and keeps. No model is loaded, nothing is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hivemind_exp.config import Config
from hivemind_exp.events import Emit
from hivemind_exp.game.base import SequentialSchedule
from hivemind_exp.game.sampling.game import SamplingGame
from hivemind_exp.journal.journal import Journal
from hivemind_exp.rollouts.types import Group, Kind
from hivemind_exp.sources.source import Source
from hivemind_exp.stop import StopFlag
from hivemind_exp.tasks.base import Tasks
from hivemind_exp.trainer.metrics import summarise_rows
from hivemind_exp.trainer.progress import NodeProgress
from hivemind_exp.trainer.round_loop import RoundLoop
from hivemind_exp.trainer.round_timer import RoundTimer


class RelayLoop(RoundLoop):
    """Plays rounds of ``sampling`` whose groups are verified, shared and kept."""

    def __init__(
        self,
        config: Config,
        *,
        sources: Mapping[str, Source],
        tasks: Tasks,
        journal: Journal,
        emit: Emit,
        stop: StopFlag,
        progress: NodeProgress,
        publish: Callable[[int, Sequence[Group]], None] | None = None,
    ) -> None:
        """Put the parts together. ``publish`` shares a round's groups with a swarm."""
        game = SamplingGame(None, tasks)
        super().__init__(
            config,
            sources=sources,
            encode=_as_bytes,
            tasks=tasks,
            game=game,
            schedule=SequentialSchedule(game.stages),
            journal=journal,
            emit=emit,
            stop=stop,
            progress=progress,
        )
        self._publish = publish

    def run(self) -> None:
        """Go on after the last round whose completions were all verified.

        Raises ``StopRequested`` after a stop, and ``NodeError`` where the node must not go on.
        """
        self.progress.round = self._journal.verified_rounds()
        while not self._finished():
            self._stop.check()
            self._play_round()

    def _play_round(self) -> None:
        timer, stage_run = RoundTimer(), self._cursor.next()
        groups = self._complete(stage_run, timer)
        if self._publish is not None:
            with timer("share"):
                self._publish(stage_run.round, groups)
        summary = summarise_rows([pair for group in groups for pair in group.scored()])
        summary |= {"completion_length": None, "tokens": None, "lag": None}  # not known without tokenizer and weights
        self._emit("rollouts", round=stage_run.round, stage=stage_run.stage, source=Kind.RELAY, **summary)
        self._emit_round(stage_run.round, timer, None)
        self.progress.round += 1


def _as_bytes(text: str, _truncated: bool) -> tuple[int, ...]:
    """Stand in for a tokenizer, which a relay has not."""
    return tuple(text.encode()) or (0,)
