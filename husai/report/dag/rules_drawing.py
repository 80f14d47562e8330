"""The rule graph: one box per rule with its number of jobs."""

from __future__ import annotations

from husai.report.dag.draw import (
    LINE,
    PAD,
    box,
    edge_path,
    extent,
    page,
    stage_of,
    text_width,
    tops_of,
)
from husai.report.dag.layout import layout, transitive_reduction
from husai.report.dag.snakemake_jobs import Graph, rule_graph


def rule_svg(graph: Graph) -> str:
    """The rule graph as SVG: one box per rule with its number of jobs, coloured by stage; implied
    edges left out.
    """
    rules = rule_graph(graph)
    lines = {rule: [rule, f"{n} jobs"] if n > 1 else [rule] for rule, n in rules.jobs.items()}
    width = {rule: max(text_width(part) for part in text) + 2 * PAD for rule, text in lines.items()}
    height = {rule: 16 + LINE * len(text) for rule, text in lines.items()}
    forward = transitive_reduction(rules.jobs, rules.forward)
    turned = [(b, a) for a, b in rules.back]
    placed = layout(rules.jobs, [*forward, *(e for e in turned if e not in set(forward))], width)
    tops, total = tops_of(placed, height)
    body = [edge_path(placed, edge, tops, height) for edge in forward]
    body += [edge_path(placed, edge, tops, height, "edge back", 14.0) for edge in turned]
    body += [
        box(placed.x[r] - width[r] / 2, tops[r], width[r], height[r], stage_of(r), text)
        for r, text in lines.items()
    ]
    note = "an arrow means: is needed by; what other arrows imply is left out"
    note += "; dashed: by later jobs of that rule" if turned else ""
    stages = [stage_of(r) for r in rules.jobs]
    return page("Rules of the workflow", note, body, extent(placed, width), total, stages)
