"""Verification of a finished run: clean when untouched, every changed byte named, everything
derived again from the evidence.
"""

import json
import random
import re
import shutil

import pytest
import report_tree

from husai.errors import HusaiError
from husai.jobs.verify import verify_job
from husai.provenance import hash_json, sha256_file, write_json
from husai.report.mirror import SUMS
from husai.verify.checksums import artifacts, read_index, serialise, write_index
from husai.verify.run import verify


def flip(path, position, mask=1):
    """Change one byte."""
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def named(found):
    """Files that the mismatches name."""
    return {line.split(": ")[0] for line in found.mismatches}


def test_an_untouched_run_verifies(original, capsys):
    found = verify(original)
    assert found.mismatches == []
    assert found.counts["numbers derived again"] > 100
    verify_job(original)
    assert "no mismatch" in capsys.readouterr().out


def test_a_moved_run_verifies(run):
    assert verify(run).mismatches == []


def test_two_hundred_random_flips_are_all_found_and_named(original, tmp_path, monkeypatch):
    """The index check alone names each file; the slower derivations are left out to keep 200 runs
    short.
    """
    for slow in ("check_report", "check_decisions", "check_versions"):
        monkeypatch.setattr(f"husai.verify.run.{slow}", lambda *_: None)
    root = tmp_path / "run"
    shutil.copytree(original, root)
    files = [p for p in [*artifacts(root), root / "reports/checksums.json"] if p.stat().st_size]
    chosen = random.Random(0)
    for _ in range(200):
        path = chosen.choice(files)
        before = path.read_bytes()
        flip(path, chosen.randrange(len(before)), 1 << chosen.randrange(8))
        name = path.relative_to(root).as_posix()
        assert any(name in line for line in verify(root).mismatches), name
        path.write_bytes(before)


