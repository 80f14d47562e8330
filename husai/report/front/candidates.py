"""The candidates as a picture: how reproducible they are against what they tell, coloured by what
the model keeps when they stand in for its activations.
"""

from __future__ import annotations

from typing import Any

from husai.report.document import Figure, Paragraph, ReportSection, Table
from husai.report.plots import INK, distances, draw_svg, is_finite
from husai.report.quotes import EvidenceFolder, Quote
from husai.report.records import missing
from husai.report.tables import cell

FRONTIER = "results/external/frontier.json"
SELECTED = "results/selection/selected_candidate.json"
COLUMNS = {
    "recipe": "recipe",
    "S": "S",
    "delta_vs_frozen": "saebench.delta_vs_frozen",
    "faithfulness": "faithfulness",
    "explained_variance": "stability.explained_variance",
    "pareto": "Pareto",
}
"""Columns of the frontier that the table shows, with the glossary's names for them."""
CAPTION = (
    "Candidates of the selection: agreement between seeds above chance (S), against the probe score "
    "above a frozen decoder's, with 95% intervals. The colour is the faithfulness, a ring marks the "
    "candidate that was chosen, and the line joins those that no other one beats in both."
)


def candidates_section(source: EvidenceFolder) -> ReportSection:
    """A picture and a table of the candidates that were compared at one L0."""
    frontier = source.open(FRONTIER)
    if not frontier.exists:
        return ReportSection("Candidates", [missing(FRONTIER)])
    chosen = source.open(SELECTED)["recipe_hash"].value
    rows = [row for row in frontier["rows"] if isinstance(row.value, dict)]
    blocks: list[Any] = []
    points = [p for row in rows if (p := _point(row, chosen))]
    if points:
        blocks.append(Figure(picture(points), [CAPTION]))
    if rows:
        names = [name for name in COLUMNS if any(row[name].exists for row in rows)]
        header = [*([COLUMNS[n]] for n in names), ["chosen"]]
        cells = [
            [*(cell(row[n]) for n in names), ["yes" if _is(row, chosen) else "no"]] for row in rows
        ]
        blocks.append(Table(header, cells))
    return ReportSection(
        "Candidates", blocks or [Paragraph(["No candidate was compared."], "missing")]
    )


def _is(row: Quote, chosen: Any) -> bool:
    return chosen is not None and row["recipe_hash"].value == chosen


def _point(row: Quote, chosen: Any) -> dict[str, Any] | None:
    x, y = row["S"].value, row["delta_vs_frozen"].value
    if not all(isinstance(v, dict) and is_finite(v.get("value")) for v in (x, y)):
        return None
    faithful = row["faithfulness"]["value"].value
    return {
        "name": str(row["recipe"].value),
        "at": (x["value"], y["value"]),
        "bars": {"xerr": _bar(x), "yerr": _bar(y)},
        "faithfulness": faithful if is_finite(faithful) else None,
        "chosen": _is(row, chosen),
    }


def picture(points: list[dict[str, Any]]) -> str:
    """SVG of the candidates; each is a dict of ``name``, where it stands (``at``), its error
    ``bars``, ``faithfulness`` or None, and whether it was ``chosen``.
    """

    def draw(axes: Any) -> None:
        ordered = sorted(points, key=lambda p: p["at"][1])
        for turn, p in enumerate(ordered, start=len(points) % 2):
            at, aside = p["at"], (9, 7 if turn % 2 else -14)
            axes.errorbar(*at, **p["bars"], fmt="none", ecolor=INK, elinewidth=0.7, alpha=0.5)
            if p["chosen"]:
                axes.plot(*at, "o", markersize=15, markerfacecolor="none", markeredgecolor=INK)
            axes.annotate(p["name"], at, aside, textcoords="offset points", fontsize=8, color=INK)
        front = sorted(p["at"] for p in points if _unbeaten(p["at"], points))
        axes.plot(*zip(*front, strict=True), linestyle=":", linewidth=1, color=INK)
        known = [p for p in points if p["faithfulness"] is not None]
        for p in points:
            if p["faithfulness"] is None:
                axes.plot(*p["at"], "o", mfc="none", mec=INK)
        if known:
            where = zip(*(p["at"] for p in known), strict=True)
            shades = {"c": [p["faithfulness"] for p in known], "cmap": "viridis"}
            look = {"s": 60, "edgecolors": INK, "linewidths": 0.7, "zorder": 3}
            dots = axes.scatter(*where, **shades, vmin=0, vmax=1, **look)
            axes.figure.colorbar(dots, ax=axes, label="faithfulness")
        axes.axhline(0, color=INK, linewidth=0.7, linestyle="--")
        axes.set_xlabel("S: agreement between seeds, above chance")
        axes.set_ylabel("probe score above a frozen decoder's (AUC)")

    return draw_svg(draw, (7.2, 3.8))


def _bar(metric: dict[str, Any]) -> list[list[float]]:
    return distances([metric["value"]], [metric.get("lcb")], [metric.get("ucb")])


def _unbeaten(at: tuple[float, float], points: list[dict[str, Any]]) -> bool:
    """Whether no other point is at least as good in both and better in one."""
    others = [p["at"] for p in points if p["at"] != at]
    return not any(x >= at[0] and y >= at[1] for x, y in others)
