"""The charts of a page, from the data of its nodes, each with its caption and the same numbers as a table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from hivemind_exp.money import dollars
from swarmctl.report.page import charts, words
from swarmctl.report.page.charts import SMALL, WIDE, Curve, Interval, Part, Point
from swarmctl.report.page.scales import Format, domain, percent, plain
from swarmctl.terminal.sentences import duration

Node = Mapping[str, Any]
_MOST_ROWS = 40
"""Rows of a chart's table. Of more, only some are shown; ``--json`` has all."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart."""

    title: str
    caption: str
    drawn: Markup
    """The chart."""
    narrow: Markup | None = None
    """The chart for a narrow screen, if the other one is wide."""
    legend: tuple[tuple[Markup, str], ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    """The chart's numbers."""
    whole: bool = False
    """Whether it takes the whole width."""


def accuracies(nodes: Sequence[Node]) -> Figure | None:
    """Return the accuracy of all nodes by round, with intervals."""
    drawn = []
    for number, node in enumerate(nodes):
        found = node["accuracy"]["evaluations"]
        points = tuple(Point(each["round"], each["accuracy"], each["low"], each["high"]) for each in found)
        if points:
            drawn.append(Curve(str(node["node"]), points, number))
    if not drawn:
        return None
    rows = [
        (line.name, plain(each.x), percent(each.y), f"{percent(each.low or 0)} to {percent(each.high or 0)}")
        for line in drawn
        for each in line.points
    ]
    top = 1.0 if max(point.high or 0 for line in drawn for point in line.points) > 0.5 else None
    label = f"Accuracy by round of {', '.join(line.name for line in drawn)}"
    options: dict[str, Any] = {"label": label, "y_format": percent, "smooth": False}
    options["y_domain"] = None if top is None else (0.0, top)
    return Figure(
        "Accuracy on held-out questions",
        "The node answers questions that it never trains on, with greedy decoding. Bands are 95 % intervals (Wilson).",
        charts.lines(drawn, size=WIDE, **options),
        charts.lines(drawn, size=SMALL, **options),
        _legend(drawn) if len(drawn) > 1 else (),
        ("node", "round", "accuracy", "95 % interval"),
        _thinned(rows),
    )


def comparisons(rows: Sequence[Mapping[str, Any]]) -> Figure | None:
    """Return the measured differences with their intervals; None if nothing was compared."""
    known = [row for row in rows if row["difference"] is not None]
    if not known:
        return None
    drawn = []
    for row in known:
        difference = row["difference"]
        interval = words.span(difference["low"], difference["high"], signed=True)
        shown = f"{words.points(difference['value'], signed=True)} points ({interval})"
        drawn.append(Interval(_pair(row), difference["value"], difference["low"], difference["high"], shown))
    return Figure(
        "Paired differences",
        "On the same held-out questions, with 95 % intervals (Agresti and Min). Right of zero, the first is better.",
        charts.intervals(drawn, label="; ".join(f"{each.name}: {each.shown}" for each in drawn), y_format=_points),
    )


def sections(nodes: Sequence[Node]) -> dict[str, list[list[Figure]]]:
    """Return the charts of each section, in groups: of each kind of chart, one for each node.

    The same axis belongs to all charts of a group.
    """
    found: dict[str, list[list[Figure]]] = {"rewards": [], "learning": [], "costs": []}
    for section, draw in _CHARTS:
        drawn = [(node, figure) for node in nodes for figure in draw(node, nodes)]
        for title in dict.fromkeys(figure.title for _, figure in drawn):
            group = [(node, figure) for node, figure in drawn if figure.title == title]
            several = len(nodes) > 1
            found[section].append(
                [replace(figure, title=f"{node['node']}: {title}") if several else figure for node, figure in group]
            )
    return found


@dataclass(frozen=True, slots=True)
class Axes:
    """The ends of a chart's axes."""

    x: tuple[float, float]
    y: tuple[float, float]


Draw = Callable[[Node, Sequence[Node]], list[Figure]]
"""Draws a kind of chart for one of several nodes."""


def _by_stage(name: str, title: str, caption: str, unit: str) -> Draw:
    def draw(node: Node, nodes: Sequence[Node]) -> list[Figure]:
        rows = [row for row in node["series"]["rollouts"] if row[name] is not None]
        stages = list(dict.fromkeys(row["stage"] for row in rows))
        axes = _axes(nodes, "rollouts", name)
        found = []
        for stage in stages:
            drawn = _lines([row for row in rows if row["stage"] == stage], name)
            where = f", stage {stage}" if len(stages) > 1 else ""
            found.append(_figure(title + where, caption, drawn, unit, axes))
        return found

    return draw


def _steps(name: str, title: str, caption: str) -> Draw:
    def draw(node: Node, nodes: Sequence[Node]) -> list[Figure]:
        rows = [row for row in node["series"]["steps"] if row[name] is not None]
        axes = _axes(nodes, "steps", name)
        return [_figure(title, caption, _lines(rows, name), "nats per token", axes)] if rows else []

    return draw


def _axes(nodes: Sequence[Node], series: str, name: str) -> Axes:
    """Return the axes of a series' charts, the same for all nodes."""
    values = [row[name] for node in nodes for row in node["series"][series] if row[name] is not None]
    share = name == "reward" and max(values, default=1) <= 1
    return Axes(_rounds(nodes), (0.0, 1.0) if share else domain(values))


def _rounds(nodes: Sequence[Node]) -> tuple[float, float]:
    """Return the first and the last round of all nodes' series."""
    rows = [row for node in nodes for series in ("rollouts", "steps") for row in node["series"][series]]
    first, last = (choose(map(_middle, rows), default=1.0) for choose in (min, max))
    return first, last


def _terms(node: Node, nodes: Sequence[Node]) -> list[Figure]:
    """Return the terms of the reward by round, for each source that has several."""
    found = []
    for kind in dict.fromkeys(row["source"] for row in node["series"]["rollouts"] if row["terms"]):
        rows = [row for row in node["series"]["rollouts"] if row["source"] == kind and row["terms"]]
        names = list(dict.fromkeys(name for row in rows for name in row["terms"]))
        drawn = [
            Curve(name, tuple(Point(_middle(row), row["terms"][name]) for row in rows if name in row["terms"]), number)
            for number, name in enumerate(names)
        ]
        axes = Axes(_rounds(nodes), domain([point.y for line in drawn for point in line.points]))
        caption = f"Mean of each term of the reward, for completions from {words.source(kind)}."
        found.append(_figure(f"Reward terms: {words.source(kind)}", caption, drawn, "points", axes))
    return found


def _gradients(node: Node, nodes: Sequence[Node]) -> list[Figure]:
    rows = [row for row in node["series"]["steps"] if row["share"] is not None]
    drawn = _lines(rows, "share")
    if len(drawn) < 2:
        return []
    return [
        Figure(
            "Gradient by source",
            "Share of each source's gradient norm in the sum of all sources' norms, before clipping.",
            charts.shares(
                drawn,
                label=f"Share of the gradient by source: {', '.join(line.name for line in drawn)}",
                x_domain=_rounds(nodes),
            ),
            legend=_legend(drawn, area=True),
            heads=("source", "round", "share"),
            rows=_cells(drawn, percent),
        )
    ]


def _time(node: Node, _: Sequence[Node]) -> list[Figure]:
    if node["time"] is None:
        return []
    seconds, total = node["time"]["seconds"], node["time"]["total"]
    parts = [
        Part(name, seconds[part], number, f"{words.short(seconds[part])}, {percent(seconds[part] / total)}")
        for number, (part, name) in enumerate(words.PARTS.items())
        if seconds[part] > 0
    ]
    legend = tuple((charts.swatch(part.color, area=True), f"{part.name}: {part.shown}") for part in parts)
    told = "; ".join(f"{part.name}: {part.shown}" for part in parts)
    caption = f"{duration(round(total))} over all runs, {node['time']['rounds']:,} rounds."
    return [
        Figure("Time", caption, charts.stack(parts, label=f"Where the time went: {told}"), legend=legend, whole=True)
    ]


def _money(node: Node, _: Sequence[Node]) -> list[Figure]:
    if node["money"] is None:
        return []
    by_day: dict[float, float] = {}
    for row in node["money"]["by_day"]:
        by_day[row["day"]] = by_day.get(row["day"], 0.0) + row["usd"]
    if len(by_day) < 2:
        return []
    drawn = [(words.day(day), usd) for day, usd in sorted(by_day.items())][-60:]
    total = f"{dollars(node['money']['usd'])} in all."
    label = f"Spending by day, {drawn[0][0]} to {drawn[-1][0]}"
    rows = tuple((name, dollars(usd)) for name, usd in drawn)
    return [
        Figure(
            "Money by day (UTC)",
            total,
            charts.columns(drawn, label=label, y_format=plain),
            heads=("day", "spent"),
            rows=rows,
        )
    ]


_CHARTS: tuple[tuple[str, Draw], ...] = (
    (
        "rewards",
        _by_stage(
            "reward",
            "Reward by source",
            "Mean outcome of the verified completions, from 0 to 1. Thin: as measured; thick: moving mean.",
            "mean reward",
        ),
    ),
    ("rewards", _terms),
    ("learning", _by_stage("completion_length", "Completion length", "Mean length in tokens.", "tokens")),
    (
        "learning",
        _steps("entropy", "Entropy", "Entropy of the policy in nats per token, over completions learned from."),
    ),
    ("learning", _gradients),
    (
        "learning",
        _steps(
            "nll", "Surprise", "How unlikely others' text is to the model: negative log-likelihood in nats per token."
        ),
    ),
    ("learning", _steps("reverse_kl", "Distance from the teacher", "Reverse KL divergence, in nats per token.")),
    (
        "learning",
        _steps("kl", "Distance from the reference", "KL divergence from the model before training, in nats per token."),
    ),
    ("costs", _time),
    ("costs", _money),
)


def _middle(row: Mapping[str, Any]) -> float:
    return (float(row["first"]) + float(row["last"])) / 2


def _lines(rows: Sequence[Mapping[str, Any]], name: str) -> list[Curve]:
    """Return a line for each source, in the order of their colors."""
    kinds = sorted(dict.fromkeys(row["source"] for row in rows), key=lambda kind: (words.color(kind), kind))
    return [
        Curve(
            words.source(kind),
            tuple(Point(_middle(row), row[name]) for row in rows if row["source"] == kind),
            words.color(kind),
        )
        for kind in kinds
    ]


def _figure(title: str, caption: str, drawn: Sequence[Curve], unit: str, axes: Axes) -> Figure:
    return Figure(
        title,
        caption,
        charts.lines(
            drawn, label=f"{title} by round: {'; '.join(map(_told, drawn))}", y_domain=axes.y, x_domain=axes.x
        ),
        legend=_legend(drawn),
        heads=("source", "round", unit),
        rows=_cells(drawn, plain),
    )


def _told(line: Curve) -> str:
    first, last = line.points[0], line.points[-1]
    if len(line.points) == 1:
        return f"{line.name} {plain(first.y)}"
    return f"{line.name} from {plain(first.y)} to {plain(last.y)}"


def _cells(drawn: Sequence[Curve], form: Format) -> tuple[tuple[str, ...], ...]:
    return tuple(
        row for line in drawn for row in _thinned([(line.name, plain(point.x), form(point.y)) for point in line.points])
    )


def _thinned(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return at most about ``_MOST_ROWS`` evenly spaced rows, with the first and the last."""
    every = max(1, -(-len(rows) // _MOST_ROWS))
    kept = list(rows[::every])
    return tuple(kept if not rows or kept[-1] == rows[-1] else [*kept, rows[-1]])


def _legend(drawn: Sequence[Curve], *, area: bool = False) -> tuple[tuple[Markup, str], ...]:
    return tuple((charts.swatch(line.color, area=area), line.name) for line in drawn)


def _pair(row: Mapping[str, Any]) -> str:
    return f"{row['node']} against {'itself before training' if row['against'] is None else row['against']}"


def _points(share: float) -> str:
    return "0" if abs(share) < 5e-4 else words.points(share, signed=True).removesuffix(".0")
