"""Graphs of the workflow: reading Snakemake's output, layering, and drawings that show every rule
and every job.
"""

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from husai.errors import HusaiError
from husai.report.dag.draw import stage_of
from husai.report.dag.jobs_drawing import jobs_svg
from husai.report.dag.layout import (
    Bend,
    crossings,
    layer_numbers,
    layout,
    reachable,
    successors,
    transitive_reduction,
)
from husai.report.dag.rules_drawing import rule_svg
from husai.report.dag.snakemake_jobs import job_graph, parse_dot, rule_graph, with_wildcards
from husai.report.dag.write import mermaid, rules_mermaid, write_graphs

SNAKEFILE = """
print("noise from the workflow")
rule all:
    input: "gate.json", expand("stability/{r}.json", r=["a", "b"])
rule train:
    output: "saes/{r}.json"
    shell: "touch {output}"
rule stability:
    input: "saes/{r}.json"
    output: "stability/{r}.json"
    shell: "touch {output}"
rule gate:
    input: expand("stability/{r}.json", r=["a", "b"]), "saes/a.json"
    output: "gate.json"
    shell: "touch {output}"
"""
DAGS = st.integers(2, 9).flatmap(
    lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20).map(
        lambda pairs: (list(range(n)), sorted({(min(p), max(p)) for p in pairs if p[0] != p[1]}))
    )
)


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workflow")
    (folder / "Snakefile").write_text(SNAKEFILE)
    return job_graph(snakefile=folder / "Snakefile", options=["--directory", str(folder)])


def test_rules_of_one_purpose_for_other_seeds_are_one():
    text = 'digraph {0[label = "saebench\\nrecipe: a"]; \n1[label = "saebench_3\\nrecipe: b"];'
    found = with_wildcards(parse_dot(text.replace("; ", ";").replace("{", "{\n")))
    assert found.nodes == {"0": ["saebench", "recipe: a"], "1": ["saebench", "recipe: b"]}


def test_every_job_is_read_with_its_wildcards(graph):
    labels = sorted(tuple(lines) for lines in graph.nodes.values())
    assert labels == [
        ("all",),
        ("gate",),
        ("stability", "r: a"),
        ("stability", "r: b"),
        ("train", "r: a"),
        ("train", "r: b"),
    ]
    named = {(" ".join(graph.nodes[a]), " ".join(graph.nodes[b])) for a, b in graph.edges}
    assert (
        ("train r: b", "stability r: b") in named
        and ("train r: a", "gate") in named
        and len(named) == 8
    )


def test_the_rule_graph_counts_jobs(graph):
    rules = rule_graph(graph)
    assert rules.jobs == {"all": 1, "gate": 1, "stability": 2, "train": 2}
    assert rules.back == []


def test_rules_that_need_each_other_in_turn_are_drawn_with_a_back_edge():
    text = (
        'digraph d {\n0[label="train\\nr: a"]\n1[label="select"]\n2[label="train\\nr: '
        'best"]\n3[label="gate"]\n0 -> 1\n1 -> 2\n2 -> 3\n}'
    )
    rules = rule_graph(parse_dot(text))
    assert set(rules.forward) == {("train", "select"), ("train", "gate")}
    assert rules.back == [("select", "train")]
    assert 'class="edge back"' in rule_svg(parse_dot(text))


def test_a_wildcard_shared_with_what_a_job_needs_is_filled_in():
    text = (
        'digraph d {\n0[label="a\\nr: x"]\n1[label="b"]\n2[label="a\\nr: '
        'y"]\n3[label="b"]\n4[label="end"]\n0 -> 1\n2 -> 3\n1 -> 4\n3 -> 4\n}'
    )
    assert with_wildcards(parse_dot(text)).nodes == {
        "0": ["a", "r: x"],
        "1": ["b", "r: x"],
        "2": ["a", "r: y"],
        "3": ["b", "r: y"],
        "4": ["end"],
    }


