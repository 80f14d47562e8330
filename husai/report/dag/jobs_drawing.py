"""The full job graph: every job by its wildcards, grouped by rule and depth, arrows between groups
as thick as the jobs they join are many.
"""

from __future__ import annotations

import html
import math

from husai.report.dag.draw import COLOURS, edge_path, extent, page, stage_of, text_width, tops_of
from husai.report.dag.layout import layer_numbers, layout, transitive_reduction
from husai.report.dag.snakemake_jobs import Graph

CHIP, CHIP_GAP, HEAD, INSIDE = 20.0, 5.0, 26.0, 9.0


def jobs_svg(graph: Graph) -> str:
    """SVG of all jobs. Hovering over a job shows what it needs and what needs it; implied arrows
    are left out.
    """
    depth = layer_numbers(graph.nodes, graph.edges)
    group = {node: (graph.rule(node), depth[node]) for node in graph.nodes}
    members: dict[tuple, list[str]] = {}
    for node in sorted(graph.nodes, key=lambda n: graph.nodes[n]):
        members.setdefault(group[node], []).append(node)
    joined: dict[tuple, int] = {}
    for a, b in graph.edges:
        joined[(group[a], group[b])] = joined.get((group[a], group[b]), 0) + 1
    edges = transitive_reduction(members, joined)
    grids = {key: _grid(graph, nodes) for key, nodes in members.items()}
    width = {
        key: max(columns * (chip + CHIP_GAP) - CHIP_GAP, _title_width(key, members)) + 2 * INSIDE
        for key, (columns, chip) in grids.items()
    }
    height = {
        key: _height(len(members[key]), grids[key][0], graph.nodes[members[key][0]])
        for key in members
    }
    placed = layout(members, edges, width, gap=30.0)
    tops, total = tops_of(placed, height)
    body = []
    for edge in edges:
        style = f' style="stroke-width:{1.1 + 0.5 * math.log2(joined[edge]):.2f}"'
        body.append(edge_path(placed, edge, tops, height, extra=style))
    for key, nodes in members.items():
        body.append(
            _group(
                graph,
                key,
                nodes,
                grids[key],
                placed.x[key] - width[key] / 2,
                tops[key],
                width[key],
                height[key],
            )
        )
    note = (
        f"{len(graph.nodes)} jobs; a thicker arrow joins more of them; hover over a job for "
        "what it needs and what needs it"
    )
    return page(
        "All jobs", note, body, extent(placed, width), total, [stage_of(key[0]) for key in members]
    )


def _label(lines: list[str]) -> str:
    return "  ".join(part.split(": ", 1)[-1] for part in lines[1:])


def _title_width(key: tuple, members: dict) -> float:
    return text_width(f"{key[0]} ({len(members[key])})") * 1.08


def _grid(graph: Graph, nodes: list[str]) -> tuple[int, float]:
    chip = max(text_width(_label(graph.nodes[n]), 11) for n in nodes) + 14
    columns = max(
        1,
        min(len(nodes), round(math.sqrt(len(nodes) * (CHIP + CHIP_GAP) * 2.2 / (chip + CHIP_GAP)))),
    )
    return columns, chip


def _height(n: int, columns: int, first: list[str]) -> float:
    if n == 1 and len(first) == 1:
        return HEAD + 4
    return HEAD + math.ceil(n / columns) * (CHIP + CHIP_GAP) + INSIDE - CHIP_GAP + 2


def _group(
    graph: Graph,
    key: tuple,
    nodes: list[str],
    grid: tuple[int, float],
    x: float,
    y: float,
    width: float,
    height: float,
) -> str:
    fill, stroke = COLOURS[stage_of(key[0])]
    columns, chip = grid
    title = key[0] if len(nodes) == 1 else f"{key[0]} ({len(nodes)})"
    out = [
        f'<g><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7" '
        f'fill="{fill}" stroke="{stroke}"/>',
        f'<text class="name" x="{x + INSIDE + 1:.1f}" '
        f'y="{y + 19:.1f}">{html.escape(title)}</text></g>',
    ]
    for index, node in enumerate(nodes):
        label = _label(graph.nodes[node])
        tip = f"<title>{html.escape(_tip(graph, node))}</title>"
        if not label and len(nodes) == 1:
            out[0] = out[0].replace("<g>", f"<g>{tip}", 1)
            continue
        left = x + INSIDE + (index % columns) * (chip + CHIP_GAP)
        top = y + HEAD + (index // columns) * (CHIP + CHIP_GAP)
        out.append(
            f'<g>{tip}<rect class="chip" x="{left:.1f}" y="{top:.1f}" width="{chip:.1f}" '
            f'height="{CHIP}" rx="4"/>'
        )
        out.append(
            f'<text class="small" x="{left + 7:.1f}" '
            f'y="{top + 14:.1f}">{html.escape(label or key[0])}</text></g>'
        )
    return "".join(out)


def _tip(graph: Graph, node: str) -> str:
    def names(found: list[str]) -> str:
        texts = [" ".join([graph.rule(n), _label(graph.nodes[n])]).strip() for n in found]
        return (
            ", ".join(texts[:12]) + (f" and {len(texts) - 12} more" if len(texts) > 12 else "")
            or "nothing"
        )

    needs, needed = (
        [a for a, b in graph.edges if b == node],
        [b for a, b in graph.edges if a == node],
    )
    return f"{' '.join(graph.nodes[node])}\nneeds: {names(needs)}\nneeded by: {names(needed)}"
