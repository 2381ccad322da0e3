"""Nodes with a history to report, written through the journal, the ledger and the event log without a trainer."""

from __future__ import annotations

import math
from contextlib import closing

from hivemind_exp import events
from hivemind_exp.event_log import EventLog
from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import Evaluation
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.tasks.base import RewardTerm, Score
from swarmctl.settings.command_line import resolved_options, write_last
from swarmctl.settings.options import RunOptions
from tests.support.journals import SWARM, bare_node, books, local, mixed_node, prompt, sent

SECRET = "sk-proj-" + "Zq9" * 12
"""Something that looks like a key."""
EVIL = (
    "</pre></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    f"\x1b[31mred\x1b[0m \u202egnp.exe\u200b {SECRET}"
)
LONG = "<b>" + "x y " * 262_144 + "the end</b>"
"""One line of 1 MB."""
TERMS = (RewardTerm("correct", 1.0, 1.0, "equal to the answer"), RewardTerm("format", 0.3, 0.3, "exactly as requested"))
ACCURACIES = ((0, 0.25), (10, 0.5), (20, 0.9))


def reported_node(name: str = "maths", *, rounds: int = 20, evil: bool = False) -> NodeFiles:
    """Create a node with evaluations, events, rewards with terms, an API's completions and their cost.

    ``evil``: some texts attack the page.
    """
    files = mixed_node(name)
    texts = (EVIL, LONG, "god") if evil else ("god", "dog", "<answer>god</answer>")
    with books(files) as written:
        asked = prompt("cc33" + "0" * 60, EVIL if evil else "Spell god backwards.")
        scores = {0: Score(1.0, True, "", TERMS), 1: Score(0.0, False, texts[0][:80])}
        written.group(2, asked, {0: local(texts[0]), 1: local(texts[1], 9)}, scores)
        written.api(2, asked, [sent(2, texts[2], model=EVIL if evil else "gpt-4o-mini-2024-07-18")], {})
        written.score(2, asked, {2: Score(0.5, True, "one digit is off")})
    with closing(Journal(files.journal, SWARM)) as journal:
        for round_, accuracy in ACCURACIES:
            journal.write_evaluation(Evaluation(round_, accuracy, 200, {"spelling": accuracy, "sums": accuracy / 2}))
    resolved = resolved_options(RunOptions(profile="demo", node=name, assignments=("train.learning_rate=0.002",)))
    write_last(files, resolved)
    write_events(files, rounds, warning=EVIL if evil else "this is slow")
    return files


def quiet_node(name: str = "new") -> NodeFiles:
    """Create a node that has not run."""
    return bare_node(name)


def write_events(files: NodeFiles, rounds: int, *, first: int = 0, warning: str = "this is slow") -> None:
    """Append the events of some rounds to a node's log."""
    with closing(EventLog(files.events)) as log:
        log(events.PhaseEvent(name="loading PyTorch"))
        about = {"model": "tiny", "device": "cpu", "dtype": "float32", "parameters": 232_032, "trainable": 232_032}
        log(
            events.StartEvent(
                node=files.root.name, tasks=["spelling"], seed=0, rounds=rounds, groups=2, group_size=4, **about
            )
        )
        log(events.WarningEvent(code="slow", message=warning))
        for round_ in range(first, first + rounds):
            for at, accuracy in ACCURACIES:
                if at == round_:
                    log(events.EvalEvent(round=at, accuracy=accuracy, questions=200))
            _write_round(log, round_)
        if first + rounds == ACCURACIES[-1][0]:
            log(events.EvalEvent(round=first + rounds, accuracy=ACCURACIES[-1][1], questions=200))
        log(events.StopEvent(reason="done", round=first + rounds, steps=first + rounds))


def _write_round(log: EventLog, round_: int) -> None:
    where = {"round": round_, "stage": "answer"}
    step = {"step": round_, **where, "loss": 0.1, "grad_norm": 1.0, "learning_rate": 2e-3, "tokens": 80, "rows": 12}
    own = 3 / (1 + round_ % 3)
    entropy = 2 * math.exp(-round_ / 10)
    log(events.StepEvent(**step, source="policy", source_grad_norm=own, entropy=entropy, replayed=False))
    log(events.StepEvent(**step, source="teacher", source_grad_norm=1.0, entropy=0.5, nll=1.5, replayed=False))
    share = min(8, 2 + round_ // 3)
    terms = {"correct": share / 8, "format": 0.3}
    log(
        events.RolloutsEvent(
            **where,
            source="policy",
            count=8,
            correct=share,
            reward=share / 8,
            points=share / 8 + 0.3,
            terms=terms,
            completion_length=9.5,
            truncated=1,
            tokens=76,
        )
    )
    theirs = {"count": 4, "correct": 3, "reward": 0.75, "completion_length": 20, "truncated": 0}
    log(events.RolloutsEvent(**where, **theirs, source="teacher"))
    seconds = {"generate": 2.0, "verify": 0.5, "train": 1.5, "share": 0.0, "other": 0.25}
    log(events.RoundEvent(round=round_, rounds=0, seconds=seconds, tokens_per_second=1000.0, groups=4, different=3))