@pytest.mark.parametrize(
    "kind",
    [
        "*.parquet",
        "*.safetensors",
        "manifest.json",
        "gate_report.html",
        "numbers.json",
        "checksums.json",
        SUMS,
    ],
)
def test_a_flip_in_any_kind_of_artifact_is_named_by_the_whole_check(run, kind):
    path = sorted(run.rglob(kind))[-1]
    flip(path, path.stat().st_size // 2)
    with pytest.raises(HusaiError, match="mismatch"):
        verify_job(run)
    assert any(path.relative_to(run).as_posix() in line for line in verify(run).mismatches)


def test_a_deleted_artifact_is_named(run):
    (run / "results/stress/ood.json").unlink()
    assert (
        "results/stress/ood.json: missing; it was there when the run ended"
        in verify(run).mismatches
    )


def test_a_changed_input_names_the_job_to_rerun(run):
    path = run / "results/saes/language/topk-d512-k16/seed1/sae_weights.safetensors"
    flip(path, 0)
    found = verify(run)
    assert any(
        line.endswith(
            "differs from what results/stress/ood.json read; rerun results/stress/ood.json"
        )
        for line in found.mismatches
    )
    assert any(
        "differs from what results/saes/language/topk-d512-k16/manifest.json wrote" in line
        for line in found.mismatches
    )


def test_the_reports_folder_is_enough_for_a_third_party(original, tmp_path):
    shutil.copytree(original / "reports", tmp_path / "reports")
    for root in (tmp_path, tmp_path / "reports"):
        found = verify(root)
        assert found.mismatches == []
        assert any("artifacts of the run were not hashed again" in note for note in found.notes)
    report_tree.tamper(tmp_path / "reports/evidence/results/stress/ood.json", "kind", "other")
    assert named(verify(tmp_path)) >= {
        "reports/evidence/results/stress/ood.json",
        "reports/gate_report.md",
    }


def forge(run, path):
    """Write index and checksums again, as someone who hides a change would."""
    evidence = run / "reports/evidence"
    sums = [line.split("  ")[1] for line in (evidence / SUMS).read_text().splitlines()]
    (evidence / SUMS).write_text("".join(f"{sha256_file(evidence / n)}  {n}\n" for n in sums))
    write_index(run)
    return verify(run)


def test_a_report_edited_together_with_all_checksums_still_disagrees_with_the_evidence(run):
    path = run / "reports/gate_report.md"
    path.write_text(path.read_text().replace("0.1215", "0.9215"))
    found = forge(run, path)
    assert named(found) >= {"reports/gate_report.md"}
    assert any(
        re.search(r"'0.1215' is not how results/gate/strict/release_policy.json#/rows/\d+/", line)
        for line in found.mismatches
    )


@pytest.mark.parametrize("where", ["table", "tick label", "mark"])
def test_an_edited_html_report_still_disagrees_with_the_evidence(run, where):
    path = run / "reports/gate_report.html"
    text = path.read_text()
    start = text.index("<svg style=") if where != "table" else 0
    head, rest = text[:start], text[start:]
    pattern = {
        "table": r"0\.1215",
        "tick label": r"(?<=>)\d[.\d]*(?=</text>)",
        "mark": r"(?<=M )\d+\.\d+",
    }[where]
    found = re.search(pattern, rest)
    assert found, "the report of this tree has one"
    path.write_text(head + rest[: found.start()] + "0.9127" + rest[found.end() :])
    problem = (
        "reports/gate_report.html: "
        + ("" if where == "table" else "figure 1 ")
        + "is not what the evidence gives"
    )
    assert [line for line in forge(run, path).mismatches if "evidence gives" in line] == [problem]


def test_figures_of_another_matplotlib_are_compared_by_their_words(run):
    report_tree.tamper(run / "reports/manifest.json", "versions", {"matplotlib": "0.1"})
    path = run / "reports/gate_report.html"
    path.write_text(re.sub(r"(?<=M )\d+\.\d+", "17", path.read_text()))
    found = forge(run, path)
    assert not any("evidence gives" in line for line in found.mismatches) and any(
        "drawn by another matplotlib" in note for note in found.notes
    )


def test_an_edited_experiment_log_still_disagrees_with_the_record_of_runs(run):
    path = run / "reports/experiment_log.md"
    assert "profiles/local" in path.read_text()
    path.write_text(path.read_text().replace("profiles/local", "profiles/lokal"))
    assert any(
        re.match(r"reports/experiment_log.md: line \d+ is not what runs.jsonl gives", m)
        for m in forge(run, path).mismatches
    )


def test_numbers_edited_together_with_all_checksums_still_disagree_with_the_evidence(run):
    path = run / "reports/numbers.json"
    numbers = json.loads(path.read_text())
    entry = next(e for e in numbers["numbers"] if e["text"] == "0.1215")
    entry["value"] = 0.9
    write_json(path, numbers)
    found = forge(run, path)
    assert any(
        re.match(r"reports/gate_report.md: line \d+: '0.1215' is not results/", line)
        for line in found.mismatches
    )


def test_a_manifest_must_hash_its_own_config(run):
    path = run / "results/ablations/manifest.json"
    report_tree.tamper(path, "config", {"stage": "other"})
    assert (
        "results/ablations/manifest.json: its config_hash is not the hash of its config"
        in forge(run, path).mismatches
    )


def test_mixed_code_and_recipes_are_listed_with_what_to_rerun(run):
    report_tree.tamper(run / "results/ablations/manifest.json", "code_hash", "feedfacefeedface")
    report_tree.tamper(run / "results/stress/ood.json", "recipe_hash", "f" * 16)
    notes = verify(run).notes
    assert any(
        n.startswith("mixed code versions") and n.endswith("rerun results/ablations/manifest.json")
        for n in notes
    )
    assert any(
        n.startswith("mixed config hashes of language/topk-d512-k16")
        and n.endswith("rerun results/stress/ood.json")
        for n in notes
    )


def test_files_added_later_are_notes_and_a_growing_ledger_is_no_mismatch(run):
    (run / "results/stress/new.md").write_text("later")
    with open(run / "results/runs.jsonl", "a") as ledger:
        ledger.write(
            json.dumps(
                {"event": "start", "previous": _hash_of_last(run), "run_id": "x", "time": "2030"},
                sort_keys=True,
                separators=(",", ":"),
            )
            + "\n"
        )
    found = verify(run)
    assert found.mismatches == []
    assert any(
        note.startswith("results/stress/new.md: written after the last run ended")
        for note in found.notes
    )


def _hash_of_last(run):
    import hashlib

    return hashlib.sha256((run / "results/runs.jsonl").read_bytes().splitlines()[-1]).hexdigest()


def test_a_rewritten_line_of_the_run_record_breaks_its_chain(run):
    path = run / "results/runs.jsonl"
    path.write_text(path.read_text().replace("profiles/local", "profiles/lokal"))
    write_index(run)
    assert any("results/runs.jsonl: line 2 was changed" in line for line in verify(run).mismatches)


def test_the_index_covers_itself():
    text = serialise({"a": {"sha256": "0" * 64, "bytes": 1}})
    assert json.loads(text)["sha256_of_files"] == hash_json({"a": {"sha256": "0" * 64, "bytes": 1}})


@pytest.mark.parametrize("position", [0, 1, 2, 30, -2, -1])
def test_a_changed_index_is_refused(tmp_path, position):
    path = tmp_path / "checksums.json"
    path.write_text(serialise({"a": {"sha256": "0" * 64, "bytes": 1}}))
    read_index(path)
    flip(path, position)
    with pytest.raises(HusaiError, match="changed after it was written"):
        read_index(path)


def test_a_large_artifact_hashed_by_its_manifest_is_not_read_twice(tmp_path):
    from husai.provenance import job

    big = tmp_path / "results/store/rows.bin"
    big.parent.mkdir(parents=True)
    big.write_bytes(b"x" * 2**20)
    with job(big.parent / "manifest.json") as work:
        work.writes(big)
    big.chmod(0o000)
    (tmp_path / "reports").mkdir()
    assert read_index(write_index(tmp_path))["results/store/rows.bin"] == {
        "sha256": work_hash(big),
        "bytes": 2**20,
    }


def work_hash(path):
    """The hash that the manifest beside a file gives it."""
    return json.loads((path.parent / "manifest.json").read_text())["outputs"][0]["sha256"]


def test_an_empty_folder_is_an_error_that_says_what_was_expected(tmp_path):
    with pytest.raises(HusaiError, match="neither results/ nor a report here"):
        verify(tmp_path)
