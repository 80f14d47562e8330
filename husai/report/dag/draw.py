"""What both drawings of the workflow share: stages and their colours, boxes, edges, the page."""

from __future__ import annotations

import html
from collections.abc import Iterable

from husai.report.dag.layout import Layout

STAGES = {
    "subject": ("subject", "activations", "leak"),
    "SAEs": ("train", "stability", "sae"),
    "internal": (
        "baseline",
        "ablations",
        "calibration",
        "consistency",
        "internal",
        "summarize",
        "summary",
        "calibrated",
    ),
    "external": (
        "saebench",
        "cebench",
        "faithfulness",
        "frontier",
        "scaling",
        "external",
        "benchmarks",
        "probe",
        "pair",
        "baselines",
        "stories",
    ),
    "selection": ("select", "selection", "confirm", "confirmation", "candidate"),
    "stress": ("stress", "random_model", "transcoder", "ood"),
    "gate": ("gate", "decision", "selftest"),
    "report": ("report", "log", "dag", "all"),
}
FONT, LINE, PAD, LAYER_GAP = 13, 17, 14, 58
"""Pixels: height of the text and of its lines, room around it, and room for edges between
layers."""


def stage_of(rule: str) -> str:
    """Stage a rule belongs to, by the words of its name; the first word counts most."""
    words = rule.split("_")
    for candidate in [rule, *words]:
        for stage, names in STAGES.items():
            if candidate in names:
                return stage
    return "report"


COLOURS = {
    "subject": ("#dbe9f9", "#3f74b5"),
    "SAEs": ("#dcefe2", "#3c8a5a"),
    "internal": ("#fbf0cf", "#a98a1d"),
    "external": ("#fbe2d2", "#c0632a"),
    "selection": ("#efe0f5", "#8a4fa5"),
    "stress": ("#f9dcdf", "#b9434f"),
    "gate": ("#e1e4e8", "#3a444f"),
    "report": ("#f4f5f6", "#8a949e"),
}
STYLE = """
text{font:13px system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;fill:#16191d}
.title{font-size:19px;font-weight:600}.soft{fill:#59636e}.small{font-size:11px}.name{font-weight:600}
.edge{fill:none;stroke:#7b858f;stroke-width:1.3}.back{stroke-dasharray:5 4}.head{fill:#7b858f}.chip{fill:#fff;fill-opacity:.75}
.paper{fill:#fff}
@media (prefers-color-scheme: dark){.paper{fill:#14171b}.title,.legend{fill:#e4e7ea}.soft{fill:#a4adb7}.edge{stroke:#8b95a0}}
"""


def text_width(text: str, size: float = FONT) -> float:
    """Rough width of a line of text in pixels."""
    narrow = sum(c in "ijlft.,:;|'1 =()[]-" for c in text)
    return size * (0.6 * (len(text) - narrow) + 0.36 * narrow)


def extent(placed: Layout, width: dict) -> float:
    """Width of a drawing, bends included."""
    return max((x + width.get(item, 0.0) / 2 for item, x in placed.x.items()), default=0.0)


def tops_of(placed: Layout, height: dict) -> tuple[dict, float]:
    """Upper edge of every item (boxes centred in their layer) and the height of the drawing."""
    tops, y = {}, 0.0
    for layer in placed.layers:
        tall = max((height[i] for i in layer if i in height), default=0.0)
        for item in layer:
            tops[item] = y + (tall - height.get(item, tall)) / 2
        y += tall + LAYER_GAP
    return tops, y - LAYER_GAP


def edge_path(
    placed: Layout,
    edge: tuple,
    tops: dict,
    height: dict,
    css: str = "edge",
    shift: float = 0.0,
    extra: str = "",
) -> str:
    """One edge as a smooth path from box to box; a ``back`` edge has its arrow at the upper end."""
    back = "back" in css
    tall = {
        item: max((height[i] for i in layer if i in height), default=0.0)
        for layer in placed.layers
        for item in layer
    }
    a, b = edge
    x, y = placed.x[a] + shift, tops[a] + height[a] + (5 if back else 0)
    path = [f"M{x:.1f} {y:.1f}"]
    for stop in placed.chains[edge]:
        spare = (tall[stop] - height.get(stop, tall[stop])) / 2
        if stop is not a:
            to_x = placed.x[stop] + shift
            to_y = tops[stop] - spare - (5 if stop is b and not back else 0)
            middle = (y + to_y) / 2
            path.append(f"C{x:.1f} {middle:.1f} {to_x:.1f} {middle:.1f} {to_x:.1f} {to_y:.1f}")
            x, y = to_x, to_y + spare
        if stop is not b:
            y = tops[stop] - spare + tall[stop]
        path.append(f"L{x:.1f} {y:.1f}")
    marker = 'marker-start="url(#head)"' if back else 'marker-end="url(#head)"'
    return f'<path class="{css}" d="{" ".join(path)}" {marker}{extra}/>'


def box(x: float, y: float, width: float, height: float, stage: str, lines: list[str]) -> str:
    """A rounded box in the stage's colours with centred lines of text, the first one bold."""
    fill, stroke = COLOURS[stage]
    first = y + height / 2 - LINE * (len(lines) - 1) / 2 + 4.5
    out = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7" '
        f'fill="{fill}" stroke="{stroke}"/>'
    ]
    for index, text in enumerate(lines):
        css, middle = "name" if index == 0 else "small", x + width / 2
        out.append(
            f'<text class="{css}" x="{middle:.1f}" y="{first + LINE * index:.1f}" '
            f'text-anchor="middle">{html.escape(text)}</text>'
        )
    return "".join(out)


def page(
    title: str, note: str, body: list[str], width: float, height: float, stages: Iterable[str]
) -> str:
    """A whole SVG file: title, note, legend of the stages, drawing."""
    found = set(stages)
    legend, x = [], 0.0
    for stage in (stage for stage in COLOURS if stage in found):
        fill, stroke = COLOURS[stage]
        legend.append(
            f'<rect x="{x:.1f}" y="52" width="13" height="13" rx="3" fill="{fill}" '
            f'stroke="{stroke}"/><text class="legend" x="{x + 19:.1f}" y="63">{stage}</text>'
        )
        x += text_width(stage) + 42
    wide, tall = max(width, x, text_width(note, 12)) + 48, height + 130
    shift = 24 + max(0.0, (wide - 48 - width) / 2)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" '
        f'width="{wide:.0f}" height="{tall:.0f}">'
        f"<title>{title}</title><style>{STYLE}</style>"
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerUnits="userSpaceOnUse" '
        'markerWidth="10" markerHeight="10" orient="auto-start-reverse">'
        '<path class="head" d="M0 0L8 4L0 8z"/></marker></defs>'
        f'<rect class="paper" width="{wide:.0f}" height="{tall:.0f}"/><g transform="translate(24 '
        f'24)"><text class="title" y="14">{title}</text>'
        f'<text class="soft" y="36">{note}</text>{"".join(legend)}</g>'
        f'<g transform="translate({shift:.1f} 106)">{"".join(body)}</g></svg>\n'
    )
