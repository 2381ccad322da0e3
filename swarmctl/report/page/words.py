"""The words of the page: names of sources and parts, and sentences about a node."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hivemind_exp.money import dollars
from hivemind_exp.source_kinds import COUNTS_AS, Kind
from swarmctl.nodes.state import WORKING
from swarmctl.rollouts.strictness import WORDS
from swarmctl.terminal.devices import devices
from swarmctl.terminal.sentences import asked, count, duration, percent, several

SOURCES = {
    "policy": "this machine",
    "teacher": "API, as a teacher",
    "peer": "peers",
    "hinted": "this machine, with hints",
    "policy_text": "this model, behind an API",
    "relay": "API, without training",
}
"""Kinds of source. Their order determines their colors."""
PARTS = {
    "generate": "generate",
    "train": "train",
    "verify": "verify",
    "share": "share with peers",
    "other": "other work in rounds",
    "start": "start",
    "evaluate": "evaluate",
    "checkpoint": "save checkpoints",
}


def source(kind: str) -> str:
    """Return a kind of source in words."""
    return SOURCES.get(kind, kind)


def color(kind: str) -> int:
    """Return the color of a kind of source, the same in every chart."""
    return list(SOURCES).index(kind) if kind in SOURCES else len(SOURCES)


def points(share: float, *, signed: bool = False) -> str:
    """Return a difference of shares in percentage points: ``+51.5``."""
    return f"{100 * share:+.1f}".replace("-", "−") if signed else f"{100 * share:.1f}"


def span(low: float, high: float, *, signed: bool = False) -> str:
    """Return an interval of shares, in percent or points: ``86–94``, ``−3.1 to +8.0``."""
    if signed:
        return f"{points(low, signed=True)} to {points(high, signed=True)}"
    return f"{100 * low:.0f}–{100 * high:.0f}"


def measured(evaluation: Mapping[str, Any]) -> str:
    """Return an accuracy with its interval: ``91 % (86–94)``."""
    return f"{percent(evaluation['accuracy'])} ({span(evaluation['low'], evaluation['high'])})"


def how(node: Mapping[str, Any]) -> str:
    """Return with what help a node trains."""
    learned = {row["kind"] for row in node["learned"]}
    helps = []
    if node["swarm"] is not None:
        helps.append(f"in swarm {node['swarm_name'] or node['swarm'][:12]}")
    providers = [f"{row['provider']}:{row['model']}" for row in paid(node)]
    if providers:
        helps.append(f"with {', '.join(dict.fromkeys(providers))}")
    elif learned & {"teacher", "hinted", "policy_text"}:
        helps.append("with an API")
    return " and ".join(helps) or "alone"


def paid(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the counts of providers that got requests."""
    return [row for row in (node["rollouts"] or {"stats": []})["stats"] if row["requests"]]


def introduction(node: Mapping[str, Any]) -> str:
    """Return a sentence on what a node trains, how far it got and what it achieved."""
    size = f" ({count(node['parameters'])} parameters)" if node["parameters"] else ""
    tasks = _listed([str(task) for task in node["tasks"]])
    where = f" on {devices(node, by_name=True)}" if node["device"] else ""
    if is_relay(node):
        return f"A relay for {tasks} {how(node)}, which generates and verifies but trains no model: {_rounds(node)}."
    if node["model"] is None:
        return "The node has not run yet."
    text = f"{node['model']}{size} learns {tasks} {how(node)}{where}: {_rounds(node)}."
    if node["curriculum"]:
        text = f"{text} Its questions are {_listed(asked(node['curriculum']))}."
    found = node["accuracy"]["evaluations"]
    if len(found) < 2:
        return text
    first, last = found[0], found[-1]
    gained = node["accuracy"]["gain"]
    if gained is None or not gained["significant"]:
        change = f"went from {measured(first)} to {measured(last)}, which chance alone can explain"
    else:
        change = f"{'rose' if gained['value'] > 0 else 'fell'} from {measured(first)} to {measured(last)}"
    return f"{text} Its accuracy on {last['questions']:,} held-out questions {change}."


def is_relay(node: Mapping[str, Any]) -> bool:
    """Whether a node trains no model."""
    settings = {row["key"]: row["value"] for row in node["configuration"]["settings"]}
    return COUNTS_AS.get(settings.get("offload.kind", "auto")) is Kind.RELAY


def _rounds(node: Mapping[str, Any]) -> str:
    planned = f" of {node['rounds']:,}" if node["rounds"] else ""
    return f"{several(node['round'] or 0, 'round')}{planned} finished"


def doing(node: Mapping[str, Any]) -> str:
    """Return a node's state; for a running node, rather the phase that it is in."""
    return str(node["phase"]) if node["phase"] and node["state"] in WORKING else str(node["state"])


