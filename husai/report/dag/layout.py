"""Layered drawing of a directed acyclic graph: layers by longest path, order by barycentres, long
edges through bends.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from graphlib import TopologicalSorter
from typing import NamedTuple

Node = Hashable
Edge = tuple[Node, Node]
BEND_WIDTH = 8.0
"""Pixels that an edge takes where it passes between the boxes of a layer."""
SWEEPS, ROUNDS = 24, 60
"""How often the order in the layers, and the places, are bettered: each stops changing long
before."""


class Bend(NamedTuple):
    """A point where an edge crosses a layer it does not end in."""

    edge: Edge
    layer: int


class Layout(NamedTuple):
    """``layers`` of nodes and bends from the sources down, in drawing order; ``x`` is the centre of
    each; ``chains`` each edge's stops.
    """

    layers: list[list]
    x: dict
    chains: dict[Edge, list]


def successors(nodes: Iterable[Node], edges: Iterable[Edge]) -> dict[Node, set]:
    """Adjacency sets, every node present."""
    out: dict[Node, set] = {n: set() for n in nodes}
    for a, b in edges:
        out[a].add(b)
    return out


def reachable(after: Mapping[Node, set]) -> dict[Node, set]:
    """Every node that a path of at least one edge leads to; cycles are allowed."""
    reach = {}
    for start in after:
        seen: set = set()
        waiting = list(after[start])
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += after[node]
        reach[start] = seen
    return reach


def transitive_reduction(nodes: Iterable[Node], edges: Iterable[Edge]) -> list[Edge]:
    """Edges of an acyclic graph that no longer path implies (Aho, Garey & Ullman 1972), in their
    given order.
    """
    edges = list(dict.fromkeys(edges))
    after = successors(nodes, edges)
    reach = reachable(after)
    return [(a, b) for a, b in edges if not any(b in reach[c] for c in after[a] if c != b)]


def layer_numbers(
    nodes: Iterable[Node], edges: Iterable[Edge], pull_down: bool = True
) -> dict[Node, int]:
    """Longest path from a source; with ``pull_down`` sources stand just above what first needs
    them. ValueError on a cycle.
    """
    edges = list(edges)
    after = successors(nodes, edges)
    before = successors(after, ((b, a) for a, b in edges))
    number: dict[Node, int] = {}
    order = list(TopologicalSorter(before).static_order())
    for node in order:
        number[node] = max((number[a] + 1 for a in before[node]), default=0)
    for node in reversed(order):
        if pull_down and not before[node] and after[node]:
            number[node] = min(number[b] for b in after[node]) - 1
    return number


def layout(
    nodes: Iterable[Node], edges: Iterable[Edge], width: Mapping[Node, float], gap: float = 24.0
) -> Layout:
    """Place a graph (Sugiyama, Tagawa & Toda 1981): few crossings, edges as straight as the widths
    allow.
    """
    nodes, edges = list(nodes), list(edges)
    number = layer_numbers(nodes, edges)
    layers: list[list] = [[] for _ in range(max(number.values(), default=0) + 1)]
    for node in nodes:
        layers[number[node]].append(node)
    chains: dict[Edge, list] = {}
    below: dict = defaultdict(list)
    above: dict = defaultdict(list)
    for a, b in edges:
        bends = [Bend((a, b), layer) for layer in range(number[a] + 1, number[b])]
        for bend in bends:
            layers[bend.layer].append(bend)
        chains[(a, b)] = [a, *bends, b]
        for upper, lower in itertools.pairwise(chains[(a, b)]):
            below[upper].append(lower)
            above[lower].append(upper)
    _order(layers, above, below)
    sizes = {item: width.get(item, BEND_WIDTH) for layer in layers for item in layer}
    return Layout(layers, _place(layers, above, below, sizes, gap), chains)


def crossings(layers: list[list], below: Mapping) -> int:
    """Number of edge crossings between neighbouring layers."""
    total = 0
    for upper, lower in itertools.pairwise(layers):
        rank = {item: i for i, item in enumerate(lower)}
        ends = [rank[b] for a in upper for b in sorted(below[a], key=rank.__getitem__)]
        total += sum(ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends)))
    return total


def _order(layers: list[list], above: Mapping, below: Mapping) -> None:
    best, fewest = [list(layer) for layer in layers], crossings(layers, below)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        neighbours = above if down else below
        for index in range(1, len(layers)) if down else range(len(layers) - 2, -1, -1):
            fixed = {item: i for i, item in enumerate(layers[index - 1 if down else index + 1])}
            here = {item: i for i, item in enumerate(layers[index])}
            layers[index].sort(
                key=lambda item, fixed=fixed, here=here: (
                    _mean([fixed[n] for n in neighbours[item]], here[item]),
                    here[item],
                )
            )
        now = crossings(layers, below)
        if now < fewest:
            best, fewest = [list(layer) for layer in layers], now
        if not fewest:
            break
    layers[:] = best


def _mean(values: list[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _place(layers: list[list], above: Mapping, below: Mapping, size: Mapping, gap: float) -> dict:
    x: dict = {}
    for layer in layers:
        edge = 0.0
        for item in layer:
            x[item] = edge + size[item] / 2
            edge += size[item] + gap
        for item in layer:
            x[item] -= (edge - gap) / 2
    for turn in range(ROUNDS):
        for layer in layers if turn % 2 == 0 else reversed(layers):
            wish = {item: _wish(item, x, above, below) for item in layer}
            _spread(layer, wish, x, size, gap)
    left = min(x[item] - size[item] / 2 for item in x) if x else 0.0
    return {item: value - left for item, value in x.items()}


def _wish(item: Node, x: Mapping, above: Mapping, below: Mapping) -> float:
    """The mean of the neighbours; a bend follows other bends most, so that long edges are
    straight."""
    near = [*above[item], *below[item]]
    bends = [n for n in near if isinstance(item, Bend) and isinstance(n, Bend)]
    return _mean([x[n] for n in near + 3 * bends], x[item])


def _spread(layer: list, wish: Mapping, x: dict, size: Mapping, gap: float) -> None:
    """Move the items of a layer towards their wishes, keeping order and gaps: pooled neighbours
    share their mean displacement.
    """
    blocks: list[tuple[list, float]] = []
    offset, offsets = 0.0, {}
    for item in layer:
        offset += size[item] / 2
        offsets[item] = offset
        offset += size[item] / 2 + gap
        block, shift = [item], wish[item] - offsets[item]
        while blocks and blocks[-1][1] >= shift:
            other, _ = blocks.pop()
            block = other + block
            shift = _mean([wish[i] - offsets[i] for i in block], 0.0)
        blocks.append((block, shift))
    for block, shift in blocks:
        for item in block:
            x[item] = offsets[item] + shift
