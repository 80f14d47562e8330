"""The gate report: status first, every number quoted, missing parts said, same bytes for the same
evidence, readable offline.
"""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest
import report_tree

from husai.jobs.report import report_job
from husai.provenance import write_json
from husai.report.document import markdown
from husai.report.gates import interval_strip
from husai.report.mirror import behind, mirror
from husai.report.plots import line_plot, summary_figure
from husai.report.quotes import EvidenceFolder, Quote
from husai.report.render import render
from husai.report.sections import build
from husai.shown import escape_markdown


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = report_tree.build_in(tmp_path_factory.mktemp("run"))
    report_tree.finish_in(root)
    return root


def test_the_first_line_is_the_status(finished):
    text = (finished / "reports/gate_report.md").read_text()
    assert text.startswith("# NOT RELEASED: strict gate failed (2 of 5 gates)\n")
    page = (finished / "reports/gate_report.html").read_text()
    assert "<title>NOT RELEASED: strict gate failed (2 of 5 gates)</title>" in page


def test_every_gate_has_one_line_with_value_interval_threshold_verdict_and_reason(finished):
    text = (finished / "reports/gate_report.md").read_text()
    decision = text[text.index("## Decision") : text.index("Every condition")]
    rows = [line for line in decision.split("\n") if line.startswith("| ")][2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "integrity",
        "reproducibility",
        "random_model",
        "ood",
        "saebench",
    ]
    assert (
        "| stability.S lcb | 0.3127 | [0.2541, 0.3713] | lcb >= 0.3 | **FAIL** | = 0.3127 fails "
        ">= 0.3 |" in decision
    )


def test_a_passed_gate_reads_released(tmp_path):
    passing = [{**row, "passed": True} for row in report_tree.STRICT_ROWS]
    report_tree.decision(tmp_path, passing)
    assert render(tmp_path).markdown.startswith("# RELEASED: strict gate passed (5 of 5 gates)\n")


def test_a_changed_policy_never_reads_released(tmp_path):
    passing = [{**row, "passed": True} for row in report_tree.STRICT_ROWS]
    report_tree.decision(tmp_path, passing)
    path = tmp_path / "results/gate/strict/release_policy.json"
    path.write_text(path.read_text().replace(report_tree.PINNED["strict"], "0" * 64))
    assert render(tmp_path).markdown.startswith("# NOT RELEASED: decided by a CHANGED policy")


def test_without_any_evidence_the_report_names_each_missing_file(tmp_path):
    text = render(tmp_path).markdown
    assert text.startswith("# NOT RELEASED: the strict gate has not been evaluated\n")
    for name in (
        "gate/strict/release_policy",
        "gate/cycle3/release_policy",
        "gate/selftest",
        "ablations/summary",
        "external/frontier",
    ):
        assert f"`results/{name}.json` is missing" in text


def test_no_number_stands_in_the_report_that_is_not_quoted_from_the_evidence(finished):
    text, numbers = markdown(build(EvidenceFolder(finished / "reports/evidence")))
    lines = text.split("\n")
    for entry in sorted(numbers, key=lambda e: -len(e["text"])):
        line = lines[entry["line"] - 1]
        lines[entry["line"] - 1] = line.replace(escape_markdown(entry["text"]), "", 1)
    left = re.sub(r"`[^`]*`|cycle3|L0", "", "\n".join(lines))
    assert not re.search(r"\d", left), re.findall(r".*\d.*", left)[:3]


def test_rendering_twice_gives_the_same_bytes(finished):
    first, second = render(finished / "reports/evidence"), render(finished / "reports/evidence")
    assert first == second
    assert first.html == (finished / "reports/gate_report.html").read_text()


def test_the_page_fetches_nothing_and_its_tags_balance(finished):
    page = (finished / "reports/gate_report.html").read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert page.count("<script") == 1 and "@import" not in page and "url(http" not in page
    open_tags, void = [], {"meta", "line", "rect", "circle", "path", "use", "br", "link"}

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in void:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            if tag not in void:
                assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []


def test_ids_in_the_page_are_unique(finished):
    page = (finished / "reports/gate_report.html").read_text()
    parts = page.split("<figure>")
    for part in parts:
        ids = re.findall(r'\bid="([^"]+)"', part)
        assert len(ids) == len(set(ids))


def test_hostile_text_is_shown_and_not_run(tmp_path):
    row = {**report_tree.STRICT_ROWS[2], "reason": "<script>alert(1)</script> | x"}
    report_tree.decision(tmp_path, [row])
    rendered = render(tmp_path)
    assert rendered.html.count("<script") == 1, "the page's own"
    assert "&lt;script&gt;" in rendered.html
    assert r"\<script>alert(1)\</script> \| x" in rendered.markdown