def test_drawings_are_well_formed_and_name_everything(graph):
    for text, expected in (
        (rule_svg(graph), ["train", "2 jobs", "gate"]),
        (jobs_svg(graph), ["train (2)", "stability (2)", "a", "b"]),
    ):
        root = ET.fromstring(text)
        shown = {e.text for e in root.iter("{http://www.w3.org/2000/svg}text")}
        assert set(expected) <= shown


def test_boxes_do_not_overlap(graph):
    rects = [
        r
        for r in ET.fromstring(rule_svg(graph)).iter("{http://www.w3.org/2000/svg}rect")
        if r.get("rx") == "7"
    ]
    boxes = [tuple(float(r.get(k)) for k in ("x", "y", "width", "height")) for r in rects]
    for i, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[i + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_mermaid_text_has_a_line_per_rule_and_arrow(graph):
    assert rules_mermaid(graph).count(" --> ") == 3
    assert mermaid(graph).count(" --> ") == 8
    assert mermaid(graph).startswith("flowchart TB")


def test_files_are_written_where_asked_and_a_wrong_format_is_an_error(graph, tmp_path, monkeypatch):
    monkeypatch.setattr("husai.report.dag.write.job_graph", lambda *_: graph)
    assert [p.name for p in write_graphs(tmp_path)] == ["dag.svg", "dag_jobs.svg"]
    assert [p.name for p in write_graphs(tmp_path, "mermaid")] == ["dag.mmd", "dag_jobs.mmd"]
    with pytest.raises(HusaiError, match="'png' is not svg or mermaid"):
        write_graphs(tmp_path, "png")


def test_a_workflow_that_cannot_be_read_is_one_line(tmp_path):
    (tmp_path / "Snakefile").write_text("rule all:\n    input: 'nobody makes this'\n")
    with pytest.raises(HusaiError, match=r"^snakemake --dag failed: [^\n]+$"):
        job_graph(snakefile=tmp_path / "Snakefile", options=["--directory", str(tmp_path)])


@given(DAGS)
def test_reduction_keeps_reachability_and_has_no_implied_edge(dag):
    nodes, edges = dag
    reduced = transitive_reduction(nodes, edges)
    assert reachable(successors(nodes, reduced)) == reachable(successors(nodes, edges))
    for edge in reduced:
        others = [e for e in reduced if e != edge]
        assert edge[1] not in reachable(successors(nodes, others))[edge[0]]


@given(DAGS)
def test_layers_go_down_along_edges_and_items_keep_their_distance(dag):
    nodes, edges = dag
    number = layer_numbers(nodes, edges)
    assert all(number[a] < number[b] for a, b in edges)
    width = {n: 20.0 + 7 * n for n in nodes}
    placed = layout(nodes, edges, width, gap=10.0)
    size = {item: 8.0 if isinstance(item, Bend) else width[item] for item in placed.x}
    for layer in placed.layers:
        for left, right in itertools.pairwise(layer):
            assert placed.x[right] - placed.x[left] >= (size[left] + size[right]) / 2 + 10.0 - 1e-6


def test_a_crossing_that_can_be_undone_is_undone():
    nodes, edges = ["a", "b", "c", "d"], [("a", "d"), ("b", "c")]
    placed = layout(nodes, edges, dict.fromkeys(nodes, 10.0))
    below = {"a": ["d"], "b": ["c"], "c": [], "d": []}
    assert crossings([["a", "b"], ["c", "d"]], below) == 1
    assert crossings(placed.layers, below) == 0


@pytest.mark.parametrize(
    ("rule", "stage"),
    [
        ("confirm_train", "selection"),
        ("gate_selftest", "gate"),
        ("train", "SAEs"),
        ("random_model", "stress"),
        ("odd", "report"),
    ],
)
def test_rules_have_the_colour_of_their_stage(rule, stage):
    assert stage_of(rule) == stage


def test_no_graphviz_is_called():
    code = (
        "import sys; import husai.report.dag.write; sys.exit(any('graphviz' "
        "in m or 'pydot' in m for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
