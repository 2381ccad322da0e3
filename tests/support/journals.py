"""Nodes with rollouts for tests, written through the journal and the ledger without a trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from hivemind_exp.config import Config, LimitsConfig
from hivemind_exp.journal.journal import Journal
from hivemind_exp.node_files import NodeFiles
from hivemind_exp.offload.ledger import Ledger, RequestKey
from hivemind_exp.offload.prices import Usage
from hivemind_exp.rollouts.types import Completion, CompletionRequest, Group, Prompt, Rollout
from hivemind_exp.source_kinds import Kind
from hivemind_exp.tasks.base import Question, Score
from swarmctl.nodes.directory import identity
from swarmctl.nodes.lookup import files_of
from swarmctl.storage.json_file import write_json

SWARM = "5wa"
RIGHT, WRONG = Score(1.0, True, "equal to the answer"), Score(0.0, False, "no readable answer")
PARTLY = Score(0.5, True, "one digit is off")


def prompt(question: str, text: str = "Spell cat backwards.", stage: str = "answer") -> Prompt:
    made = Question("spelling", "train", 0, 0, text, {}, question, question)
    return Prompt(made, stage, ({"role": "system", "content": "Answer."}, {"role": "user", "content": text}), (1,))


def local(text: str, tokens: int = 3) -> Rollout:
    return Rollout(Kind.POLICY, "local", text, tuple(range(tokens)), truncated=False)


def sent(place: int, text: str, *, provider: str = "openai", model: str = "gpt-4o-mini-2024-07-18") -> Completion:
    return Completion(place, Kind.TEACHER, provider, model, text, truncated=False, version=0, usd=0.001)


def bare_node(name: str = "maths") -> NodeFiles:
    """Create a node that has played no round."""
    config = Config.model_validate({"node": {"name": name}, "model": {"name": "tiny"}})
    files = files_of(name)
    files.root.mkdir(parents=True)
    write_json(files.identity, identity(config))
    files.events.touch()
    return files


@dataclass(frozen=True, slots=True)
class Books:
    """Writes a node's rollouts and spending."""

    journal: Journal
    ledger: Ledger

    def _ask(self, round_: int, asked: Prompt) -> None:
        """Write a prompt after those of its stage."""
        if self.journal.prompt(round_, asked.question, asked.stage) is None:
            query = "SELECT COUNT(*) FROM prompts WHERE round=? AND stage=?"
            (first,) = self.journal._db.execute(query, (round_, asked.stage)).fetchone()
            self.journal.write_prompts(round_, [asked], first)

    def group(self, round_: int, asked: Prompt, rollouts: dict[int, Rollout], scores: dict[int, Score]) -> None:
        """Write rollouts of this machine and a group's scores."""
        self._ask(round_, asked)
        self.journal.write_rollouts(round_, 0, [Group(asked, tuple(rollouts.values()), places=tuple(rollouts))])
        self.score(round_, asked, scores)

    def score(self, round_: int, asked: Prompt, scores: dict[int, Score]) -> None:
        """Write scores. Only the slots matter here, not who filled them."""
        stand_ins = tuple(local("") for _ in scores)
        self.journal.write_scores(round_, [Group(asked, stand_ins, tuple(scores.values()), tuple(scores))])

    def api(self, round_: int, asked: Prompt, completions: list[Completion], lost: dict[int, str]) -> None:
        """Write the completions that an API sent, and the slots that it lost."""
        places = tuple(made.index for made in completions) + tuple(lost)
        order = CompletionRequest(round_, asked.stage, asked.question.digest, asked.messages, places, 0)
        self._ask(round_, asked)
        self.journal.write_completions(order, completions)
        for place, why in lost.items():
            self.journal.write_lost(order, [place], why)

    def bill(
        self, round_: int, asked: Prompt, usd: float | None, *, provider: str = "openai", model: str = "gpt-4o-mini"
    ) -> None:
        """Write a request. ``usd`` None: its cost is unknown; 0.01 USD are reserved."""
        ask = RequestKey(provider, model, round_, asked.stage, asked.question.digest, 1)
        reservation = self.ledger.reserve(ask, 0.01)
        if usd is None:
            self.ledger.keep(reservation, "no response within 120 s")
        else:
            self.ledger.settle(reservation, Usage(100, 10), usd)


@contextmanager
def books(files: NodeFiles) -> Iterator[Books]:
    """Open a node's journal and ledger as its trainer does."""
    with closing(Journal(files.journal, SWARM)) as journal:
        with closing(Ledger(files.ledger, LimitsConfig())) as ledger:
            yield Books(journal, ledger)


def mixed_node(name: str = "maths") -> NodeFiles:
    """Create a node with two rounds: this machine and an API fill groups together, and one slot is lost."""
    files = bare_node(name)
    with books(files) as written:
        first, second = prompt("aa11" + "0" * 60), prompt("bb22" + "0" * 60, "Spell dog backwards.")
        written.group(0, first, {0: local("<answer>tac</answer>"), 1: local("cat", 5)}, {0: RIGHT, 1: WRONG})
        written.bill(0, first, 0.002)
        written.api(0, first, [sent(2, "<answer>tac</answer>"), sent(3, "tca")], {})
        written.score(0, first, {2: RIGHT, 3: PARTLY})
        written.bill(1, second, 0.001)
        written.bill(1, second, None)
        written.api(1, second, [sent(0, "god")], {1: "nothing usable from openai:gpt-4o-mini in 4 requests"})
    return files


def contents(directory: Path) -> dict[str, bytes]:
    """Return every file's bytes, except the side files that SQLite creates for readers of a database."""
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }
