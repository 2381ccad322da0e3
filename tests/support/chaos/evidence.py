"""Check the files that nodes leave on disk."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any

from hivemind_exp.journal.records import FOREIGN
from hivemind_exp.node_files import NodeFiles
from tests.support.chaos.nodes import Node

Pair = tuple[str, str]
"""(reader, author), by name."""


@contextmanager
def _journal(files: NodeFiles) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{files.journal}?mode=ro", uri=True)) as opened:
        yield opened


def faults(node: Node, swarm: str, *, ahead: int = 1) -> list[str]:
    """Return the errors in the rounds of a node that has ended; none if no round is lost, repeated or changed.

    ``ahead``: rounds after the last step that may have completions; an API's may be of several.
    """
    with _journal(node.files) as journal:
        return [
            f"{node.name}: {fault}"
            for fault in (*_faults_of_events(node), *_faults_of_journal(node, journal, swarm, ahead))
        ]


def _faults_of_events(node: Node) -> Iterator[str]:
    """Check the events about steps and rounds."""
    first: dict[int, dict[str, Any]] = {}
    seen: Counter[tuple[int, str]] = Counter()
    for event in node.events("step"):
        step, source = event["step"], event["source"]
        if event["round"] != step:
            yield f"step {step} is of round {event['round']}"
        if not event["replayed"]:
            seen[step, source] += 1
        before = first.setdefault(step, event)
        if (before["loss"], before["grad_norm"]) != (event["loss"], event["grad_norm"]):
            yield f"step {step} came out otherwise when it was repeated"
    yield from (f"step {step} was taken twice ({source})" for (step, source), count in seen.items() if count > 1)
    if missing := sorted(set(range(len(first))) - set(first)):
        yield f"steps {missing[:5]} are missing, {max(first)} is there"
    told = Counter(event["round"] for event in node.events("round"))
    yield from (f"round {number} was told of twice" for number, count in told.items() if count > 1)
    # The round event follows the step event. A node that ends in between repeats the step silently after a restart.
    untold = set(first) - set(told)
    if len(untold) > node.ends:
        yield f"{len(untold)} rounds were never told of, after {node.ends} ends: {sorted(untold)[:5]}"


def _faults_of_journal(node: Node, journal: sqlite3.Connection, swarm: str, ahead: int) -> Iterator[str]:
    """Compare the journal with the steps that were taken."""
    taken = len({event["step"] for event in node.events("step")})
    manifests = [step for (step,) in journal.execute("SELECT step FROM manifests ORDER BY step")]
    # A node that ends before it takes a step has the step's manifest, and takes the step first after its restart.
    if manifests and manifests != list(range(manifests[0], max(taken, manifests[-1] + 1))):
        yield f"manifests {manifests[:3]} to {manifests[-1:]} of {taken} steps"
    if manifests and manifests[-1] > taken:
        yield f"{manifests[-1] - taken} manifests beyond step {taken}"
    drawn = {number for (number,) in journal.execute("SELECT round FROM drawn WHERE position < 0")}
    if not set(range(taken)) <= drawn <= set(range(taken + 1)):
        yield f"draws for {len(drawn)} rounds, and {taken} steps"
    query = "SELECT round, COUNT(*) FROM completions WHERE idx < ? AND swarm = ? GROUP BY round"
    counts = dict(journal.execute(query, (FOREIGN, swarm)).fetchall())
    if not set(range(taken)) <= set(counts) <= set(range(taken + ahead)):
        yield f"completions for {len(counts)} rounds, and {taken} steps"
    sizes = {count for round_, count in counts.items() if round_ < taken or ahead == 1}
    if len(sizes) > 1:
        yield f"rounds of {sorted(sizes)} completions"


def lives(node: Node) -> int:
    """Return how often a node started or resumed its rounds."""
    return len(node.events("start"))


def longest_pause(node: Node) -> float:
    """Return the longest time between two rounds of one run, in seconds, without the time the node was frozen."""
    longest, before = 0.0, None
    for event in node.events():
        if event["event"] == "start":
            before = event["t"]
        elif event["event"] == "round" and before is not None:
            frozen = sum(max(0.0, min(end, event["t"]) - max(begin, before)) for begin, end in node.away)
            longest = max(longest, event["t"] - before - frozen)
            before = event["t"]
    return longest


def hearing(nodes: Sequence[Node], swarm: str, since: float) -> dict[Pair, float]:
    """Return pairs whose reader learned from text the author wrote after ``since``, and how many seconds after it.

    Args:
        since: Unix seconds.
    """
    written: dict[tuple[str, str], str] = {}
    learned: list[tuple[str, str, tuple[str, str], float]] = []
    by_peer = {node.peer: node.name for node in nodes if node.files.key.exists()}
    for node in nodes:
        for place, source, question, texts, at in _groups(node, swarm, since):
            if place < FOREIGN:
                written[question, texts] = node.name
            else:
                learned.append((node.name, by_peer.get(source, ""), (question, texts), at))
    found: dict[Pair, float] = {}
    for reader, author, group, at in learned:
        if written.get(group) == author:
            found[reader, author] = min(found.get((reader, author), at - since), at - since)
    return found


def _groups(node: Node, swarm: str, since: float) -> list[tuple[int, str, str, str, float]]:
    """Return slot, source, question, texts and time of the groups added to a journal after ``since``."""
    query = (
        "SELECT MIN(idx), source, question, JSON_GROUP_ARRAY(text), MIN(t) "
        "FROM (SELECT * FROM completions WHERE swarm = ? AND t >= ? ORDER BY idx) "
        "GROUP BY round, stage, question, idx / ?"
    )
    if not node.files.journal.exists():
        return []
    try:
        with _journal(node.files) as journal:
            return journal.execute(query, (swarm, since, FOREIGN)).fetchall()
    except sqlite3.OperationalError:  # it is being created
        return []


def pairs(nodes: Iterable[Node]) -> set[Pair]:
    """Return all pairs of different nodes."""
    nodes = list(nodes)
    return {(reader.name, author.name) for reader in nodes for author in nodes if reader is not author}
