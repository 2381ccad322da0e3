"""Turn a report's data into one HTML page without scripts, styles, fonts or images from elsewhere."""

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hivemind_exp.foreign_text import visible
from hivemind_exp.money import dollars
from swarmctl.report.page import figures, rows, words
from swarmctl.report.page.scales import percent, plain
from swarmctl.terminal.table import or_dash
from swarmctl.version import VERSION

_HERE = Path(__file__).parent
_REFRESH_S = 5
_SPACES = frozenset("\n\t \u00a0")
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=(?:%|s|min|h|USD|M|B|points?)\b|%)|(?<=[\d%]) (?=\()")


@cache
def _environment() -> Environment:
    found = Environment(
        finalize=_seen,
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["whole"] = _whole
    found.globals |= {
        "words": words,
        "rows": rows,
        "or_dash": or_dash,
        "dollars": dollars,
        "percent": percent,
        "plain": plain,
    }
    return found


def _seen(value: object) -> object:
    """Return a value to write. What controls a display, or cannot be seen, becomes an escape."""
    if isinstance(value, Markup) or not isinstance(value, str) or value.isprintable():
        return value
    return "".join(sign if sign in _SPACES else visible(sign) for sign in value)


def _whole(text: str) -> str:
    """Return a sentence in which numbers stay with their units."""
    return _BEFORE_UNIT.sub("\u00a0", text)


@cache
def _asset(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(*, live: bool) -> str:
    """Return the content security policy of a page: its own style, and while it refreshes, its own script."""
    script = f"; script-src {_digest(_asset('live.js'))}; connect-src 'self'" if live else ""
    return f"default-src 'none'; style-src {_digest(_asset('style.css'))}; base-uri 'none'; form-action 'none'{script}"


def page(data: Mapping[str, Any], *, live: bool = False) -> str:
    """Return the page for the data of ``report --json``. ``live``: it is served, and refreshes itself."""
    nodes = data["nodes"]
    names = [str(node["node"]) for node in nodes]
    trained = {node["node"] for node in nodes if node["round"]}  # the others have nothing to evaluate yet
    uncompared = [row for row in data["comparisons"] if row["difference"] is None]
    return (
        _environment()
        .get_template("page.html")
        .render(
            title=" and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}",
            data=data,
            nodes=nodes,
            several=len(nodes) > 1,
            figures=figures.sections(nodes),
            accuracy=figures.accuracies(nodes),
            differences=figures.comparisons(data["comparisons"]),
            compared=[row for row in data["comparisons"] if row["difference"] is not None],
            uncompared=[row for row in uncompared if {row["node"], row["against"] or row["node"]} <= trained],
            style=Markup(_asset("style.css")),
            script=Markup(_asset("live.js")) if live else None,
            policy=policy(live=live),
            refresh_s=_REFRESH_S,
            live=live,
            version=VERSION,
        )
    )
