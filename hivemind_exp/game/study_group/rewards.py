"""The reward of each stage's completions, term by term. Pure functions of texts and of outcomes verified here.

Only the node's own rows are compared by the sum of the terms. All other text counts by its outcome alone. Each term is
in [0, maximum], and the maxima of a stage add up to the reward of its best completion.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from hivemind_exp.game.prompt_style import FORMATS, Form
from hivemind_exp.game.study_group.prompts import ANSWER, CRITIQUE, NOBODY, RESOLVE, TAGS
from hivemind_exp.tasks.base import FULL_CREDIT, Question, RewardTerm, Score
from hivemind_exp.tasks.verifiers.answer_tags import content, in_order, is_exactly
from hivemind_exp.tasks.verifiers.reader import read, reference_of

RIGHT = 2.0
"""Maximum reward for a correct answer, for a correct choice, and for each of the last stage's two terms about the
majority."""
EXISTS = 2.0
"""Reward for a choice that exists: one of the students shown, or none of them."""
RESTATED = 1.0
FORMAT = 0.5
"""Reward for the strict format, for the soft format, and for an integer where one is expected."""
A_TAG = 0.125
A_TRAILING_CHARACTER = 0.001
_LONGEST_CHOICE = 32
_CHOICE = re.compile(r"(?:student)?\s*#?\s*([0-9]{1,6})\.?", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?[0-9]{1,3}(?:,?[0-9]{3})*|[+-]?[0-9]+")
_LONGEST_INTEGER = 64

Choice = int | str | None
"""A student's number, ``NOBODY``, or None for anything else."""


def score_answer(question: Question, text: str, verified: Score, form: Form = "tags") -> Score:
    """Return the score of a first-stage completion. ``verified`` is the task verifier's score.

    ``form``: the format that the node asks for. Only one with reasoning in tags has terms for single tags.
    """
    reading = read(text, reference_of(question.entry))
    terms = [RewardTerm("correct", RIGHT * verified.outcome, RIGHT, verified.why)]
    terms += [term for term in verified.terms if term.name != "correct"]
    if _is_integer(str(question.entry.get("answer"))):
        good = reading is not None and _is_integer(reading.answer)
        terms.append(RewardTerm("integer", FORMAT * good, FORMAT, "an integer" if good else "not an integer"))
    if form == "tags":
        terms += format_terms(TAGS[ANSWER], text)
    else:
        strict = verified.strict and (reading is not None and reading.format == FORMATS[form])
        terms.append(RewardTerm("strict format", FORMAT * strict, FORMAT, "correct" if strict else "incorrect"))
    return Score(verified.outcome, verified.strict, verified.why, tuple(terms))


def score_critique(text: str, students: Mapping[int, float]) -> Score:
    """Return the score of a critique. ``students``: the outcomes of the answers shown in its prompt, by number."""
    choice = choice_in(text, "identify")
    named, why_named = _named(choice, students)
    outcome, why = _judged(choice, students)
    terms = (
        RewardTerm("names a student", EXISTS * named, EXISTS, why_named),
        RewardTerm("right choice", RIGHT * outcome, RIGHT, why),
        *format_terms(TAGS[CRITIQUE], text),
    )
    return Score(outcome, is_exactly(text, TAGS[CRITIQUE]), why, terms)


def score_resolve(
    question: Question, text: str, verified: Score, students: Mapping[int, float], majority: Collection[Choice]
) -> Score:
    """Return the score of a last-stage completion. ``verified`` is the task verifier's score of its final answer.

    ``majority``: what most critics chose; several choices in a tie. Without critics there is no term for agreeing with
    them.
    """
    choice = choice_in(text, "majority")
    outcome, why = _judged(choice, students)
    terms = []
    if majority:
        agrees = choice is not None and choice in majority
        most = " or ".join(sorted(map(_words, majority)))
        terms.append(RewardTerm("agrees", RIGHT * agrees, RIGHT, f"most critics chose {most}"))
    alike = similarity(content(text, "question") or "", question.text)
    terms += [
        RewardTerm("right majority", RIGHT * outcome, RIGHT, why),
        RewardTerm("question", RESTATED * alike, RESTATED, f"{100 * alike:.0f} % of word pairs match"),
        RewardTerm("correct", RIGHT * verified.outcome, RIGHT, verified.why),
    ]
    strict = is_exactly(text, TAGS[RESOLVE])
    return Score(verified.outcome, strict, verified.why, (*terms, *format_terms(TAGS[RESOLVE], text)))


