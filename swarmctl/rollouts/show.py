"""``swarmctl rollouts show``: prompts, completions and their rewards, as text or JSON."""

import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import attrgetter

from hivemind_exp.foreign_text import foreign
from hivemind_exp.journal.records import index_in_group
from hivemind_exp.model_names import short_name
from hivemind_exp.money import dollars
from hivemind_exp.rollouts.types import Turn
from hivemind_exp.source_kinds import Kind
from swarmctl.rollouts.journal import (
    Hint,
    RolloutFilter,
    RolloutRecord,
    as_row,
    check_source,
    node_with_journal,
    provider_name,
    rollouts,
)
from swarmctl.rollouts.strictness import WORDS, format_of
from swarmctl.terminal.json_output import print_json
from swarmctl.terminal.safe_text import folded, one_line, quoted
from swarmctl.terminal.sentences import points, several
from swarmctl.terminal.streams import width_of
from swarmctl.terminal.views import Writer

_DIGEST = 12
"""Characters shown of a question's digest, enough to distinguish questions."""
_MARK = "    | "


def show(node: str | None, wanted: RolloutFilter, *, full: bool, as_json: bool) -> None:
    """Print a node's rollouts. Raises ``NodeError`` if there is no such node, or it has no rollouts yet."""
    files = node_with_journal(node)
    check_source(files, wanted.source)
    found = list(rollouts(files, wanted))
    if as_json:
        print_json(rollouts=[as_row(rollout, files.root.name) | {"lost": rollout.lost} for rollout in found])
        return
    write = Writer(sys.stdout)
    width = width_of(sys.stdout)
    for line in _lines(found, width=width, full=full):
        write(line)
    if not found:
        Writer(sys.stderr)(f"No matching rollouts in node {files.root.name}.")


def _lines(found: Sequence[RolloutRecord], *, width: int | None, full: bool) -> Iterator[str]:
    told = partial(_told, width=width)
    quote = partial(quoted, mark=_MARK, width=width, full=full)
    groups = groupby(found, key=attrgetter("swarm", "round", "stage", "question"))
    for number, (_, members) in enumerate(groups):
        first, *others = members
        shown: Hint | None = None
        if number:
            yield ""
        task = "" if first.task is None else f"{first.task}, "
        digest = first.question if full else first.question[:_DIGEST]
        yield from told(f"round {first.round}, {first.stage}{_when([first, *others])}: {task}question {digest}", "")
        for message in first.messages or ():
            yield from told(f"{foreign(message.get('role'))}:", "  ")
            yield from quote(str(message.get("content")))
        for each in (first, *others):
            if each.hint is not None and each.hint != shown:
                shown = each.hint
                yield from told(f"hint from {_hint_origin(shown)}:", "  ")
                yield from quote(shown.text)
            if each.lost is not None:
                yield from told(f"[{each.place}] lost: {each.lost}", "  ")
                continue
            yield from told(f"[{index_in_group(each.place)}] {_reward(each)}; {_origin(each)}", "  ")
            if each.terms:
                yield from told(points(each.terms), "      ")
            for turn in each.turns or ():
                yield from told(_turn(turn), "    ")
                yield from quote(turn.text)
            if each.turns is None:
                yield from quote(each.text or "")


def _when(rollouts: Sequence[RolloutRecord]) -> str:
    """Return when the first of them was recorded, in local time as ``logs`` shows it; empty if that is unknown."""
    known = [each.time for each in rollouts if each.time is not None]
    return f", {datetime.fromtimestamp(min(known)):%Y-%m-%d %H:%M:%S}" if known else ""


def _reward(rollout: RolloutRecord) -> str:
    if rollout.outcome is None:
        return "not verified"
    word = "correct" if rollout.correct else "wrong" if rollout.outcome == 0 else "partly correct"
    why = "" if rollout.why == word else f": {rollout.why}"
    if rollout.turns is not None:
        return f"{word} (outcome {rollout.outcome:g}{why}), {several(sum(t.sampled for t in rollout.turns), 'turn')}"
    return f"{word} (outcome {rollout.outcome:g}{why}), {WORDS[format_of(rollout)]}"


def _turn(turn: Turn) -> str:
    if turn.sampled:
        return f"this node ({several(turn.tokens, 'token')}):"
    return f"environment ({foreign(turn.role)}):"


def _origin(rollout: RolloutRecord) -> str:
    model = foreign(short_name(rollout.model)) if rollout.model else None
    name = provider_name(rollout.provider)
    if rollout.kind == Kind.PEER:  # its model cannot be verified
        parts = [f"by peer {name} ({f'says it used {model}' if model else 'names no model'})"]
    elif rollout.kind == Kind.POLICY:
        parts = [f"by this node ({model or 'model unknown'})"]
    else:
        parts = [f"by {name} ({model or 'model unknown'})", str(rollout.kind)]
        parts.append("price unknown" if rollout.usd is None else dollars(rollout.usd))
    if rollout.truncated:
        parts.append("cut off at the length limit")
    return ", ".join(parts)


def _hint_origin(hint: Hint) -> str:
    return f"{provider_name(hint.provider)}, {foreign(short_name(hint.model))}, {dollars(hint.usd)}"


def _told(text: str, indent: str, width: int | None) -> list[str]:
    """Return the lines of a sentence, wrapped between words. The sentence may contain untrusted text."""
    if width is None:
        return [indent + one_line(text)]
    return folded(text, max(20, width - 1), begin=indent, indent=f"{indent}  ")
