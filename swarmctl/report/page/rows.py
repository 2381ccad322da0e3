"""The rows of the page's tables, as text."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from hivemind_exp.money import digits, dollars
from swarmctl.report.page.scales import plain
from swarmctl.report.page.words import how, measured, moment, points, probability, short, source, span
from swarmctl.rollouts.journal import provider_name
from swarmctl.terminal.sentences import duration, percent
from swarmctl.terminal.table import or_dash

Rows = list[tuple[str, ...]]


def rows_of(nodes: Sequence[Mapping[str, Any]]) -> Rows:
    """Return a row for each node: how it trains, its accuracy and its costs."""
    rows: Rows = []
    for node in nodes:
        found, gained, time = node["accuracy"]["evaluations"], node["accuracy"]["gain"], node["time"]
        rows.append(
            (
                str(node["node"]),
                how(node),
                or_dash(node["round"]),
                or_dash(found[0] if found else None, measured),
                or_dash(found[-1] if len(found) > 1 else None, measured),
                or_dash(
                    gained,
                    lambda each: (
                        f"{points(each['value'], signed=True)} ({span(each['low'], each['high'], signed=True)})"
                    ),
                ),
                or_dash(time, lambda each: duration(round(each["total"]))),
                or_dash(node["money"], lambda each: dollars(each["usd"])),
                _per_point(node["cost_per_point"]),
            )
        )
    return rows


def _per_point(cost: Mapping[str, Any] | None) -> str:
    if cost is None:
        return "-"
    usd = cost["usd"] and cost["usd"]["value"]
    return ", ".join(
        [*([short(cost["seconds"]["value"])] if cost["seconds"] else []), *([dollars(usd)] if usd else [])]
    )


def merged(nodes: Sequence[Mapping[str, Any]], form: Callable[[Mapping[str, Any]], Rows]) -> Rows:
    """Return the rows of all nodes, each after its node's name if there are several nodes."""
    return [(str(node["node"]), *row) if len(nodes) > 1 else row for node in nodes for row in form(node)]


def asked(compared: Sequence[Mapping[str, Any]]) -> str:
    """Return how many questions the comparisons asked: ``200 held-out questions``."""
    numbers = sorted({row["questions"] for row in compared})
    many = f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"
    return f"{many} held-out questions"


def comparison_rows(compared: Sequence[Mapping[str, Any]]) -> Rows:
    """Return a row for each comparison on the same questions."""
    return [
        (
            f"{row['node']}, round {row['rounds'][0]}",
            "before training" if row["against"] is None else f"{row['against']}, round {row['rounds'][1]}",
            percent(row["accuracy"]),
            percent(row["accuracy_against"]),
            f"{points(row['difference']['value'], signed=True)} "
            f"({span(row['difference']['low'], row['difference']['high'], signed=True)})",
            *(f"{row[name]:,}" for name in ("better", "worse")),
            probability(row["p"]),
        )
        for row in compared
    ]


def differing_settings(nodes: Sequence[Mapping[str, Any]]) -> Rows:
    """Return the settings that are not the same in all nodes, with each node's value."""
    tables = [{row["key"]: row["shown"] for row in node["configuration"]["settings"]} for node in nodes]
    keys = dict.fromkeys(key for table in tables for key in table)
    return [
        (_breakable(key), *(_breakable(table.get(key, "–")) for table in tables))
        for key in keys
        if key != "node.name" and len({table.get(key) for table in tables}) > 1
    ]


def by_task(node: Mapping[str, Any]) -> Rows:
    """Return a node's accuracy by task, before and after training."""
    found = node["accuracy"]["evaluations"]
    first, last = found[0]["by_task"], found[-1]["by_task"]
    return [(str(task), or_dash(first.get(task), percent), percent(last[task])) for task in sorted(last)]


def reward_rows(node: Mapping[str, Any]) -> Rows:
    """Return the completions in a node's journal by source and stage."""
    return [
        (
            source(row["kind"]),
            str(row["stage"]),
            f"{row['completions']:,}",
            or_dash(row["share_correct"], percent),
            or_dash(row["reward"], "{:.3f}".format),
            f"{row['truncated']:,}",
        )
        for row in node["rewards"]
    ]


def term_rows(node: Mapping[str, Any]) -> Rows:
    """Return the mean of each reward term by source."""
    return [(row["term"], source(row["kind"]), or_dash(row["mean"], "{:.3f}".format)) for row in node["reward_terms"]]


def learned_rows(node: Mapping[str, Any]) -> Rows:
    """Return how many completions and tokens of each source the node learned from."""
    return [(source(row["kind"]), f"{row['completions']:,}", f"{row['tokens']:,}") for row in node["learned"]]


def provider_rows(node: Mapping[str, Any]) -> Rows:
    """Return the requests, tokens and cost of each provider's model, and their sum."""
    rows, counts = [], node["rollouts"]
    if counts is None:
        return []
    several = len({row["stage"] for row in counts["stats"]}) > 1
    for row in counts["stats"]:
        model = provider_name(row["model"]) + (f", {row['stage']}" if several else "")
        rows.append((provider_name(row["provider"]), model, *_counts(row)))
    if len(rows) > 1:
        rows.append(("total", "", *_counts(counts["total"])))
    return rows


def _counts(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        *(or_dash(row[name]) for name in ("requests", "prompt_tokens", "completion_tokens")),
        *(or_dash(row[name], digits) for name in ("usd", "usd_unsettled")),
        f"{row['completions']:,}",
        or_dash(row["share_correct"], percent),
        f"{row['lost']:,}",
    )


def peer_rows(node: Mapping[str, Any]) -> Rows:
    """Return a node's peers and what they contributed."""
    return [
        (
            f"{row['name']} (…{row['peer'][-8:]})",
            moment(row["last_seen"]),
            f"{row['offered']:,}",
            f"{row['used']:,}",
            or_dash(row["share_correct"], percent),
            f"{row['refused'] + row['skewed']:,}",
            or_dash(row["weight"], "{:.2f}".format),
        )
        for row in node["known_peers"]
    ]


def sample_terms(sample: Mapping[str, Any]) -> Rows:
    """Return the terms of a sample's reward, with their reasons, and their sum."""
    terms = sample["terms"]
    rows = [
        (str(term["name"]), plain(term["value"]), or_dash(term["maximum"], plain), str(term["why"] or "–"))
        for term in terms
    ]
    known = [term["maximum"] for term in terms if term["maximum"] is not None]
    most = plain(sum(known)) if len(known) == len(terms) else "–"
    return [*rows, ("reward", plain(sum(term["value"] for term in terms)), most, "the sum of its terms")]


def problem_rows(node: Mapping[str, Any]) -> Rows:
    """Return the warnings and errors of a node."""
    return [(moment(row["last"]), row["level"], row["message"], f"{row['times']:,}") for row in node["problems"]]


def _breakable(text: str) -> str:
    """Return HTML in which a long name may be wrapped after its dots and underscores, rather than anywhere."""
    return Markup("<wbr>").join(re.split(r"(?<=[._])(?=[A-Za-z])", text))  # escapes the parts


def setting_rows(settings: Sequence[Mapping[str, Any]], default: bool) -> Rows:
    """Return the settings that have, or do not have, their default."""
    return [
        (_breakable(row["key"]), _breakable(row["shown"]), "not recorded" if row["origin"] is None else row["origin"])
        for row in settings
        if row["default"] is default
    ]