def choice_in(text: str, tag: str) -> Choice:
    """Return the choice that a completion names between these tags. The tags must contain nothing else."""
    held = content(text, tag)
    if held is None or len(held) > _LONGEST_CHOICE:
        return None
    if held.rstrip(".").casefold() == NOBODY:
        return NOBODY
    found = _CHOICE.fullmatch(held)
    return int(found[1]) if found else None


def exists(choice: Choice, students: Collection[int]) -> bool:
    """Return whether a choice is ``NOBODY`` or the number of a student shown."""
    return choice == NOBODY or choice in students


def majority_of(choices: Sequence[Choice], students: Collection[int]) -> tuple[Choice, ...]:
    """Return the most frequent choice; all of them in a tie. Ignores choices for which ``exists`` is false."""
    votes = Counter(choice for choice in choices if exists(choice, students))
    most = max(votes.values(), default=0)
    return tuple(sorted((choice for choice, count in votes.items() if count == most), key=str))


def similarity(one: str, other: str) -> float:
    """Return the similarity of two texts, in [0, 1]: the share of common pairs of neighboring words (Dice).

    Takes time linear in the lengths of the texts, whatever they contain.
    """
    pairs, others = _pairs(one), _pairs(other)
    total = pairs.total() + others.total()
    return 2 * (pairs & others).total() / total if total else 0.0


def _pairs(text: str) -> Counter[tuple[str, str]]:
    words = text.casefold().split()
    return Counter(zip(["", *words], [*words, ""], strict=True)) if words else Counter()


def _named(choice: Choice, students: Mapping[int, float]) -> tuple[bool, str]:
    if exists(choice, students):
        return True, f"names {_words(choice)}"
    return False, "names no student" if choice is None else f"{_words(choice)} was not shown"


def _judged(choice: Choice, students: Mapping[int, float]) -> tuple[float, str]:
    """Return the outcome of a choice, and the reason in words."""
    if choice == NOBODY:
        right = sum(outcome >= FULL_CREDIT for outcome in students.values())
        return (0.0, f"{right} of {len(students)} are correct") if right else (1.0, "none is correct")
    if not isinstance(choice, int) or choice not in students:
        return 0.0, _named(choice, students)[1]
    outcome = students[choice]
    word = "correct" if outcome >= FULL_CREDIT else "partly correct" if outcome > 0 else "wrong"
    return outcome, f"{_words(choice)} is {word}"


def _words(choice: Choice) -> str:
    return "None" if choice == NOBODY else f"student {choice}"


def format_terms(names: Sequence[str], text: str) -> tuple[RewardTerm, RewardTerm, RewardTerm]:
    """Return the terms for a completion's format. ``names``: the tags that it must consist of, in order."""
    strict, soft = is_exactly(text, names), in_order(text, names)
    once = sum(text.count(tag) == 1 for name in names for tag in (f"<{name}>", f"</{name}>"))
    _, closed, after = text.rpartition(f"</{names[-1]}>")
    trailing = len(after.strip()) if closed else 0
    value = max(0.0, A_TAG * once - A_TRAILING_CHARACTER * trailing)
    why = f"{once} of {2 * len(names)} tags used once" + (f", {trailing} trailing characters" if trailing else "")
    return (
        RewardTerm("strict format", FORMAT * strict, FORMAT, "correct" if strict else "incorrect"),
        RewardTerm("soft format", FORMAT * soft, FORMAT, "all tags in order" if soft else "not all tags in order"),
        RewardTerm("tags", value, A_TAG * 2 * len(names), why),
    )


def _is_integer(text: str) -> bool:
    return len(text) <= _LONGEST_INTEGER and _INTEGER.fullmatch(text.strip()) is not None
