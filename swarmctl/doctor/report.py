"""The findings of ``doctor`` as text, as JSON, and as Markdown that may be shown to anyone."""

import getpass
import platform
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from pathlib import Path
from urllib.parse import urlsplit

from swarmctl.doctor.check import Context, Outcome, Status
from swarmctl.doctor.registry import PROFILE
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import clean, masked
from swarmctl.version import VERSION

_WIDTH = max(len(status) for status in Status)
_TAIL_OF_KEY = re.compile(r"····[^\s,;]*")


def print_as_json(outcomes: Sequence[Outcome], fixed: list[str] | None) -> None:
    """Print one object; ``fixed`` is in it where fixing was asked for."""
    rows = [
        {
            "group": outcome.check.group,
            "name": outcome.check.name,
            "status": str(outcome.finding.status),
            "finding": _safe(outcome.finding.text),
            "remedy": _command(outcome.finding.remedy) if outcome.finding.remedy else None,
            "seconds": round(outcome.seconds, 3),
        }
        for outcome in outcomes
    ]
    ok = all(outcome.finding.status is not Status.FAILED for outcome in outcomes)
    print_json(ok=ok, checks=rows, **({} if fixed is None else {"fixed": fixed}))


def as_text(outcomes: Sequence[Outcome], fixed: list[str] | None, context: Context, *, whole: bool) -> Iterator[str]:
    """Yield lines for a terminal: findings broken between words (the rest is left to ``Writer``), commands whole."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for group, members in groupby(outcomes, key=lambda outcome: outcome.check.group):
        yield group
        for outcome in members:
            finding = outcome.finding
            text = f"  {finding.status:<{_WIDTH}}  {outcome.check.name}: {_safe(finding.text)}"
            # Like Writer, but with an indent.
            fold = partial(textwrap.wrap, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
            yield from fold(text, max(20, width - 1)) if width else [text]
            if finding.remedy:
                yield f"    try: {_command(finding.remedy)}"
    yield from (f"Fixed: {done}" for done in fixed or [])
    yield from _conclusion(outcomes, context, whole=whole, width=width)


def _safe(text: str) -> str:
    """Return a text in which nothing steers a terminal and nothing looks like a key."""
    return masked(clean(text))


def _command(text: str) -> str:
    """Return a command as it is typed here."""
    return _safe(typed(text))


def _conclusion(outcomes: Sequence[Outcome], context: Context, *, whole: bool, width: int) -> Iterator[str]:
    failed = [outcome for outcome in outcomes if outcome.finding.status is Status.FAILED]
    if failed:
        # Without a profile or with wrong libraries the rest says little.
        first = min(failed, key=lambda outcome: (outcome.check.key != PROFILE, outcome.check.group != "python"))
        number = "1 check failed" if len(failed) == 1 else f"{len(failed)} checks failed"
        yield f"{number}. Cure {first.check.key} first{':' if first.finding.remedy else '.'}"
        if first.finding.remedy:
            yield f"  {_command(first.finding.remedy)}"
        return
    warnings = sum(outcome.finding.status is Status.WARNING for outcome in outcomes)
    less = f", with {warnings} warning{'s' if warnings > 1 else ''}" if warnings else ""
    what, following = ("Ready", context.again("run")) if whole else ("Nothing failed", context.again())
    command = _command(following.replace("swarmctl doctor run", "swarmctl run", 1))
    line = f"{what}{less}. next: {command}"
    if width and len(line) >= width:
        yield f"{what}{less}. next:"
        line = f"  {command}"
    yield line


def as_markdown(outcomes: Sequence[Outcome], context: Context) -> Iterator[str]:
    """Yield lines for a bug report: no keys, no names of people or machines, ``~`` for the home directory."""
    profile = "none that can be used"
    if context.resolved is not None:
        profile = context.resolved.profile.name if context.resolved.profile.builtin else "one of the user's"
    # The hosts of providers that are no row of the table: names in somebody's network.
    own = [urlsplit(each.base_url) for each in context.config.providers.values()] if context.resolved else []
    hosts = [name for address in own for name in (address.netloc, address.hostname) if name]
    system = f"{platform.system()} {platform.release()}"
    yield from ("### swarmctl doctor", "")
    yield f"- swarmctl {VERSION}, Python {platform.python_version()}, {system}"
    yield from (f"- {platform.machine()}, profile: {profile}", "")
    yield from ("| check | status | finding | remedy | seconds |", "|---|---|---|---|---|")
    for outcome in outcomes:
        finding = outcome.finding
        remedy = f"`{_cell(_command(finding.remedy), hosts)}`" if finding.remedy else ""
        told = _cell(finding.text, hosts)
        yield f"| {outcome.check.key} | {finding.status} | {told} | {remedy} | {outcome.seconds:.2f} |"


def _cell(text: str, hosts: Sequence[str]) -> str:
    text = redacted(_safe(text))
    for host in hosts:
        text = text.replace(host, "HOST")
    return text.replace("|", "\\|").replace("\n", " ")


def redacted(text: str) -> str:
    """Return ``text`` without keys, home directory, user and host name."""
    text = _TAIL_OF_KEY.sub("····", text)
    home = str(Path.home())
    if home != "/":
        text = re.sub(re.escape(home) + r"(?=/|\s|$|['\"])", "~", text)
    user = ""
    with suppress(OSError, KeyError):  # a container with a number for a user
        user = getpass.getuser()
    for name, shown in ((platform.node(), "HOST"), (user, "USER")):
        if len(name) > 2 and name != "root":
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", shown, text)
    return text
