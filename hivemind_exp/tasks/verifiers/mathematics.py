"""Verifier that compares answers mathematically, with math-verify, within limits.

Identical texts are equal. Numbers and units are compared exactly (``quantities``) and never reach math-verify. Its own
time limit is off, because it measures wall-clock time. The worker's CPU time limit applies instead.
"""

import logging
import re
import unicodedata

from hivemind_exp.tasks.verifiers.lists import nesting
from hivemind_exp.tasks.verifiers.numbers import DIGITS
from hivemind_exp.tasks.verifiers.quantities import exact_number, split_units

LONGEST = 400
"""Maximum length of an expression, in characters."""
DEEPEST = 12
"""Maximum nesting depth of brackets."""
MOST_POWERS = 8
_RELATIVE = 1e-9
"""Two numbers closer than this, relative to their size, are equal. math-verify compares absolute differences only."""

_TOO_MANY_DIGITS = re.compile(rf"\d{{{DIGITS + 1}}}")
_POWER = re.compile(r"\^|\*\*")
_EXPONENT = r"(?:\\pi|\\[dt]?frac\{\d\}\{\d\}|\d{1,2}(?!\s?\d)|[a-zA-Z+/-]|\s)"
_SMALL_POWER = re.compile(
    rf"(?:\^|\*\*)\s?(?:\d|[a-zA-Z]|\{{{_EXPONENT}{{1,8}}\}}|\({_EXPONENT}{{1,8}}\)|\\circ)(?!\d|\s?\^|\s?\*\*)"
)
_REFUSED = (
    *("!", "__", ";", "..", "import", "lambda", "\\sum", "\\prod", "\\int", "\\lim", "\\binom", "\\tbinom", "\\dbinom"),
    *("\\to", "arrow", "\\ldots", "\\dots", "\\cdots"),
)
_UNREADABLE = re.compile(r"[^ -~°]|[#@~`\"]|&(?!.*\\end\{)|%\s?\\?%|[-+*/^_=<>]\s?\$?$", re.DOTALL)
"""What math-verify drops or ends at, and then compares the rest: other characters, and an operator at the end."""

_SYMBOLS = str.maketrans(
    {
        "−": "-",
        "·": "*",
        "×": "\\times ",
        "÷": "/",
        "π": "\\pi ",
        "μ": "µ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "≥": "\\ge ",
        "∅": "\\emptyset ",
    }
)
_CURRENCY = re.compile(r"[€£¥₹]|\$(?=\s?\d[\d,.]*\Z)")
_SUPERSCRIPTS = re.compile("[⁰¹²³⁴-⁹⁻]+")
_FULL_WIDTH = re.compile("[！-～]+")
_VULGAR = re.compile("(\\d?)([¼-¾⅐-⅞])")
_REWRITES = (
    (re.compile(r"^\{([^{}]*,[^{}]*)\}$"), r"\\{\1\\}"),  # a set
    (
        re.compile(r"(\\(?:sin|cos|tan|cot|sec|csc))\s?\(?\s?(\d{1,6})\s?(?:\^\s?\{?\s?\\circ\s?\}?|°)\)?"),
        r"\1(\\frac{\2\\pi}{180})",
    ),
    (re.compile(r"(?<![\d.,])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\d.,])"), r"\1\\frac{\2}{\3}"),  # a mixed number
    (re.compile("[€£¥₹]"), ""),
    (re.compile(r"</?[a-z]{1,10}>\Z"), ""),  # a tag after the answer
    (re.compile(r"\A–(?=\s?[\d.\\])"), "-"),
    (re.compile(r"\A[\"'`“‘]([^\"'`“‘”’]*)[\"'`”’]\Z"), r"\1"),
    (re.compile(r"~(?=\\|[a-zA-Z^{}]+\})|\\q?quad(?![a-zA-Z])|\\(?=\s)"), " "),
    (re.compile(r"\\[,;!]|\{,\}(?=\d{3})|\\\$"), ""),
    (re.compile(r"\*\*([^*]+)\*\*$|__([^_]+)__$"), r"\1\2"),
    (re.compile(r"√\s?(\w+|\([^()]*\))"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:mathrm|mathit|operatorname)\s?\{(\w)\}"), r"\1"),
    (re.compile(r"(?<![\\a-zA-Z])sqrt\s?\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])(pi|theta|phi|alpha|beta|gamma|lambda|sigma|omega)(?![a-zA-Z])"), r"\\\1"),
    (re.compile(r"(?<![\\a-zA-Z])(sin|cos|tan|log|ln|exp)(?=\s?[\w(\\])(?![a-zA-Z])"), r"\\\1"),
)
_EQUALS = re.compile(r"(?<![!<>:\\])=(?!=)")
_HYPHENATED = re.compile(r"\d+(?:\s?[-–]\s?\d+)+|\d+(?:/\d+){2,}")
_TIME = re.compile(r"\d{1,2}(?::\d\d){1,2}")
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|operatorname)\s?\{([^{}]*)\}")
_ONLY_LETTERS = re.compile(r"[a-z().\s]*[a-z]{2}[a-z().\s]*")
_WORD = re.compile(r"(?<![\\a-z])[a-z]{3,}")
_NO_WORDS = frozenset({"sqrt", "sin", "cos", "tan", "log", "exp", "infty", "begin", "end"})
_NAME = re.compile(r"\\?[a-zA-Z]+'?(?:_\{?\w{1,8}\}?)?(?:\([a-z]\))?")


