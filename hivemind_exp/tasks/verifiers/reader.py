"""Read the final answer of a completion in whatever format it was written: tags, ``\\boxed{}`` or a plain last line.

A format is never part of a task, so a correct answer counts in all of them. Outside marks, an answer is only read if
it is unambiguous: the one number after "=" or "the answer is", or at the beginning of the last sentence. "41 or 42",
"not 42" and "add 42" have none. Takes time linear in the completion's length, whatever it contains.

The reference answer decides what is looked for (a number, a line, or several lines). It never decides which of several
candidates is taken.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

from hivemind_exp.tasks.verifiers.answer_tags import TAGS, answer_in, content, is_strict

LONGEST_LINE = 600
"""Characters at the end of a line in which a number is looked for."""

LONGEST_LEAD = 60
"""Characters around an answer that count as words such as "The answer is", not as reasoning."""

_DIGITS = r"(?:\d{1,3}(?:,\d{3}){1,20}|\d{1,60})(?:\.\d{1,60})?"
_REFERENCE = re.compile(rf"[-+−]?{_DIGITS}")
_NUMBER = re.compile(rf"(?<![\w.,])[-+−]?{_DIGITS}(?![\w!]|[.,]\d)")
_OPENERS, _CLOSERS = "*_`$\\([{ \t=:\"'“", "*_`$\\)]} \t.,;\"'”"
"""Decoration before and after an answer."""
_DOUBTS = re.compile(
    r"\b(?:not|no|never|or|either|neither|than|least|most|between|if|unless|wrong|incorrect|unlikely)\b"
    r"|n['’]t\b|[≠?<>≤≥~]|!=|\d:\d",
    re.IGNORECASE,
)
"""What makes the only number of a sentence something else than its answer."""
_LEAD = re.compile(
    r"(?:\b(?:final|correct|right|my)\s)?\banswer(?:\s(?:is|equals|would\sbe))?\s?[:=]?\s?(?=\S)", re.IGNORECASE
)
_CUE = re.compile(
    r"=|≈|→|:|\b(?:is|are|equals|equal\sto|makes|gives|totals|get|got)\b|\b(?:it|that)['’]s\b", re.IGNORECASE
)
_HEADING = re.compile(r"\s*#+(?:(?<=##)\s*|\s+)")
_RECORD = re.compile(r"\{\s?[\"']")
"""The start of a Python or JSON table, whose last number may be anything."""
_SENTENCE = re.compile(r"[.!?;]\s")
_WORDING = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")
_AFTER = re.compile(
    r"\s*(?:[-−–+*/×÷^]|(?:squared|cubed|hundred|thousand|million|billion|trillion|dozen|percent|pi|times|over|x)\b|π)",
    re.IGNORECASE,
)
"""What follows a number that is only a part of the answer."""
_OPENING = re.compile(r"^\s*(?:so|thus|hence|therefore|then|and|sure|ok|okay)\b[,!:]?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a completion says."""

    answer: str
    format: Literal["tags", "boxed", "plain"]
    thought: str = ""
    """The text before the answer, without tags."""
    whole: bool = True
    """Whether the completion has nothing but thought and answer (besides words such as "The answer is")."""
    strict: bool = False
    """Whether the completion has exactly the format's shape."""


def is_number(text: str) -> bool:
    """Return whether ``text`` is a number in digits."""
    return _REFERENCE.fullmatch(text.strip()) is not None


def reference_of(entry: Mapping[str, Any]) -> str | None:
    """Return the reference answer in a verifier's entry, or None if there is none."""
    answer = entry.get("answer")
    return None if answer is None else str(answer).strip() or None


def is_marked(completion: str) -> bool:
    """Return whether the answer has marks around it, so that it is complete even if the completion is cut."""
    return answer_in(completion) is not None or _boxed(completion) is not None


def answer_span(completion: str) -> tuple[int, int]:
    """Return where the answer begins and ends, with the marks around it. (0, 0) if there is none.

    Without marks, it is the last word: what else its line says is not verified.
    """
    close = completion.rfind("</answer>")
    start = completion.rfind("<answer>", 0, max(close, 0))
    if start >= 0:
        return start, completion.index("</answer>", start) + len("</answer>")
    found = _boxed(completion)
    if found is not None:
        return found[0] - len(_BOX), found[1] + 1
    end = len(completion.rstrip())
    return 1 + max(completion.rfind(mark, 0, end) for mark in " \t\n=:"), end


def read(completion: str, reference: str | None) -> Reading | None:
    """Return the final answer: the last ``<answer>`` pair, else the last ``\\boxed{}``, else the last line.

    ``reference``: the correct answer, of which only the kind matters. None if there is no unambiguous answer.
    """
    tagged = answer_in(completion)
    if tagged is not None:
        strict = is_strict(completion)
        thought = content(completion, "think")
        if thought is None:
            thought = _untagged(completion[: completion.rfind("<answer>")])
        return Reading(_inside(tagged, reference), "tags", thought, strict, strict)
    before, closed, body = completion.rpartition("</think>")
    thought = _untagged(before) if closed else ""
    if "<think>" in body:
        return None  # it was still thinking
    found = _boxed(body)
    if found is not None:
        start, end = found
        held = body[start:end].strip()
        more = _untagged(body[: start - len(_BOX)])
        whole = not body[end + 1 :].strip(_CLOSERS + "\n")
        thought = _joined(thought, more)
        strict = whole and bool(held) and body.count(_BOX) == 1 and not any(tag in completion for tag in TAGS)
        return Reading(_inside(held, reference), "boxed", thought, whole, strict) if held else None
    return _plain(completion, _untagged(body), reference, thought)


