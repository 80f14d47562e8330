"""The full job graph: every job by its wildcards, grouped by rule and depth, arrows between groups
as thick as the jobs they join are many.
"""

from __future__ import annotations

import html
import math
from collections import Counter
from typing import NamedTuple

from husai.report.dag.draw import COLOURS, edge_path, extent, page, stage_of, text_width, tops_of
from husai.report.dag.layout import layer_numbers, layout, transitive_reduction
from husai.report.dag.snakemake_jobs import Graph

CHIP, CHIP_GAP, HEAD, INSIDE = 20.0, 5.0, 26.0, 9.0
"""Pixels: height of a job, room between two, room for a panel's title, and room along its sides."""


class Panel(NamedTuple):
    """A box of jobs: how many columns of chips it has, how wide these are, and its own size."""

    columns: int
    chip: float
    width: float
    height: float


def jobs_svg(graph: Graph) -> str:
    """SVG of all jobs. Hovering over a job shows what it needs and what needs it; implied arrows
    are left out.
    """
    depth = layer_numbers(graph.nodes, graph.edges)
    group = {node: (graph.rule(node), depth[node]) for node in graph.nodes}
    members: dict[tuple, list[str]] = {}
    for node in sorted(graph.nodes, key=lambda n: graph.nodes[n]):
        members.setdefault(group[node], []).append(node)
    joined = Counter((group[a], group[b]) for a, b in graph.edges)
    edges = transitive_reduction(members, joined)
    panels = {key: _panel(graph, key[0], nodes) for key, nodes in members.items()}
    width = {key: panel.width for key, panel in panels.items()}
    height = {key: panel.height for key, panel in panels.items()}
    placed = layout(members, edges, width, gap=30.0)
    tops, total = tops_of(placed, height)
    body = []
    for edge in edges:
        style = f' style="stroke-width:{1.1 + 0.5 * math.log2(joined[edge]):.2f}"'
        body.append(edge_path(placed, edge, tops, height, extra=style))
    for key, nodes in members.items():
        left = placed.x[key] - width[key] / 2
        body.append(_group(graph, key[0], nodes, panels[key], left, tops[key]))
    note = (
        f"{len(graph.nodes)} jobs; a thicker arrow joins more of them; hover over a job for "
        "what it needs and what needs it"
    )
    stages = [stage_of(rule) for rule, _ in members]
    return page("All jobs", note, body, extent(placed, width), total, stages)


def _label(lines: list[str]) -> str:
    return "  ".join(part.split(": ", 1)[-1] for part in lines[1:])


def _panel(graph: Graph, rule: str, nodes: list[str]) -> Panel:
    chip = max(text_width(_label(graph.nodes[n]), 11) for n in nodes) + 14
    many = round(math.sqrt(len(nodes) * (CHIP + CHIP_GAP) * 2.2 / (chip + CHIP_GAP)))
    columns = max(1, min(len(nodes), many))
    title = text_width(f"{rule} ({len(nodes)})") * 1.08
    width = max(columns * (chip + CHIP_GAP) - CHIP_GAP, title) + 2 * INSIDE
    rows = math.ceil(len(nodes) / columns)
    height = HEAD + rows * (CHIP + CHIP_GAP) + INSIDE - CHIP_GAP + 2
    if len(nodes) == 1 and len(graph.nodes[nodes[0]]) == 1:
        height = HEAD + 4
    return Panel(columns, chip, width, height)


def _group(graph: Graph, rule: str, nodes: list[str], panel: Panel, x: float, y: float) -> str:
    fill, stroke = COLOURS[stage_of(rule)]
    title = rule if len(nodes) == 1 else f"{rule} ({len(nodes)})"
    out = [
        f'<g><rect x="{x:.1f}" y="{y:.1f}" width="{panel.width:.1f}" '
        f'height="{panel.height:.1f}" rx="7" fill="{fill}" stroke="{stroke}"/>',
        f'<text class="name" x="{x + INSIDE + 1:.1f}" '
        f'y="{y + 19:.1f}">{html.escape(title)}</text></g>',
    ]
    for index, node in enumerate(nodes):
        label = _label(graph.nodes[node])
        tip = f"<title>{html.escape(_tip(graph, node))}</title>"
        if not label and len(nodes) == 1:
            out[0] = out[0].replace("<g>", f"<g>{tip}", 1)
            continue
        left = x + INSIDE + (index % panel.columns) * (panel.chip + CHIP_GAP)
        top = y + HEAD + (index // panel.columns) * (CHIP + CHIP_GAP)
        out.append(
            f'<g>{tip}<rect class="chip" x="{left:.1f}" y="{top:.1f}" width="{panel.chip:.1f}" '
            f'height="{CHIP}" rx="4"/><text class="small" x="{left + 7:.1f}" '
            f'y="{top + 14:.1f}">{html.escape(label or rule)}</text></g>'
        )
    return "".join(out)


def _tip(graph: Graph, node: str) -> str:
    def names(found: list[str]) -> str:
        texts = [" ".join([graph.rule(n), _label(graph.nodes[n])]).strip() for n in found]
        more = f" and {len(texts) - 12} more" if len(texts) > 12 else ""
        return (", ".join(texts[:12]) + more) or "nothing"

    needs = names([a for a, b in graph.edges if b == node])
    needed = names([b for a, b in graph.edges if a == node])
    return f"{' '.join(graph.nodes[node])}\nneeds: {needs}\nneeded by: {needed}"