def test_a_figure_needs_points_and_follows_the_page_colours():
    rows = Quote(
        "f", [{"k": k, "S": {"value": k / 100, "lcb": None, "ucb": k / 50}} for k in (4, 16, 64)]
    )
    svg = summary_figure(Quote("f", {"kind": "errorbar", "x": "k", "y": "S"}), rows)
    assert svg.startswith("<svg") and "var(--ink)" in svg and "var(--series-1)" in svg
    assert summary_figure(Quote("f", {"kind": "errorbar", "x": "k", "y": "other"}), rows) is None
    assert summary_figure(Quote("f", {"kind": "pie", "x": "k", "y": "S"}), rows) is None
    assert "topk" in line_plot([], "", "") + summary_figure(
        Quote("f", {"x": "a", "y": "b"}), Quote("f", [{"a": "topk", "b": 1.0}])
    )


def test_the_strip_of_a_gate_needs_a_threshold_and_a_number():
    assert interval_strip(0.2, None, None, 0.3, ">=", False).count("<circle") == 1
    assert interval_strip(None, None, None, 0.3, ">=", False) == ""
    assert interval_strip(0.2, 0.1, 0.3, None, ">=", True) == ""


def test_the_mirror_holds_what_the_decision_rests_on_and_nothing_large(tmp_path):
    root = report_tree.build_in(tmp_path)
    mirror(root / "results", root / "reports")
    evidence = root / "reports/evidence"
    assert (evidence / "results/stress/ood.json").read_bytes() == (
        root / "results/stress/ood.json"
    ).read_bytes()
    assert not list(evidence.rglob("*.safetensors"))
    (root / "results/stress/ood.json").unlink()
    mirror(root / "results", root / "reports")
    assert not (evidence / "results/stress/ood.json").exists()


def test_the_mirror_follows_inputs_to_the_files_behind_them(tmp_path):
    write_json(
        tmp_path / "results/stability/a.json",
        {"inputs": [{"path": "results/saes/manifest.json", "sha256": "0"}]},
    )
    write_json(tmp_path / "results/saes/manifest.json", {"outputs": []})
    write_json(tmp_path / "elsewhere.json", {})
    write_json(
        tmp_path / "results/stress/b.json",
        {"inputs": [{"path": "results/stability/a.json"}, {"path": "../outside.json"}]},
    )
    found = behind([tmp_path / "results/stress/b.json"], tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in found] == [
        "results/saes/manifest.json",
        "results/stability/a.json",
        "results/stress/b.json",
    ]


def test_checksums_are_those_of_sha256sum_and_the_crate_lists_every_file(finished):
    evidence = finished / "reports/evidence"
    if shutil.which("sha256sum"):
        subprocess.run(
            ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=evidence, check=True
        )
    graph = json.loads((evidence / "ro-crate-metadata.json").read_text())["@graph"]
    files = {p.relative_to(evidence).as_posix() for p in evidence.rglob("*") if p.is_file()} - {
        "SHA256SUMS",
        "ro-crate-metadata.json",
    }
    assert files == {e["@id"] for e in graph if e["@type"] == "File"}
    root = next(e for e in graph if e["@id"] == "./")
    assert {part["@id"] for part in root["hasPart"]} == files


def test_the_same_evidence_gives_the_same_mirror(finished, tmp_path):
    shutil.copytree(finished / "results", tmp_path / "results")
    mirror(tmp_path / "results", tmp_path / "reports")
    for name in ("SHA256SUMS", "ro-crate-metadata.json"):
        assert (tmp_path / "reports/evidence" / name).read_bytes() == (
            finished / "reports/evidence" / name
        ).read_bytes()


def test_the_report_job_says_which_folder_is_missing(tmp_path):
    from husai.errors import HusaiError

    with pytest.raises(HusaiError, match="no such folder; run the pipeline first"):
        report_job(tmp_path / "results", tmp_path / "reports")


def test_the_room_imports_no_torch():
    modules = "render, log, dag, doctor, closing, mirror"
    code = (
        f"import sys; from husai.report import {modules}; import husai.jobs.report, "
        "husai.verify.run, husai.verify.decision; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_report_leads_to_the_page_of_passports(tmp_path):
    sae = {"name": "seed7", "living": 40, "certified": 12, "certified_share": 0.3}
    columns = ["name", "living", "certified", "certified_share"]
    foretold = [{"certified_by": "seed7, seed8", "certified": 24, "of_which_hold": 0.96}]
    record = {"saes": [sae], "columns": columns, "prediction": foretold}
    write_json(tmp_path / "results/passport/passport.json", record)
    planted = [{"planted": "private", "campaigns": 4, "false_share": 0.0153}]
    write_json(tmp_path / "results/gate/selftest.json", {"rows": [], "certificates": planted})
    rendered = render(tmp_path)
    assert "| private | 4 | 0.0153 |" in rendered.markdown
    assert "| seed7, seed8 | 24 | 0.96 |" in rendered.markdown
    assert '<a href="passport.html">passport.html</a>' in rendered.html
    assert "| seed7 | 40 | 12 | 0.3 |" in rendered.markdown
