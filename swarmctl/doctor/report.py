"""Print the findings of ``doctor`` as text, as JSON, or as Markdown that is safe to publish."""

import getpass
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from swarmctl.doctor.check import Context, Outcome, Status
from swarmctl.doctor.registry import PROFILE
from swarmctl.run.finished import finished
from swarmctl.storage.node_lock import is_held
from swarmctl.terminal.command_line import typed
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import folded, masked, one_line
from swarmctl.terminal.streams import width_of
from swarmctl.terminal.views import Writer
from swarmctl.version import VERSION

_WIDTH = max(len(status) for status in Status)
_TAIL_OF_KEY = re.compile(r"····[^\s,;]*")


def print_as_json(outcomes: Sequence[Outcome], fixed: list[str] | None) -> None:
    """Print one object. It contains ``fixed`` if fixing was requested."""
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


def print_findings(outcomes: Iterable[Outcome], shows: Callable[[Outcome], bool] | None = None) -> list[Outcome]:
    """Print each outcome as it comes, under its group, and return all of them. ``shows``: which ones to print."""
    write, found = Writer(sys.stdout), []
    heading = None
    for outcome in outcomes:
        found.append(outcome)
        if shows is not None and not shows(outcome):
            continue
        if outcome.check.group != heading:
            heading = outcome.check.group
            write(heading)
        for line in as_text(outcome):
            write(line)
    return found


def as_text(outcome: Outcome) -> Iterator[str]:
    """Yield a finding's lines, wrapped to the terminal, and the command that it suggests, which is never wrapped."""
    width = width_of(sys.stdout)
    finding = outcome.finding
    text = f"  {finding.status:<{_WIDTH}}  {outcome.check.name}: {_safe(finding.text)}"
    # Like Writer, but with an indent on continuation lines.
    yield from [text] if width is None else folded(text, max(20, width - 1), indent="    ")
    if finding.remedy:
        yield f"    try: {_command(finding.remedy)}"


def _safe(text: str) -> str:
    """Return the text without terminal control characters, keys or invitations."""
    return masked(one_line(text))


def _command(text: str) -> str:
    """Return a command as it must be typed on this machine."""
    return _safe(typed(text))


def conclusion(outcomes: Sequence[Outcome], fixed: list[str] | None, context: Context, *, whole: bool) -> Iterator[str]:
    """Yield what was fixed, and what to do next. ``whole``: whether all checks were run."""
    yield from (f"Fix: {done}" for done in fixed or [])
    if any(outcome.finding.status is Status.FAILED for outcome in outcomes):
        yield from failures(outcomes)
        return
    unknown = [outcome.check.key for outcome in outcomes if outcome.finding.status is Status.UNKNOWN]
    if unknown:
        yield f"No answer in time from {', '.join(unknown)}. If this machine is busy, try again later."
    warnings = sum(outcome.finding.status is Status.WARNING for outcome in outcomes)
    less = f" ({warnings} warning{'s' if warnings > 1 else ''})" if warnings else ""
    what = "Ready to run" if whole else "No failures" if warnings else "No problems found"
    if whole and context.machine_only:
        from swarmctl.profiles.suitable import suitable_builtin

        yield f"This machine is ready{less}. Next, check a profile, or set up a node:"
        yield f"  {_command(context.again('--profile', suitable_builtin()))}"
        yield f"  {_command('swarmctl init')}"
        return
    if not whole:
        yield f"{what}{less}. To check everything else, too:"
        yield f"  {_command(context.again(*(['--deep'] if context.deep else [])))}"
        return
    if context.resolved is not None and is_held(context.files.lock):
        name = context.config.node.name
        yield f"No failures{less}. Node {name} is running."
        following = f"swarmctl status {shlex.quote(name)}"
    elif context.resolved is not None and (done := finished(context.files, context.resolved, None)) is not None:
        name = context.config.node.name
        yield f"{what}{less}. Node {name} has finished all its rounds. To continue it:"
        following = shlex.join(["swarmctl", "run", "--node", name, "--rounds", str(2 * (done.round or 1))])
    else:
        yield f"{what}{less}."
        following = next(filter(None, map(_better_run, outcomes)), context.run)
    yield f"  try: {_command(following)}"


def failures(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield how many checks failed, and which one to start with. At least one must have failed."""
    failed = [outcome for outcome in outcomes if outcome.finding.status is Status.FAILED]
    # With an invalid profile or wrong libraries, the other checks mean little.
    first = min(failed, key=lambda outcome: (outcome.check.key != PROFILE, outcome.check.group != "python"))
    number = "1 check failed" if len(failed) == 1 else f"{len(failed)} checks failed"
    if first.finding.remedy:
        yield f"{number}. Start with {first.check.key}:"
        yield f"  {_command(first.finding.remedy)}"
    else:
        yield f"{number}. Start with {first.check.key}: {_safe(first.finding.text)}"


def _better_run(outcome: Outcome) -> str | None:
    """Return the run that a warning suggests, such as one with a profile for this machine; None if it suggests none."""
    remedy = outcome.finding.remedy or ""
    return remedy if outcome.finding.status is Status.WARNING and remedy.startswith("swarmctl run ") else None


def as_markdown(outcomes: Sequence[Outcome], context: Context) -> Iterator[str]:
    """Yield lines for a bug report, without keys or the names of users and hosts; ``~`` is the home directory."""
    profile = "none" if context.machine_only else "invalid"
    if context.resolved is not None:
        profile = context.resolved.profile.name if context.resolved.profile.builtin else "custom"
    # Hosts of providers that the user defined: they may be names in a private network.
    own = [urlsplit(each.base_url) for each in context.config.providers.values()] if context.resolved else []
    hosts = [name for address in own for name in (address.netloc, address.hostname) if name]
    system = f"{platform.system()} {platform.release()}"
    yield from ("### swarmctl doctor", "")
    yield f"- swarmctl {VERSION}, Python {platform.python_version()}, {system}"
    yield from (f"- {platform.machine()}, profile: {profile}", "")
    yield from ("| check | status | finding | fix | seconds |", "|---|---|---|---|---|")
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
    """Return ``text`` without the ends of keys, the home directory, the user name and the host name."""
    text = _TAIL_OF_KEY.sub("····", text)
    home = str(Path.home())
    if home != "/":
        text = re.sub(re.escape(home) + r"(?=/|\s|$|['\"])", "~", text)
    user = ""
    with suppress(OSError, KeyError):  # a container whose user has only a number
        user = getpass.getuser()
    for name, shown in ((platform.node(), "HOST"), (user, "USER")):
        if len(name) > 2 and name != "root":
            text = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", shown, text)
    return text