def load() -> None:
    """Import math-verify and warm up its caches before the first answer. This takes 2 s and 60 MiB."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its own time limit is off
    from math_verify import parse, verify

    verify(parse("$1/2$", parsing_timeout=None), parse("$\\frac{2}{4}$", parsing_timeout=None), timeout_seconds=None)


def harmless(text: str) -> bool:
    """Return whether ``text`` is safe for a computer algebra system: no towers of powers, no deep nesting, not long."""
    if len(text) > LONGEST or any(part in text for part in _REFUSED) or _TOO_MANY_DIGITS.search(text):
        return False
    if text.count("|") % 2:
        return False
    powers = len(_POWER.findall(text))
    if powers > MOST_POWERS or powers != len(_SMALL_POWER.findall(text)):
        return False
    return nesting(text, "([{", ")]}") <= DEEPEST


def same(answer: str, right: str) -> float:
    """Return 1.0 if the two are mathematically equal, else 0.0. Identical texts always are."""
    currencies = _CURRENCY.findall(answer), _CURRENCY.findall(right)
    if all(currencies) and currencies[0] != currencies[1]:
        return 0.0
    answer, right = _tidy(answer), _tidy(right)
    if answer == right:
        return 1.0
    if _HYPHENATED.fullmatch(right):  # a range, a date or a telephone number: not a difference
        return float("".join(answer.replace("–", "-").split()) == "".join(right.replace("–", "-").split()))
    if _TIME.fullmatch(right) and _TIME.fullmatch(answer):  # 3:10 is a time or a ratio, but not the same as 6:20
        return float([int(part) for part in answer.split(":")] == [int(part) for part in right.split(":")])
    (name, *mine), (other, *its) = _sides(answer), _sides(right)
    if (name and other and name != other) or len(its) > 1:
        return float(_algebra(answer, right))
    return float(all(_equal(side, its[0]) for side in mine))


def _tidy(text: str) -> str:
    """Return ``text`` in one spelling: LaTeX for symbols, single spaces, no emphasis or currency."""
    if len(text) > 4 * LONGEST:
        return text.strip()
    text = unicodedata.normalize("NFC", text).strip().translate(_SYMBOLS)
    text = _FULL_WIDTH.sub(lambda found: unicodedata.normalize("NFKC", found[0]), text)
    text = _SUPERSCRIPTS.sub(lambda found: f"^{{{unicodedata.normalize('NFKC', found[0]).replace('−', '-')}}}", text)
    text = _VULGAR.sub(lambda found: f"{found[1]} {unicodedata.normalize('NFKC', found[2]).replace('⁄', '/')}", text)
    for pattern, new in _REWRITES:
        text = pattern.sub(new, text)
    return " ".join(text.split())


def _sides(text: str) -> list[str]:
    """Return the name that an equation defines (empty if none), and its other sides."""
    first, *rest = (
        side.strip() for side in _EQUALS.split(text.removeprefix("$").removesuffix("$") if "=" in text else text)
    )
    return [first, *rest] if rest and _NAME.fullmatch(first) else ["", first, *rest]


def _equal(answer: str, right: str) -> bool:
    mine, its = split_units(answer, right)
    found, wanted = exact_number(mine.value), exact_number(its.value)
    if not mine.fits(its):
        return False
    if found is None or wanted is None:
        return mine.scale == its.scale and _algebra(mine.value, its.value)
    found, wanted = found * mine.scale, wanted * its.scale
    if mine.percent != its.percent:  # 50% means 0.5, but some write it as 50
        return found == wanted or (found / 100 == wanted if mine.percent else found == wanted / 100)
    return found == wanted


def _algebra(answer: str, right: str) -> bool:
    if not (harmless(answer) and harmless(right)):
        return False
    if _UNREADABLE.search(answer) or _UNREADABLE.search(right):
        return _plain(answer) == _plain(right)
    if not _words_agree(_plain(answer), _plain(right)):
        return False
    from math_verify import parse, verify

    wanted = parse(_as_mathematics(right), parsing_timeout=None)
    found = parse(_as_mathematics(answer), parsing_timeout=None)
    if not verify(wanted, found, timeout_seconds=None):
        return False
    return not (wanted and found) or _close(found[0], wanted[0])


def _plain(text: str) -> str:
    return " ".join(_TEXT_COMMAND.sub(r" \1 ", text).casefold().split())


def _words_agree(answer: str, right: str) -> bool:
    """Return False for words that math-verify would multiply letter by letter, so that ``no`` were equal to ``on``."""
    if _ONLY_LETTERS.fullmatch(right):
        return answer.strip("(). ") == right.strip("(). ") or not _ONLY_LETTERS.fullmatch(answer)
    mine, its = ([word for word in _WORD.findall(text) if word not in _NO_WORDS] for text in (answer, right))
    return not (mine and its) or sorted(mine) == sorted(its)


def _close(found: object, wanted: object) -> bool:
    """Return False for two numbers that differ relative to their size, since both may be tiny."""
    from sympy import Expr

    if not (isinstance(found, Expr) and isinstance(wanted, Expr) and found.is_number and wanted.is_number):
        return True
    if found.is_Float or wanted.is_Float or not wanted.is_finite or wanted.is_zero:
        return True
    return bool(abs(((found - wanted) / wanted).evalf(15)) < _RELATIVE)


def _as_mathematics(text: str) -> str:
    return text if "$" in text or "\\boxed" in text else f"${text}$"
