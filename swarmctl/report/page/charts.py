"""Charts as static SVG. Colors are classes of the page's style sheet, so that they follow light and dark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from swarmctl.report.page.scales import Axis, Format, domain, percent, plain, ticks

COLORS = 8
"""Number of colors in the style sheet, ``c0`` to ``c7``. Lines also differ in their dashes."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 8, 34
_ROW = 64
"""Height of a row of intervals."""
_SMOOTH_FROM = 24
"""With fewer points, the line is drawn as it is."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a chart's coordinate system. At about this width in pixels, its text has the page's size."""

    width: int
    height: int


SMALL, WIDE = Size(400, 220), Size(1000, 300)


@dataclass(frozen=True, slots=True)
class Point:
    """A value, with an interval if it has one."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """A series."""

    name: str
    points: tuple[Point, ...]
    color: int
    """Number of its color and dash."""

    @property
    def style(self) -> str:
        return f"c{self.color % COLORS}"


def lines(
    drawn: Sequence[Curve],
    *,
    label: str,
    size: Size = SMALL,
    y_format: Format = plain,
    y_domain: tuple[float, float] | None = None,
    x_domain: tuple[float, float] | None = None,
    x_label: str = "round",
    smooth: bool = True,
) -> Markup:
    """Return a line chart. ``label`` describes it in words; ``smooth`` draws a moving mean over many points."""
    values = [value for line in drawn for point in line.points for value in (point.y, point.low, point.high)]
    y = _vertical(size, y_domain or domain([value for value in values if value is not None]))
    x = _horizontal(size, x_domain or [point.x for line in drawn for point in line.points])
    parts = [_frame(size, x, y, y_format, x_label)]
    for line in drawn:
        if any(point.low is not None for point in line.points):
            parts.append(_band(line, x, y))
    for line in drawn:
        parts.append(_line(line, x, y, smooth=smooth))
    if len(values) <= 200:
        parts += [_dots(line, x, y, y_format, x_label) for line in drawn if len(line.points) <= _SMOOTH_FROM]
    return _svg(size, label, parts)


def shares(
    drawn: Sequence[Curve],
    *,
    label: str,
    size: Size = SMALL,
    x_domain: tuple[float, float] | None = None,
    x_label: str = "round",
) -> Markup:
    """Return areas stacked to 100 %: at each x, the lines' parts of their sum. Missing values count as 0."""
    places = sorted({point.x for line in drawn for point in line.points})
    known = [{point.x: max(0.0, point.y) for point in line.points} for line in drawn]
    totals = {x: sum(each.get(x, 0.0) for each in known) or 1.0 for x in places}
    x, y = _horizontal(size, x_domain or places), _vertical(size, (0.0, 1.0))
    parts, floor = [], dict.fromkeys(places, 0.0)
    for line, values in zip(drawn, known, strict=True):
        roof = {place: floor[place] + values.get(place, 0.0) / totals[place] for place in places}
        outline = [(x(place), y(roof[place])) for place in places] + [
            (x(place), y(floor[place])) for place in reversed(places)
        ]
        if len(places) == 1:
            outline = [
                (x.begin, outline[0][1]),
                (x.end, outline[0][1]),
                (x.end, outline[1][1]),
                (x.begin, outline[1][1]),
            ]
        parts.append(Markup('<path class="area {}" d="{}Z"/>').format(line.style, _path(outline)))
        floor = roof
    return _svg(size, label, [*parts, _frame(size, x, y, percent, x_label)])


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a whole."""

    name: str
    value: float
    color: int
    shown: str
    """The value, for people."""


def stack(parts: Sequence[Part], *, label: str, size: Size = Size(1000, 34)) -> Markup:
    """Return one horizontal bar that is divided into parts."""
    total, drawn, begin = sum(part.value for part in parts) or 1.0, [], 0.0
    for part in parts:
        width = part.value / total * size.width
        title = Markup("<title>{}: {}</title>").format(part.name, part.shown)
        box = Markup('<rect class="fill c{}" x="{:.2f}" y="0" width="{:.2f}" height="{}">{}</rect>')
        drawn.append(box.format(part.color % COLORS, begin, max(0.0, width - 2), size.height, title))
        begin += width
    return _svg(size, label, drawn, stretched=True)


def columns(drawn: Sequence[tuple[str, float]], *, label: str, y_format: Format = plain, size: Size = SMALL) -> Markup:
    """Return vertical bars with names below; with many, only some are named."""
    y = _vertical(size, domain([value for _, value in drawn]))
    room = (size.width - _LEFT - _RIGHT) / max(1, len(drawn))
    every = -(-len(drawn) // 5)
    parts = [_grid(size, y, y_format)]
    for number, (name, value) in enumerate(drawn):
        left = _LEFT + number * room
        width = min(room * 0.8, 48)
        title = Markup("<title>{}: {}</title>").format(name, y_format(value))
        box = Markup('<rect class="fill c0" x="{:.2f}" y="{}" width="{:.2f}" height="{:.2f}">{}</rect>')
        parts.append(box.format(left + (room - width) / 2, y(value), width, y.begin - y(value), title))
        if number % every == 0:
            text = Markup('<text class="tick mid" x="{:.2f}" y="{}">{}</text>')
            parts.append(text.format(left + room / 2, size.height - 14, name))
    return _svg(size, label, parts)


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured difference."""

    name: str
    value: float
    low: float
    high: float
    shown: str


