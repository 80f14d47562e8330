"""``husai dag``: the rule graph and the full job graph as SVG or Mermaid text, from Snakemake's own
output, without graphviz.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from husai.errors import HusaiError
from husai.provenance import write_text
from husai.report.dag.draw import COLOURS, stage_of
from husai.report.dag.jobs_drawing import jobs_svg
from husai.report.dag.layout import transitive_reduction
from husai.report.dag.rules_drawing import rule_svg
from husai.report.dag.snakemake_jobs import Graph, job_graph, rule_graph


def mermaid(graph: Graph) -> str:
    """The graph as a Mermaid flow chart, coloured by stage."""
    lines = ["flowchart TB"]
    for node, label in graph.nodes.items():
        text = "<br/>".join(html.escape(part, quote=True) for part in label)
        lines.append(f'  n{node}["{text}"]:::{stage_of(label[0])}')
    lines += [f"  n{a} --> n{b}" for a, b in graph.edges]
    lines += [
        f"  classDef {stage} fill:{fill},stroke:{stroke},color:#16191d"
        for stage, (fill, stroke) in COLOURS.items()
    ]
    return "\n".join(lines) + "\n"


def rules_mermaid(graph: Graph) -> str:
    """The rule graph as a Mermaid flow chart."""
    rules = rule_graph(graph)
    labels = {rule: [rule, f"{n} jobs"] if n > 1 else [rule] for rule, n in rules.jobs.items()}
    return mermaid(Graph(labels, [*transitive_reduction(labels, rules.forward), *rules.back]))


def write_graphs(
    out_dir: str | Path,
    form: str = "svg",
    targets: Sequence[str] = (),
    snakefile: str | Path | None = None,
    options: Sequence[str] = (),
) -> list[Path]:
    """Write rule graph and full job graph: ``dag.svg`` and ``dag_jobs.svg``, or ``dag.mmd`` and
    ``dag_jobs.mmd``.

    Raises
    ------
    HusaiError
        ``form`` is neither svg nor mermaid, or Snakemake cannot build the graph.
    """
    if form not in ("svg", "mermaid"):
        raise HusaiError(f"--format '{form}' is not svg or mermaid")
    jobs = job_graph(targets, snakefile, options)
    if form == "svg":
        texts = {"dag.svg": rule_svg(jobs), "dag_jobs.svg": jobs_svg(jobs)}
    else:
        texts = {"dag.mmd": rules_mermaid(jobs), "dag_jobs.mmd": mermaid(jobs)}
    for name, text in texts.items():
        write_text(Path(out_dir) / name, text)
    return [Path(out_dir) / name for name in texts]
