"""The jobs of the workflow and what they need, read from Snakemake's own ``--dag dot`` output; no
graphviz.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

from husai.errors import HusaiError
from husai.report.dag.layout import layer_numbers, reachable, successors

NODE = re.compile(r'^\s*(\d+)\s*\[\s*label\s*=\s*"((?:[^"\\]|\\.)*)"')
MOST_SECONDS = 300
"""Planning takes seconds; what takes minutes hangs."""
LINK = re.compile(r"^\s*(\d+)\s*->\s*(\d+)")


class Graph(NamedTuple):
    """Jobs ``{id: label lines}`` (the rule first, then one line per wildcard) and edges from what
    is made first to what needs it.
    """

    nodes: dict[str, list[str]]
    edges: list[tuple[str, str]]

    def rule(self, node: str) -> str:
        """Rule of a node."""
        return self.nodes[node][0]


class RuleGraph(NamedTuple):
    """Rules with their numbers of jobs, and edges: ``forward`` ones, and ``back`` ones that lead to
    later jobs of an earlier rule.
    """

    jobs: dict[str, int]
    forward: list[tuple[str, str]]
    back: list[tuple[str, str]]


def job_graph(
    targets: Sequence[str] = (), snakefile: str | Path | None = None, options: Sequence[str] = ()
) -> Graph:
    """Ask Snakemake for the graph of all jobs, finished ones too.

    Raises
    ------
    HusaiError
        When Snakemake cannot build the graph; its last line is quoted.
    """
    where = ["--snakefile", str(snakefile)] if snakefile else []
    command = [sys.executable, "-m", "snakemake", *targets, *where, "--cores", "1", "--forceall"]
    command += ["--nolock", *options, "--dag", "dot"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        raise HusaiError(f"snakemake --dag took longer than {MOST_SECONDS} s") from None
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise HusaiError(
            f"snakemake --dag failed: {said[-1].strip() if said else 'it said nothing'}; try "
            "snakemake -n"
        )
    return with_wildcards(parse_dot(done.stdout))


def parse_dot(text: str) -> Graph:
    """Read Snakemake's ``dot`` output (whatever the workflow itself prints around it is skipped).
    Rules of one purpose for other seeds (``saebench_1``) are one.

    Raises
    ------
    HusaiError
        The text holds no graph.
    """
    start = text.find("digraph")
    if start < 0:
        raise HusaiError("snakemake printed no graph; try snakemake -n")
    nodes: dict[str, list[str]] = {}
    edges = []
    for line in text[start:].splitlines():
        node, link = NODE.match(line), LINK.match(line)
        if node:
            label = node.group(2).replace('\\"', '"')
            rule, *rest = [part.strip() for part in re.split(r"\\n|\n", label) if part.strip()]
            nodes[node.group(1)] = [re.sub(r"_\d+$", "", rule), *rest]
        elif link:
            edges.append((link.group(1), link.group(2)))
    return Graph(nodes, [e for e in dict.fromkeys(edges) if e[0] in nodes and e[1] in nodes])


def with_wildcards(graph: Graph) -> Graph:
    """The graph with the wildcards that Snakemake leaves out of a label because a job it needs has
    them too.

    A value all needed jobs agree on is taken over. Where they differ (a null that many jobs share
    beside the job's own recipe), it is the one value that no other job of the rule is offered, else
    the one that begins all the others."""
    before = successors(graph.nodes, ((b, a) for a, b in graph.edges))
    order = list(TopologicalSorter(before).static_order())
    own = {
        node: dict(part.split(": ", 1) for part in label[1:] if ": " in part)
        for node, label in graph.nodes.items()
    }
    known, offers = own, {}
    for _ in range(3):
        known, offers = _inherit(graph, before, order, own, offers)
    varied: dict[tuple[str, str], set[str]] = defaultdict(set)
    for node, found in known.items():
        for name, value in found.items():
            varied[graph.rule(node), name].add(value)
    labels = {}
    for node, label in graph.nodes.items():
        rule = graph.rule(node)
        shown = {n: v for n, v in known[node].items() if n in own[node] or len(varied[rule, n]) > 1}
        labels[node] = [label[0], *(f"{n}: {v}" for n, v in sorted(shown.items()))]
    return Graph(labels, graph.edges)


def _inherit(
    graph: Graph, before: dict, order: list[str], own: dict, offers: dict
) -> tuple[dict, dict]:
    known: dict[str, dict[str, str]] = {}
    counts: Counter = Counter()
    for node in order:
        values: dict[str, set[str]] = defaultdict(set)
        for needed in before[node]:
            for name, value in known[needed].items():
                values[name].add(value)
        chosen = {}
        for name, found in values.items():
            counts.update((graph.rule(node), name, value) for value in found)
            rare = [v for v in found if offers.get((graph.rule(node), name, v), 1) == 1]
            first = [v for v in found if all(other.startswith(v) for other in found)]
            best = rare if len(rare) == 1 else first
            chosen |= {name: best[0]} if best else {}
        known[node] = {**chosen, **own[node]}
    return known, counts


def rule_graph(graph: Graph) -> RuleGraph:
    """Rules behind the jobs. Where rules need each other in turn, edges against the order of their
    first jobs are ``back`` edges.
    """
    depth = layer_numbers(graph.nodes, graph.edges, pull_down=False)
    jobs = Counter(map(graph.rule, graph.nodes))
    first: dict[str, int] = {}
    for node in graph.nodes:
        rule = graph.rule(node)
        first[rule] = min(first.get(rule, depth[node]), depth[node])
    joined = dict.fromkeys((graph.rule(a), graph.rule(b)) for a, b in graph.edges)
    edges = [(a, b) for a, b in joined if a != b]
    reach = reachable(successors(jobs, edges))
    back = [(a, b) for a, b in edges if a in reach[b] and (first[a], a) > (first[b], b)]
    return RuleGraph(jobs, [e for e in edges if e not in set(back)], back)
