"""Peers' groups in the node's journal: written before anybody learns from them, so that a killed node takes the same.

They stand among the other completions, for whoever reads those, at places that no group of the node's own has.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from hivemind_exp.journal.journal import Journal
from hivemind_exp.journal.records import peer_completion_index
from hivemind_exp.peers.vetting import MOST_USED, Used
from hivemind_exp.rollouts.types import Group, Kind, Message, Prompt, Rollout
from hivemind_exp.tasks.base import Question, Score

_SCHEMA = """
CREATE TABLE IF NOT EXISTS drawn (
    swarm TEXT, round INTEGER, stage TEXT, position INTEGER, floor REAL,
    peer TEXT, peer_round INTEGER, place INTEGER, question TEXT,
    PRIMARY KEY (swarm, round, stage, position)
) WITHOUT ROWID;
"""
_NONE = -1
"""Position of the row which says that a draw was made, also where it brought nothing."""


class PeerDrawLog(Journal):
    """What was drawn from peers for each round and stage. Opens the journal's file for itself."""

    def __init__(self, path: Path, swarm: str) -> None:
        super().__init__(path, swarm, durable=False)
        self._db.executescript(_SCHEMA)

    def write(self, round_: int, stage: str, groups: Sequence[Group], floor: float | None) -> None:
        """Record a draw with its rewards and the manifest's floor, all of it or nothing."""
        where, now = (self._swarm, round_, stage), time.time()
        numbered = [(peer_completion_index(number), group) for number, group in enumerate(groups)]
        self._write_all(
            (
                "INSERT INTO drawn VALUES (?,?,?,?,?,?,?,?,?)",
                [
                    (*where, _NONE, floor, None, None, None, None),
                    *(
                        (*where, n, None, group.rollouts[0].source, asked.round, asked.index, asked.digest)
                        for n, group, asked in ((n, group, group.prompt.question) for n, group in enumerate(groups))
                    ),
                ],
            ),
            (
                "INSERT INTO prompts VALUES (?,?,?,?,?,?,?)",
                [
                    (*where, first, prompt.question.task, prompt.question.digest, json.dumps(prompt.messages))
                    for first, prompt in ((first, group.prompt) for first, group in numbered)
                ],
            ),
            (
                "INSERT INTO completions (swarm, round, stage, question, idx, kind, source, model, version, text, ids, "
                "truncated, logps, outcome, strict, why, usd, t) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                [
                    (
                        *(*where, group.prompt.question.digest, first + place),
                        *(rollout.kind, rollout.source, rollout.model, None, rollout.text, json.dumps(rollout.ids)),
                        *(rollout.truncated, json.dumps(rollout.behaviour_logps)),
                        *(score.outcome, score.strict, score.why, 0.0, now),
                    )
                    for first, group in numbered
                    for place, (rollout, score) in enumerate(zip(group.rollouts, group.scores, strict=True))
                ],
            ),
        )

    def read(self, round_: int, stage: str) -> tuple[list[Group], float | None] | None:
        """Return what was drawn, with prompts that lack their token ids, and the floor; None before a draw."""
        where = (self._swarm, round_, stage)
        rows = self._db.execute(
            "SELECT floor, position, question, peer_round, place FROM drawn "
            "WHERE swarm=? AND round=? AND stage=? ORDER BY position",
            where,
        ).fetchall()
        if not rows:
            return None
        (floor, *_), *drawn = rows
        return [self._read_group(where, *row[1:]) for row in drawn], floor

    def used(self) -> list[Used]:
        """Return what was drawn so far, the latest last."""
        rows = self._db.execute(
            "SELECT peer, peer_round, question FROM drawn WHERE swarm=? AND position<>? ORDER BY round DESC LIMIT ?",
            (self._swarm, _NONE, MOST_USED),
        )
        return [(peer, round_, question) for peer, round_, question in rows][::-1]

    def _read_group(
        self, where: tuple[str, int, str], number: int, question: str, peer_round: int, place: int
    ) -> Group:
        first = peer_completion_index(number)
        task, text = self._db.execute(
            "SELECT task, messages FROM prompts WHERE swarm=? AND round=? AND stage=? AND position=?", (*where, first)
        ).fetchone()
        chat: tuple[Message, ...] = tuple(json.loads(text))
        rows = self._db.execute(
            "SELECT source, model, text, ids, truncated, logps, outcome, strict, why FROM completions "
            "WHERE swarm=? AND round=? AND stage=? AND question=? AND idx>=? AND idx<? ORDER BY idx",
            (*where, question, first, peer_completion_index(number + 1)),
        ).fetchall()
        asked = Question(task, "train", peer_round, place, chat[-1]["content"], {}, question, "")
        rollouts = tuple(
            Rollout(
                kind=Kind.PEER,
                source=source,
                text=said,
                ids=tuple(json.loads(ids)),
                truncated=bool(cut),
                lag=None,
                model=model,
                behaviour_logps=None if logps == "null" else tuple(json.loads(logps)),
            )
            for source, model, said, ids, cut, logps, *_ in rows
        )
        scores = tuple(Score(outcome, bool(strict), why) for *_, outcome, strict, why in rows)
        return Group(Prompt(asked, where[2], chat, ()), rollouts, scores=scores)
