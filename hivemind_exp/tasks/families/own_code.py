"""Tasks whose questions and rewards come from the operator's own code.

The code defines two names:

* ``questions(seed)`` returns or yields questions, of which the first one is used. A question is a table with the text
  ``"question"``, usually the reference ``"answer"``, and any other JSON data. Equal seeds must give equal questions. If
  the seed makes no difference, the questions are a fixed set. ``questions`` can also be the path of a question file.
* ``score(answer, question)`` returns a number, or numbers by name that add up to the reward.

The code runs in the sandboxed workers only. Errors name its file and line.
"""

import contextlib
import hashlib
import inspect
import io
import json
import math
import os
import shlex
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from hivemind_exp.errors import NodeError, TaskError
from hivemind_exp.foreign_text import foreign
from hivemind_exp.processes.messages import encode
from hivemind_exp.processes.sandbox import Role
from hivemind_exp.tasks.base import (
    FULL_CREDIT,
    LARGEST_REWARD,
    LONGEST_REPLY,
    LONGEST_TERM,
    MOST_MESSAGES,
    MOST_TERMS,
    EnvironmentReply,
    Talk,
    Task,
    TaskSpec,
    Verdict,
)
from hivemind_exp.tasks.families import jsonl
from hivemind_exp.tasks.families.conversations import HeldConversations
from hivemind_exp.tasks.families.fixed_set import FEWEST
from hivemind_exp.tasks.families.question_files import reference_text
from hivemind_exp.tasks.seed_sequence import canonical

LOAD_SECONDS, QUESTION_SECONDS, SCORE_SECONDS = 40.0, 8.0, 1.5
"""CPU time allowed to load the code, and for one call. Below the workers' own limits, which cannot name a line."""
MOST_QUESTIONS = 100_000
"""The number of questions that a fixed set may have."""
_TRIED, _SCORED = 16, 4
"""Number of seeds and of reference answers that are tried before the first round."""
_SEEDS = 2**32
"""Seeds are below this number, because NumPy accepts no larger ones."""
_LONGEST_PRINTED = 2000


class UnsupportedTask(TaskError):
    """The code needs something that is missing here, so nothing can be learned from it."""


class _Beginning(io.TextIOBase):
    """Keeps the beginning of what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def write(self, text: str, /) -> int:
        self.text += text[: _LONGEST_PRINTED - len(self.text)]
        return len(text)


class OutOfTime(BaseException):
    """The operator's code used too much CPU time."""


