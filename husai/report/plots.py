"""Figures as inline SVG that follow the page's light or dark colours; the same data always gives
the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from husai.report.quotes import Quote, format_value
from husai.report.tables import reach

INK, FAINT = "#010203", "#040506"
SERIES = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06")
MARKERS = ("o", "s", "^", "D", "v", "P")
VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--rule)",
    **{c: f"var(--series-{i})" for i, c in enumerate(SERIES, start=1)},
}


class Series(NamedTuple):
    """One line of a figure: positions, values and optional bounds (NaN or None where open)."""

    label: str
    x: Sequence[Any]
    y: Sequence[float]
    lcb: Sequence[float | None] = ()
    ucb: Sequence[float | None] = ()


def summary_figure(spec: Quote, rows: Quote) -> str | None:
    """SVG of one entry of a summary's ``figures`` list.

    ``spec`` holds ``kind`` (``line`` or ``errorbar``), ``x``, ``y``, and optionally ``group``,
    ``x_label``, ``y_label`` and ``title``. ``x``, ``y`` and ``group`` name columns of ``rows``
    (dots reach into nested objects; a metric brings its own bounds), or ``x`` and ``y`` are lists
    of numbers, then with ``lcb`` and ``ucb`` beside them where there are bounds."""
    settings = spec.value or {}
    x, y, kind = settings.get("x"), settings.get("y"), settings.get("kind", "line")
    if kind not in ("line", "errorbar") or x is None or y is None:
        return None
    if isinstance(y, list):
        series = [Series("", x, y, settings.get("lcb") or (), settings.get("ucb") or ())]
        x = y = ""
    else:
        series = _grouped(rows, x, y, settings.get("group"))
    if not any(is_finite(value) for one in series for value in one.y):
        return None
    x_label, y_label = settings.get("x_label", x), settings.get("y_label", y)
    return line_plot(series, x_label, y_label, joined=kind == "line")


def _grouped(rows: Quote, x: str, y: str, group: str | None) -> list[Series]:
    groups: dict[str, list[tuple]] = {}
    for row in rows:
        at, found = reach(row, x).value, reach(row, y).value
        at = at.get("value") if isinstance(at, dict) else at
        found = found if isinstance(found, dict) else {"value": found}
        label = format_value(reach(row, group).value) if group else ""
        numbers = (found.get(key) for key in ("value", "lcb", "ucb"))
        groups.setdefault(label, []).append((at, *numbers))
    out = []
    for label, points in groups.items():
        numeric = all(is_finite(p[0]) for p in points)
        points = sorted(points, key=lambda p: p[0]) if numeric else points
        out.append(Series(label, *(list(column) for column in zip(*points, strict=True))))
    return out


def is_finite(value: Any) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def line_plot(series: Sequence[Series], x_label: str, y_label: str, joined: bool = True) -> str:
    """SVG of lines (or points) with error bars over a numeric or categorical x."""

    def draw(axes: Any) -> None:
        categories = _categories(series)
        log = not categories and _spans_decades(series)
        for index, one in enumerate(series):
            position = _positions(one, index, categories, log)
            colour, marker = SERIES[index % len(SERIES)], MARKERS[index % len(MARKERS)]
            y = [v if is_finite(v) else math.nan for v in one.y]
            if len(one.lcb) or len(one.ucb):
                bars = {"fmt": "none", "ecolor": colour, "elinewidth": 1.2, "capsize": 3}
                axes.errorbar(position, y, yerr=distances(y, one.lcb, one.ucb), **bars)
            style = "-" if joined and not categories else ""
            look = {"linestyle": style, "linewidth": 1.4, "marker": marker, "markersize": 4.5}
            axes.plot(position, y, color=colour, label=one.label or None, **look)
        if categories:
            rotation = 20 if len(categories) > 4 else 0
            axes.set_xticks(range(len(categories)), list(categories), rotation=rotation)
        elif log:
            _log_axis(axes, sorted({float(x) for one in series for x in one.x}))
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        if any(one.label for one in series):
            beside = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, **beside)

    return draw_svg(draw, (6.4, 3.2))


def distances(
    values: Sequence[float], lower: Sequence[float | None], upper: Sequence[float | None]
) -> list[list[float]]:
    """Distances from the values down to their lower and up to their upper bounds; 0 where a bound
    is open or there are none.
    """
    down = zip(values, lower or [None] * len(values), strict=True)
    up = zip(upper or [None] * len(values), values, strict=True)
    return [
        [max(a - b, 0.0) if is_finite(a) and is_finite(b) else 0.0 for a, b in pairs]
        for pairs in (down, up)
    ]


def heat_map(matrix: Sequence[Sequence[float]], labels: Sequence[str]) -> str:
    """SVG of a small symmetric matrix with its values written in the cells, e.g. PWMCC between
    seeds.
    """

    def draw(axes: Any) -> None:
        n, centred = len(matrix), {"ha": "center", "va": "center"}
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                shade = min(max(value, 0.0), 1.0) if is_finite(value) else 0.0
                look = {"color": SERIES[0], "alpha": 0.05 + 0.6 * shade, "linewidth": 0}
                axes.fill([j, j + 1, j + 1, j], [i, i, i + 1, i + 1], **look)
                text = f"{value:.2f}" if is_finite(value) else ""
                axes.text(j + 0.5, i + 0.5, text, fontsize=7.5, color=INK, **centred)
        axes.set_xticks([i + 0.5 for i in range(n)], labels)
        axes.set_yticks([i + 0.5 for i in range(n)], labels)
        axes.set_xlim(0, n)
        axes.set_ylim(n, 0)
        axes.grid(False)

    return draw_svg(draw, (4.4, 3.4))


def _positions(one: Series, index: int, categories: dict[str, int], log: bool) -> list[float]:
    """Where the points of the ``index``-th series stand; series are moved apart a little so that
    their intervals can be told apart.
    """
    if categories:
        return [categories[format_value(x)] + 0.08 * index for x in one.x]
    apart = 0.012 * index * (max(map(float, one.x)) - min(map(float, one.x)))
    return [float(x) * 1.04**index if log else float(x) + apart for x in one.x]


def _categories(series: Sequence[Series]) -> dict[str, int]:
    if all(is_finite(x) for one in series for x in one.x):
        return {}
    names = list(dict.fromkeys(format_value(x) for one in series for x in one.x))
    return {name: index for index, name in enumerate(names)}


def _spans_decades(series: Sequence[Series]) -> bool:
    positions = [float(x) for one in series for x in one.x]
    return len(set(positions)) > 2 and min(positions) > 0 and max(positions) / min(positions) >= 8


def _log_axis(axes: Any, positions: list[float]) -> None:
    axes.set_xscale("log")
    if len(positions) <= 10:
        axes.set_xticks(positions, [format_value(p) for p in positions])
        axes.minorticks_off()


def draw_svg(draw: Callable[[Any], None], size: tuple) -> str:
    """SVG of what ``draw`` puts on a pair of axes, in inches, in the report's style."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": "husai",
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.5,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0.0)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return themed(out.getvalue())


def themed(svg: str) -> str:
    """Matplotlib's SVG without its prologue, colours replaced by the page's CSS variables, ids made
    unique to the figure.
    """
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    size = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    width = f"style='max-width:{float(size.group(1)) * 1.25:.0f}px'" if size else ""
    head = re.sub(r'\s(width|height)="[^"]*"', "", svg[: svg.index(">")])
    prefix = f"f{hashlib.sha256(svg.encode()).hexdigest()[:8]}"
    body = head.replace("<svg", f"<svg {width} role='img'", 1) + svg[svg.index(">") :]
    body = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', body)
    body = re.sub(r"#(?=[A-Za-z])([\w.-]+)(?=[\"')])", rf"#{prefix}-\1", body)
    return body.replace("\n\n", "\n").strip()