def intervals(rows: Sequence[Interval], *, label: str, y_format: Format = percent) -> Markup:
    """Return differences with their intervals, beside a line at zero."""
    size = Size(SMALL.width, _ROW * len(rows) + 24)
    low, high = min(0.0, *(row.low for row in rows)), max(0.0, *(row.high for row in rows))
    bounds = domain([low, high], from_zero=False)
    x, bottom = Axis(*bounds, 18, size.width - 18), size.height - 20
    upright = Markup('<line class="{0}" x1="{1}" y1="0" x2="{1}" y2="{2}"/>')
    parts = [upright.format("axis" if value == 0 else "grid", x(value), bottom) for value in ticks(*bounds, 4)]
    name = Markup('<text x="2" y="{}">{}</text>')
    line = Markup('<path class="line plain c{0}" d="M{1} {2}H{3}"/><circle class="dot c{0}" cx="{4}" cy="{2}" r="5"/>')
    for number, row in enumerate(rows):
        top = _ROW * number
        parts.append(name.format(top + 16, row.name) + name.format(top + 33, row.shown))
        parts.append(line.format(number % COLORS, x(row.low), top + 48, x(row.high), x(row.value)))
    parts += [
        Markup('<text class="tick mid" x="{}" y="{}">{}</text>').format(x(value), size.height - 8, y_format(value))
        for value in ticks(*bounds, 4)
    ]
    return _svg(size, label, parts)


def swatch(color: int, *, area: bool = False) -> Markup:
    """Return a sample of a line or an area, for a legend."""
    drawn = '<rect class="fill c{0}" width="18" height="12"/>' if area else '<path class="line c{0}" d="M0 6H22"/>'
    return Markup(
        '<svg class="swatch" width="22" height="12" viewBox="0 0 22 12" aria-hidden="true">' + drawn + "</svg>"
    ).format(color % COLORS)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the mean of each value's nearest neighbors: a fifteenth of all, at least two, on either side."""
    reach = max(2, len(values) // 15)
    near = [values[max(0, place - reach) : place + reach + 1] for place in range(len(values))]
    return [sum(some) / len(some) for some in near]


def _line(line: Curve, x: Axis, y: Axis, *, smooth: bool) -> Markup:
    outline = [(x(point.x), y(point.y)) for point in line.points]
    if len(outline) == 1:
        return Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5"/>').format(line.style, *outline[0])
    if not smooth or len(outline) < _SMOOTH_FROM:
        return Markup('<path class="line {}" d="{}"/>').format(line.style, _path(outline))
    means = smoothed([point.y for point in line.points])
    trend = [(at, y(mean)) for (at, _), mean in zip(outline, means, strict=True)]
    both = Markup('<path class="raw {0}" d="{1}"/><path class="line {0}" d="{2}"/>')
    return both.format(line.style, _path(outline), _path(trend))


def _band(line: Curve, x: Axis, y: Axis) -> Markup:
    known = [
        (point.x, point.low, point.high) for point in line.points if point.low is not None and point.high is not None
    ]
    if len(known) == 1:
        at, low, high = known[0]
        return Markup('<path class="whisker {}" d="M{} {}V{}"/>').format(line.style, x(at), y(low), y(high))
    outline = [(x(at), y(high)) for at, _, high in known] + [(x(at), y(low)) for at, low, _ in reversed(known)]
    return Markup('<path class="band {}" d="{}Z"/>').format(line.style, _path(outline))


def _dots(line: Curve, x: Axis, y: Axis, y_format: Format, x_label: str) -> Markup:
    def dot(point: Point) -> Markup:
        interval = (
            "" if point.low is None or point.high is None else f" ({y_format(point.low)} to {y_format(point.high)})"
        )
        title = Markup("<title>{}, {} {}: {}{}</title>").format(
            line.name, x_label, plain(point.x), y_format(point.y), interval
        )
        box = Markup('<circle class="dot {}" cx="{}" cy="{}" r="3.5">{}</circle>')
        return box.format(line.style, x(point.x), y(point.y), title)

    return Markup("").join(map(dot, line.points))


def _vertical(size: Size, bounds: tuple[float, float]) -> Axis:
    return Axis(*bounds, size.height - _BOTTOM, _TOP)


def _horizontal(size: Size, values: Iterable[float]) -> Axis:
    known = list(values)
    low, high = min(known, default=0.0), max(known, default=1.0)
    return Axis(low, high if high > low else low + 1, _LEFT, size.width - _RIGHT)


def _grid(size: Size, y: Axis, y_format: Format) -> Markup:
    row = Markup(
        '<line class="grid" x1="{0}" y1="{1}" x2="{2}" y2="{1}"/><text class="tick end" x="{3}" y="{4}">{5}</text>'
    )
    return Markup("").join(
        row.format(_LEFT, y(value), size.width - _RIGHT, _LEFT - 6, y(value) + 4, y_format(value))
        for value in ticks(y.low, y.high, 4)
    )


def _frame(size: Size, x: Axis, y: Axis, y_format: Format, x_label: str) -> Markup:
    marks = ticks(x.low, x.high, 4 if size.width < 600 else 8, whole=True)
    text = Markup('<text class="tick mid" x="{}" y="{}">{}</text>')
    below = Markup("").join(text.format(x(value), size.height - 18, plain(value)) for value in marks)
    name = Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
        size.width - _RIGHT, size.height - 3, x_label
    )
    base = Markup('<line class="axis" x1="{0}" y1="{1}" x2="{2}" y2="{1}"/>')
    return _grid(size, y, y_format) + base.format(_LEFT, size.height - _BOTTOM, size.width - _RIGHT) + below + name


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _svg(size: Size, label: str, parts: Sequence[Markup], *, stretched: bool = False) -> Markup:
    how = Markup(' preserveAspectRatio="none"') if stretched else Markup("")
    kind = "chart bar" if stretched else "chart"
    head = Markup('<svg class="{}" role="img" aria-label="{}" viewBox="0 0 {} {}"{}>')
    return head.format(kind, escape(label), size.width, size.height, how) + Markup("").join(parts) + Markup("</svg>")