_BOX = "\\boxed{"


def _boxed(text: str) -> tuple[int, int] | None:
    """Return where the content of the last ``\\boxed{}`` starts and ends; None if its braces are not balanced."""
    opening = text.rfind(_BOX)
    if opening < 0:
        return None
    depth = 1
    for brace in re.finditer(r"\\.|[{}]", text[opening + len(_BOX) :], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return opening + len(_BOX), opening + len(_BOX) + brace.start()
    return None


def _untagged(text: str) -> str:
    """Return text without an answer's tags: some are left open."""
    for tag in TAGS:
        text = text.replace(tag, "\n")
    return text.strip()


def _inside(held: str, reference: str | None) -> str:
    """Return the answer between marks, without decoration that the reference does not have."""
    opening = held.startswith(_BOX) and _boxed(held)
    if opening and opening[1] == len(held) - 1:
        held = held[opening[0] : opening[1]].strip()
    if reference is None:
        return held
    worded = _WORDING.fullmatch(held)
    if worded and not reference.startswith("\\"):
        held = worded[1].strip()
    if is_number(reference):
        found = _number(held, alone=True)
        return held if found is None else _as(found, reference)
    return held if "\n" in held else _line(held, reference)


def _plain(completion: str, body: str, reference: str | None, thought: str) -> Reading | None:
    lines = [line.rstrip() for line in body.splitlines() if line.strip() and not _is_fence(line)]
    if not lines:
        return None
    wanted = 1 if reference is None else max(1, sum(bool(line.strip()) for line in reference.splitlines()))
    last = "\n".join(lines[-wanted:]).strip()
    before = "\n".join(lines[:-wanted])
    written: str | None = last
    if reference is not None and is_number(reference):
        written = _number(last)
    elif wanted == 1 and reference is not None:
        written = _line(last, reference, equation=True)
    if not written:
        return None
    answer = _as(written, reference) if reference is not None and is_number(reference) else written
    said = "\n".join([before, last]) if _argues(last, written) else before
    thought = _joined(thought, said.strip())
    return Reading(answer, "plain", thought, True, completion.strip() == answer)


def _is_fence(line: str) -> bool:
    """Return whether a line only opens or closes a block of code or a formula."""
    return line.strip() in ("\\[", "\\]", "$$") or line.lstrip().startswith("```")


def _argues(line: str, answer: str) -> bool:
    """Return whether a line is more than the answer and a few words around it."""
    rest = line.replace(answer, "", 1)
    return len(rest) > LONGEST_LEAD or any(letter.isdigit() for letter in rest)


def _joined(one: str, other: str) -> str:
    return f"{one}\n\n{other}" if one and other else one or other


def _number(line: str, *, alone: bool = False) -> str | None:
    """Return the number that a line gives as its answer, or None. ``alone``: not as one word of a sentence."""
    if len(line) > LONGEST_LINE:
        line = line[-LONGEST_LINE:].partition(" ")[2]
    heading = _HEADING.match(line)
    line = line[heading.end() :] if heading else line
    bare = line.lstrip(_OPENERS).rstrip(_CLOSERS)
    if _NUMBER.fullmatch(bare):
        return bare
    if _RECORD.search(line):
        return None
    line = line.rstrip(_CLOSERS)
    sentence = line[max((found.end() for found in _SENTENCE.finditer(line)), default=0) :]
    if _DOUBTS.search(sentence):
        return None
    named = max((found.end() for found in _LEAD.finditer(sentence)), default=0)
    cues = [found.span() for found in _CUE.finditer(sentence)]
    start, end = max([*cues, (named, named)], key=itemgetter(1))
    after = sentence[end:]
    if not end or not _NUMBER.search(after):
        start, after = 0, _OPENING.sub("", sentence, count=1)  # "7 is the answer"
    after = after.lstrip(_OPENERS)
    number = _NUMBER.match(after)
    if number is None or (start and is_number(sentence[:start])):  # "5 = 7"
        return None
    rest = after[number.end() :]
    part = (alone and rest) or _AFTER.match(rest) or _NUMBER.search(rest)
    return None if part else number[0]


def _as(number: str, reference: str) -> str:
    """Return a number with separators and signs as the reference has them."""
    number = number.replace("−", "-")
    if "," not in reference:
        number = number.replace(",", "")
    return number if reference.startswith("+") else number.removeprefix("+")


def _line(line: str, reference: str, *, equation: bool = False) -> str:
    """Return a line without decoration and lead-in that the reference does not have.

    ``equation``: take the right side, unless the reference is an equation itself.
    """
    line = line.strip()
    lead = _LEAD.search(line[:80])
    if lead is not None and _LEAD.search(reference) is None:
        line = line[lead.end() :]
    if equation and "=" not in reference:
        line = line.rpartition("=")[2]
    for mark in ("####", "**", "__", "`", "$", '"', "“", "”"):
        if mark not in reference:
            line = line.strip().removeprefix(mark).removesuffix(mark)
    if line.endswith(".") and not reference.endswith("."):
        line = line[:-1]
        for mark in ("**", "__", "`", "$", '"', "”"):
            if mark not in reference:
                line = line.strip().removesuffix(mark)
    return line.strip()
