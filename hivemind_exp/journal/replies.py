"""What an API returned for requests that have one slot and a name of their own: a judge's grades, hints, scores."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from hivemind_exp.rollouts.types import TeacherScores


@dataclass(frozen=True, slots=True)
class ReceivedHint:
    """An API's hint as it was received."""

    provider: str
    model: str
    text: str
    refused: str | None
    """Why the node does not use it."""


@dataclass(frozen=True, slots=True)
class Replies:
    """The replies of one stage, by the name of the request. Read anew with each call."""

    _db: sqlite3.Connection
    _swarm: str
    _round: int
    _stage: str

    def texts(self) -> dict[str, str]:
        return dict(self._rows("question, text FROM completions"))

    def scores(self) -> dict[str, TeacherScores]:
        """Return a teacher's scores."""
        rows = self._rows("question, source, model, logps FROM completions")
        return {
            name: TeacherScores(f"{source}:{model}", tuple(json.loads(logps)))
            for name, source, model, logps in rows
            if logps != "null"
        }

    def hints(self) -> dict[str, ReceivedHint]:
        """Return hints, with the reason if the node has refused one."""
        key = "swarm, round, stage, question, idx"
        rows = self._rows(f"question, source, model, text, lost.why FROM completions LEFT JOIN lost USING ({key})")
        return {question: ReceivedHint(*hint) for question, *hint in rows}

    def given_up(self) -> dict[str, str]:
        """Return why requests were given up."""
        return dict(self._rows("question, why FROM lost"))

    def _rows(self, what: str) -> list[Any]:
        query = f"SELECT {what} WHERE swarm=? AND round=? AND stage=? AND idx=0"
        return self._db.execute(query, (self._swarm, self._round, self._stage)).fetchall()