def tiles(node: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a node's key figures: name, value and what there is to say about it."""
    found = node["accuracy"]["evaluations"]
    figures = []
    if found:
        first, last, gained = found[0], found[-1], node["accuracy"]["gain"]
        value = (
            percent(first["accuracy"])
            if len(found) == 1
            else f"{percent(first['accuracy'])} → {percent(last['accuracy'])}"
        )
        said = f"{span(last['low'], last['high'])} % with 95 % confidence, {last['questions']:,} held-out questions"
        figures.append(("Accuracy", value, said))
        if gained is not None:
            inside = span(gained["low"], gained["high"], signed=True)
            rounds = f"rounds {gained['from_round']} to {gained['to_round']}"
            figures.append(("Gain, in points", points(gained["value"], signed=True), f"{inside}, {rounds}"))
    rounds = "0" if node["round"] is None else f"{node['round']:,}"
    figures.append(("Rounds", rounds + (f" of {node['rounds']:,}" if node["rounds"] else ""), doing(node)))
    if node["time"] is not None:
        begun = node["log_begins_at_round"]
        since = "" if begun in (None, 1) else f" since round {begun:,}"
        figures.append(
            ("Time", duration(round(node["time"]["total"])), f"of all runs{since}, with starts and evaluations")
        )
    if node["money"] is not None:
        cap = node["money"]["usd_cap"]
        figures.append(
            ("Money", dollars(node["money"]["usd"]), "no cap" if cap is None else f"of at most {dollars(cap)}")
        )
    if (cost := node["cost_per_point"]) is not None:
        if cost["seconds"]:
            figures.append(("Time per point", *_price(cost["seconds"], short, "of rounds")))
        if cost["usd"] and cost["usd"]["value"]:
            figures.append(("Money per point", *_price(cost["usd"], dollars, "with 95 % confidence")))
    if node["swarm"] is not None:
        peers = several(len(node["known_peers"]), "known peer")
        groups = several(node["groups_from_peers"] or 0, "group")
        figures.append(("Learned from peers", groups, f"{peers} in swarm {node['swarm_name'] or node['swarm'][:12]}"))
    return figures


def _price(cost: Mapping[str, float], form: Callable[[float], str], what: str) -> tuple[str, str]:
    return form(cost["value"]), f"{form(cost['low'])} to {form(cost['high'])} {what}"


def short(seconds: float) -> str:
    """Return a time span, also a short one: ``0.98 s``."""
    return f"{seconds:.2g} s" if seconds < 10 else duration(seconds)


def compared(row: Mapping[str, Any]) -> str:
    """Return a sentence on the result of a comparison."""
    other = "before training" if row["against"] is None else str(row["against"])
    difference = row["difference"]
    size = f"{points(abs(difference['value']))} points"
    if difference["low"] > 0:
        return f"{row['node']} is better than {other} by {size}, more than chance would explain."
    if difference["high"] < 0:
        return f"{row['node']} is worse than {other} by {size}, more than chance would explain."
    return f"{row['node']} and {other} differ by {size}, which chance alone can explain."


def probability(p: float) -> str:
    """Return a p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def moment(rfc3339: str | None) -> str:
    """Return a time as ``2026-11-29 00:08 UTC``."""
    if not rfc3339:
        return "–"
    return datetime.fromisoformat(rfc3339).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def day(seconds: float) -> str:
    """Return a day as ``11-29``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%m-%d")


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 3:
        return ", ".join(names) or "nothing yet"
    return f"{', '.join(names[:3])} and {len(names) - 3} other tasks"


def verdict(sample: Mapping[str, Any]) -> tuple[str, str]:
    """Return a sample's verdict, as a class of the style sheet and in words."""
    if sample["correct"]:
        return "right", "Correct"
    return ("wrong", "Wrong") if not sample["outcome"] else ("partly", "Partly correct")


def origin(sample: Mapping[str, Any]) -> str:
    """Return where a sample comes from."""
    who = source(sample["kind"])
    if sample["kind"] == "peer":
        who = f"peer {sample['provider']}" + (f", says it used {sample['model']}" if sample["model"] else "")
    elif sample["kind"] not in ("policy", "hinted"):
        who = f"{sample['provider']}, {sample['model'] or 'model unknown'}"
    parts = [f"round {sample['round']:,}", str(sample["stage"]), sample["task"] or "task unknown", who]
    parts += [dollars(sample["usd"])] if sample["usd"] else []
    parts += ["cut off at the length limit"] if sample["truncated"] else []
    return " · ".join(parts)


def format_kept(sample: Mapping[str, Any]) -> str:
    """Return a sentence on the format of a sample's text as the page shows it."""
    text = WORDS[sample["format"]]
    return f"{text[:1].upper()}{text[1:]}."
