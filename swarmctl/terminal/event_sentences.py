"""Turn a run's events into one sentence each, for the plain view and ``swarmctl logs``."""

from typing import Any

from swarmctl.terminal import sentences
from swarmctl.terminal.progress import RunView
from swarmctl.terminal.round_line import round_done

PEERS_EVERY_S = 60
"""How often the number of peers is reported. Changes from or to zero are reported immediately."""
PHASE_EVERY_S = 10
"""How often the progress of a long phase is reported."""


class EventSentences:
    """Reports rounds, evaluations, phases and warnings. Keeps what a sentence needs from earlier events."""

    def __init__(self, *, verbose: bool = False, speed: bool = True) -> None:
        self._verbose, self._speed = verbose, speed
        self._rollouts: list[dict[str, Any]] = []
        self._told: dict[str, tuple[object, float]] = {}

    def sentence(self, event: dict[str, Any], progress: RunView) -> str | None:
        """Return the sentence for an event that ``progress`` already includes; None if there is nothing to report."""
        match event["event"]:
            case "phase":
                # A view says what a long round does in its own line, if nothing else is printed for a while.
                due = event.get("round") is None and self._is_due("phase", event.get("name"), PHASE_EVERY_S, event["t"])
                return sentences.phase(event) if due else None
            case "rollouts":
                self._rollouts.append(event)
            case "round":
                rollouts, self._rollouts = self._rollouts, []
                return round_done(rollouts, progress, speed=self._speed)
            case "eval" if event.get("accuracy") is not None:
                return sentences.evaluation(event, progress)
            case "peers":
                peers = event.get("peers") or 0
                text = sentences.in_touch(peers)
                due = self._is_due("peers", peers > 0, PEERS_EVERY_S, event["t"])
                return f"{text[:1].upper()}{text[1:]}." if due else None
            case "checkpoint" if self._verbose:
                return f"Saved a checkpoint after round {event.get('round')}."
        return sentences.notable(event)

    def _is_due(self, what: str, state: object, every_s: float, moment: float) -> bool:
        """Whether to report a state, because it has changed or was last reported long ago."""
        before, told = self._told.get(what, (None, 0.0))
        if state == before and moment - told < every_s:
            return False
        self._told[what] = state, moment
        return True