class OwnCodeTask(Task):
    """Questions and rewards from a module of the operator."""

    def __init__(
        self,
        spec: TaskSpec,
        load: Callable[[], ModuleType],
        file: Path | None,
        version: str = "",
        *,
        may_converse: bool = False,
    ) -> None:
        """``file``: the module's file, if known before it is loaded. ``version``: the package's name and version.

        ``may_converse``: the module may have ``begin_conversation`` and ``most_turns`` instead of ``score``.
        """
        self._may_converse = may_converse
        self._spec = spec
        self._load = load
        self._file = file or Path()
        self.version = version
        self._questions: Any = None
        self._score: Any = None
        self._rows: list[dict[str, Any]] = []
        self._conversations: HeldConversations | None = None
        """None: a question has one answer."""

    def prepare(self, role: Role) -> None:
        output = _Beginning()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                self._prepare(role)
        finally:
            self.printed = output.text

    def make(self, seed: int) -> tuple[str, dict[str, Any]]:
        entry = self._rows[seed] if self._rows else self._ask(seed % _SEEDS)
        return str(entry["question"]), entry

    def score(self, answer: str, entry: Mapping[str, Any]) -> Verdict:
        """Return the reward. An answer that the code cannot score counts as wrong."""
        try:
            with self._guarded("score failed", SCORE_SECONDS):
                found = self._score(answer, dict(entry))
            return self._verdict(found)
        except TaskError as error:
            return Verdict(0.0, why=error.message.replace(str(self._file), self._file.name))

    def reply(self, talk: Talk, entry: Mapping[str, Any]) -> EnvironmentReply:
        """Return the environment's reply. A conversation in which its code fails is over, and counts as wrong."""
        assert self._conversations is not None
        try:
            with self._guarded("the environment failed", SCORE_SECONDS * len(talk.turns)):
                replied = self._conversations.reply(talk, dict(entry))
            self._check_reply(replied)
            return replied
        except UnsupportedTask:
            raise
        except TaskError as error:
            return EnvironmentReply(verdict=Verdict(0.0, why=error.message.replace(str(self._file), self._file.name)))

    def _check_reply(self, replied: EnvironmentReply) -> None:
        """Raise ``TaskError`` if a reply of the environment is too long, or its rewards are unsuitable."""
        if len(replied.messages) > MOST_MESSAGES:
            self._wrong(f"replied with {len(replied.messages):,} messages at once. At most {MOST_MESSAGES} are allowed")
        length = sum(len(message["content"]) for message in replied.messages)
        if length > LONGEST_REPLY:
            self._wrong(f"replied with {length:,} characters. At most {LONGEST_REPLY:,} are allowed")
        if replied.verdict is not None:
            self._weighed(replied.verdict)

    def _prepare(self, role: Role) -> None:
        with self._guarded("cannot load the task", LOAD_SECONDS):
            module = self._load()
        self._file = Path(getattr(module, "__file__", None) or self._file)
        self._score = getattr(module, "score", None)
        if self._may_converse and hasattr(module, "begin_conversation"):
            self._conversations, self.turns = HeldConversations(module.begin_conversation), module.most_turns
        elif not callable(self._score):
            self._wrong("defines no function score(answer, question)")
        if role == "verify":
            return
        self._questions = getattr(module, "questions", None)
        if isinstance(self._questions, str | Path):
            self._read(self._file.parent / self._questions)
        elif callable(self._questions):
            self._try_questions()
        else:
            self._wrong("defines no function questions(seed), nor the path of a question file with that name")
        for place in range(min(_SCORED, self.size or _SCORED) if self._conversations is None else 0):
            self._try_score(self.make(place)[1])

    def _read(self, path: Path) -> None:
        """Read the questions from a file or directory. In a directory, some files are held out."""
        if self._spec.params:
            self._wrong("reads its questions from a file, so it accepts no params")
        train, heldout = jsonl.read(replace(self._spec, path=str(path), params={}))
        self._use([row._asdict() for row in (*train, *heldout)], len(heldout))

    def _try_questions(self) -> None:
        """Call the function with a few seeds, to find out what it does before anything is trained."""
        try:
            inspect.signature(self._questions).bind(0, **self._spec.params)
        except TypeError as error:
            self._wrong(f"cannot be called as questions(seed) with these params: {error}", self._questions)
        tried = [self._ask(seed) for seed in range(_TRIED)]
        if self._ask(0) != tried[0]:
            self._wrong(
                "questions(seed) gives different questions for the same seed. Use random.Random(seed)", self._questions
            )
        if any(row != tried[0] for row in tried):
            return
        with self._guarded("cannot list the questions", LOAD_SECONDS):
            rows = list(islice(self._called(0), MOST_QUESTIONS + 1))
        if len(rows) > MOST_QUESTIONS:
            self._wrong("questions(seed) ignores its seed and never ends. Use random.Random(seed)", self._questions)
        if len(rows) < FEWEST:
            self._wrong(
                f"questions(seed) gives the same {len(rows)} questions for every seed; at least {FEWEST} are needed, "
                "because some are held out",
                self._questions,
            )
        self._use([self._checked(row) for row in rows], 0)

    def _use(self, rows: list[dict[str, Any]], heldout: int) -> None:
        self._rows, self.size, self.heldout_size = rows, len(rows) - heldout, heldout
        parts = (canonical(json.dumps(row, sort_keys=True)) for row in rows)
        self.sha256 = hashlib.sha256(b"".join(parts)).hexdigest()

    def _ask(self, seed: int) -> dict[str, Any]:
        with self._guarded("questions(seed) failed", QUESTION_SECONDS):
            row = next(self._called(seed), None)
        if row is None:
            self._wrong(f"questions({seed}) gives no question", self._questions)
        return self._checked(row)

    def _called(self, seed: int) -> Iterator[Any]:
        found = self._questions(seed, **self._spec.params)
        return iter([found] if isinstance(found, Mapping | str) else found or ())

    def _checked(self, row: Any) -> dict[str, Any]:
        """Return a question as plain JSON data, or refuse it."""
        if not isinstance(row, Mapping) or not isinstance(text := row.get("question"), str) or not text.strip():
            self._wrong(
                "a question must be a dict such as {'question': '1 + 1?', 'answer': 2}, not "
                f"{foreign(repr(row), 80)}",
                self._questions,
            )
        try:
            plain: dict[str, Any] = json.loads(json.dumps(row, allow_nan=False))
            encode(plain)
            json.dumps(plain, ensure_ascii=False).encode()
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            self._wrong(f"a question contains something that is not JSON data: {foreign(error)}", self._questions)
        return plain

    def _try_score(self, entry: dict[str, Any]) -> None:
        """Score the reference answer. If it isn't correct, no completion would be."""
        answer = entry.get("answer")
        answer = answer if isinstance(answer, str) else reference_text(answer)
        if answer is None:
            return
        with self._guarded(f"score fails on the reference answer {foreign(answer, 80)}", SCORE_SECONDS):
            found = self._score(answer, dict(entry))
        verdict = self._verdict(found)
        if verdict.credit < FULL_CREDIT:
            self._wrong(
                f"score returns {verdict.credit:g} instead of 1 for the reference answer {foreign(answer, 80)} to "
                f"{foreign(entry['question'], 80)}. Answers are text: compare with str(question['answer'])",
                self._score,
            )

    def _verdict(self, found: Any) -> Verdict:
        """Return what ``score`` returned, checked. Raises ``TaskError``."""
        if isinstance(found, Verdict):
            return self._weighed(found)
        table = found if isinstance(found, Mapping) else {"score": found}
        try:
            terms = {str(name): _number(value) for name, value in islice(table.items(), MOST_TERMS + 1)}
        except (TypeError, ValueError, OverflowError):
            terms = {}
        if not terms:
            self._wrong(
                f"score returned {foreign(repr(found), 80)}. It must return a number, or numbers by name", self._score
            )
        if len(terms) > MOST_TERMS or any(len(name) > LONGEST_TERM for name in terms):
            what = f"At most {MOST_TERMS} names are allowed, of at most {LONGEST_TERM} characters"
            self._wrong(f"score returned too many names, or too long ones. {what}", self._score)
        self._bounded(terms.values())
        credit = min(max(terms.get("correct", sum(terms.values())), 0.0), 1.0)
        plain = terms.keys() == {"score"} and terms["score"] == credit and credit in (0.0, 1.0)
        return Verdict(credit, () if plain else tuple(terms.items()))

    def _weighed(self, verdict: Verdict) -> Verdict:
        """Return an environment's verdict if its rewards are numbers that can be learned from. Raises ``TaskError``."""
        if len(verdict.terms) > MOST_TERMS:
            self._wrong(f"has {len(verdict.terms)} weighted reward functions. At most {MOST_TERMS} are allowed")
        self._bounded([value for _, value in verdict.terms])
        return verdict

    def _bounded(self, values: Collection[float]) -> None:
        """Raise ``TaskError`` if the parts of a reward, or their sum, are too large or no numbers."""
        if not all(abs(value) <= LARGEST_REWARD for value in (*values, sum(values))):  # also true for NaN
            shown = ", ".join(f"{value:g}" for value in values)
            most = f"A reward and its parts must be between -{LARGEST_REWARD:,.0f} and {LARGEST_REWARD:,.0f}"
            self._wrong(f"score returned {foreign(shown, 80)}. {most}", self._score)

    @contextlib.contextmanager
    def _guarded(self, what: str, seconds: float) -> Iterator[None]:
        """Run the operator's code. Raises ``TaskError`` with file and line if it fails or needs too long."""
        before = signal.signal(signal.SIGVTALRM, _out_of_time)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            yield
        except (NodeError, KeyboardInterrupt):
            raise
        except BaseException as error:
            why = f"{type(error).__name__}: {foreign(error)}" if str(error) else type(error).__name__
            if isinstance(error, OutOfTime):
                why = f"it needs more than {seconds:g} s of CPU time"
            raise self._error(f"{what}: {why}", self._line(error)) from error
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)

    def _line(self, error: BaseException) -> int | None:
        """Return the last line of the operator's file that led to an exception."""
        file = os.path.realpath(self._file)
        if isinstance(error, SyntaxError) and error.filename and os.path.realpath(error.filename) == file:
            return error.lineno
        line, place = None, error.__traceback__
        while place is not None:
            if os.path.realpath(place.tb_frame.f_code.co_filename) == file:
                line = place.tb_lineno
            place = place.tb_next
        return line

    def _wrong(self, what: str, function: Any = None) -> NoReturn:
        code = getattr(function, "__code__", None)
        raise self._error(what, code.co_firstlineno if code else None)

    def _error(self, what: str, line: int | None) -> TaskError:
        if not self._file.name:  # of a package that could not be imported
            return TaskError(f"{self._spec.label}: {what}", next="swarmctl tasks list")
        file = shlex.quote(str(self._file))
        shown = f"sed -n {max(1, line - 3)},{line + 3}p {file}" if line else f"cat {file}"
        return TaskError(f"{self._file}{f':{line}' if line else ''}: {what}", next=shown)


def try_out(spec: TaskSpec) -> None:
    """Load and try a task's code in workers. Raises ``NodeError`` if it is unsuitable."""
    from hivemind_exp.tasks.workers.pool import Pool

    with contextlib.closing(Pool([spec], verifiers=1)) as pool:
        pool.try_out()


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _out_of_time(_signal: int, _frame: object) -> NoReturn:
    raise OutOfTime
