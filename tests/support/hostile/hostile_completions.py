"""Answers that try to harm the verifier or to be accepted as right."""

from __future__ import annotations

import pickle
from pathlib import Path


class _Touch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


def code_that_touches(path: Path) -> list[str]:
    """Return answers that create the file if anything evaluates, formats or unpickles them."""
    command = f"__import__('os').system('touch {path}')"
    return [
        command,
        f"[{command}]",
        f"[[0, {command}]]",
        f"({command}, 1)[1]",
        f"eval({command!r})",
        f"exec({command!r})",
        f"lambda: {command}",
        f"{{'a': {command}}}",
        f"f'{{{command}}}'",
        f"open('{path}', 'w')",
        f"Symbol('x').__class__.__init__.__globals__['__builtins__']['open']('{path}', 'w')",
        f"().__class__.__base__.__subclasses__()[-1].__init__.__globals__['open']('{path}', 'w')",
        f"$\\text{{{command}}}$",
        f"1 + {command}",
        f"$(touch {path})",
        f"`touch {path}`",
        f"'; touch {path}; '",
        f"!!python/object/apply:os.system ['touch {path}']",
        pickle.dumps(_Touch(path), 0).decode("latin-1"),
    ]


BOMBS = [
    "9**9999999",
    "9^9999999",
    "$9^{9^{9^{9}}}$",
    "10**10**10",
    "99999999!",
    "2^(2^(2^(2^(2^2))))",
    "1e999999999",
    "-1e999999999",
    "1e-999999999",
    "1" * 10_000,
    "1." + "3" * 10_000,
    "0x" + "f" * 10_000,
    "0b" + "1" * 10_000,
    "1/" + "9" * 10_000,
    "1_000",
    "[" * 100_000,
    "(" * 100_000 + ")" * 100_000,
    "(" * 7_000 + "P" + ")" * 7_000,
    "[" * 7_000 + "]" * 7_000,
    '{"a":' * 3_000 + "1" + "}" * 3_000,
    "¬" * 16_000 + "P",
    "P∧" * 8_000 + "P",
    "\\frac{" * 2_000,
    "$\\frac{1}{" * 90,
    "$" + "{" * 390,
    "x=" * 190,
    "1," * 8_000,
    "×".join(["7"] * 5_000),
    "a" * 1_000_000,
    "a" * 16_000 + "!",
    "1 " * 8_000 + "x",
    "\n" * 16_000,
    "\\" * 16_000,
    "\\frac" * 3_000,
    " " * 16_000 + "x",
    "[" + ",".join(["[" + ",".join("0" * 1_000) + "]"] * 1_000) + "]",
    "[[" + ",".join("0" * 8_000) + "]]",
]
"""Answers that take much time or memory if a parser has no limits."""

ODDITIES = [
    "",
    " ",
    "None",
    "null",
    "nan",
    "NaN",
    "-nan",
    "sNaN",
    "inf",
    "-Infinity",
    "[NaN, NaN, NaN]",
    "[NaN]",
    "[Infinity]",
    "[1e999]",
    "['nan', 'nan', 'nan', 'nan']",
    "zoo",
    "oo",
    "\\infty",
    "0x",
    "0b",
    "$",
    "$$",
    "/",
    "1/0",
    "0/0",
    "\\frac{1}{0}",
    "×",
    "×××",
    "¬",
    "()",
    "P ∨ ¬P",
    "P → P",
    "(P",
    "[]",
    "[[]]",
    "{}",
    '""',
    "\x00",
    "1\x00",
    "\ud800",
    "1\udfff",
    "\x1b[2J\x1b]0;owned\x07",
    "\u202e42",
    "٤٢",
    "４２",
    "²",
    "Ⅷ",
    "{0.__class__}",
    "{answer}",
    "%s%n",
    "<answer>",
    "True False",
    "yes no",
    "0 1 2 3 4 5 6 7 8 9",
]
"""Short, strange answers. ``reasoning-gym`` accepts ``[NaN, NaN, NaN]`` as sorted numbers."""
