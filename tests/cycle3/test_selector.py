"""The original's selector: its numbers to the last bit, and its rules one by one."""

import json
import math
import statistics
from pathlib import Path

import pytest
from gate_records import frontier_record, write

from husai.cycle3.candidates import load_candidates
from husai.cycle3.selector import select_cycle3
from husai.errors import HusaiError
from husai.jobs.gate import gate_job
from husai.jobs.select import select_job

EVIDENCE = Path(__file__).parents[3] / "shared" / "evidence" / "cycle3_queue_final"


def pool(tmp_path, *records, config=None, **sources):
    path = write(tmp_path / "frontier.json", {"records": list(records), "config": config or {}})
    return load_candidates([path], **sources)


def condition(name, saebench, cebench, ev=0.8, seeds=(1, 2, 3), **extra):
    return [
        frontier_record(
            name, s, saebench[i % len(saebench)], cebench[i % len(cebench)], ev, **extra
        )
        for i, s in enumerate(seeds)
    ]


@pytest.mark.skipif(
    not EVIDENCE.is_dir(), reason="the original's evidence is not beside this checkout"
)
def test_known_selection(tmp_path):
    """method.md section 3, Selection [KAT], bit-exact."""
    files = {
        "frontier_results": [next(EVIDENCE.glob("frontier*.json"))],
        "scaling_results": [next(EVIDENCE.glob("scaling*.json"))],
    }
    seed = select_job("cycle3", output_dir=tmp_path / "seed", seed_level=True, **files)
    assert (seed.selected.name, seed.selected.score) == ("topk_seed123", 0.7356815833597771)
    select_job("cycle3", output_dir=tmp_path / "grouped", **files)
    chosen = json.loads((tmp_path / "grouped/selected_candidate.json").read_text())
    assert (chosen["condition"], chosen["score"]) == ("topk", 0.7201922712084989)
    assert (
        chosen["counts"]["groups"] == 12
        and chosen["counts"]["pareto_count"] == 6
        and len(chosen["pareto"]) == 6
    )
    assert chosen["metrics"]["saebench_delta_ci95_low"] == -0.04478959689939781
    assert chosen["metrics"]["cebench_interp_delta_vs_baseline_ci95_low"] == -40.467037470119465
    assert chosen["seed"] == 123 and chosen["seed_count"] == 5


def test_rules_of_the_grouped_selector(tmp_path):
    a = condition("a", [0.1, 0.2, 0.3], [-1.0, -2.0, -3.0], 0.5)
    b = condition("b", [0.0, 0.0, 0.0], [-5.0, -5.0, -5.0], 0.9)
    two = condition("c", [9.0], [9.0], seeds=(1, 2))
    selection = select_cycle3(pool(tmp_path, *a, *b, *two))
    assert [e.name for e in selection.ordered] == ["a", "b"]
    low = 0.2 - 1.96 * statistics.stdev([0.1, 0.2, 0.3]) / math.sqrt(3)
    winner = selection.selected
    assert (
        winner.metrics["saebench_delta"]
        == winner.metrics["saebench_delta_ci95_low"]
        == pytest.approx(low, abs=1e-15)
    )
    assert (
        winner.metrics["saebench_delta_mean"] == pytest.approx(0.2)
        and winner.metrics["saebench_delta_n"] == 3
    )
    assert winner.score == 1.0 and selection.ordered[1].score == pytest.approx(0.1)
    assert winner.is_pareto and not selection.ordered[1].is_pareto
    assert select_cycle3(pool(tmp_path, *a, *b, *two), min_seeds=2).selected.name == "c"


def test_a_constant_column_counts_a_half_and_zero_is_a_value(tmp_path):
    selection = select_cycle3(
        pool(tmp_path, *condition("a", [0.0], [0.0], 0.3), *condition("b", [0.0], [0.0], 0.3))
    )
    assert [e.score for e in selection.ordered] == [0.55, 0.55] and selection.selected.name == "a"
    assert all(e.is_pareto for e in selection.ordered)
    seeds = select_cycle3(
        pool(tmp_path, frontier_record("a", 1, 0.0, -1.0), frontier_record("b", 1, -0.1, -1.0)),
        seed_level=True,
    )
    assert seeds.selected.name == "a_seed1" and seeds.selected.metrics["saebench_delta"] == 0.0


def test_pareto_outranks_score(tmp_path):
    records = [
        frontier_record("x", 1, 1.0, 0.0, 0.0),
        frontier_record("y", 1, 0.0, 1.0, 0.0),
        frontier_record("z", 1, 0.99, -0.01, 1.0),
    ]
    selection = select_cycle3(pool(tmp_path, *records), seed_level=True)
    assert [e.is_pareto for e in selection.ordered] == [True, True, False]
    assert (
        selection.ordered[2].name == "z_seed1"
        and selection.ordered[2].score > selection.ordered[0].score
    )
    assert selection.ordered[0].name == "x_seed1"  # equal scores: the larger SAEBench delta


def test_failed_and_incomplete_runs(tmp_path):
    good = condition("a", [0.1], [0.1])
    failed = condition("b", [9.0], [9.0], saebench_returncode=1)
    untrained = condition("c", [9.0], [9.0], checkpoint=None)
    one = [
        frontier_record("d", s, 5.0, None) | {"cebench": None, "cebench_returncode": None}
        for s in (1, 2, 3)
    ]
    nan = condition("e", [math.nan], [3.0])
    assert {
        e.name for e in select_cycle3(pool(tmp_path, *good, *failed, *untrained, *one)).ordered
    } == {"a", "d"}
    partial = select_cycle3(pool(tmp_path, *good, *one)).ordered
    assert all(e.is_pareto for e in partial), (
        "a missing delta is never dominated, as in the original"
    )
    assert [
        e.name
        for e in select_cycle3(
            pool(tmp_path, *good, *one, *nan), require_both_external=True
        ).ordered
    ] == ["a"]
    with pytest.raises(HusaiError, match="none of 3 candidates is eligible"):
        select_cycle3(pool(tmp_path, *failed))
    with pytest.raises(HusaiError, match="no condition has 4 seeds"):
        select_cycle3(pool(tmp_path, *good), min_seeds=4)


def test_scaling_and_assignment_records(tmp_path):
    scaling = [
        {
            "condition_id": f"tok10_seed{s}",
            "seed": s,
            "checkpoint": "x.pt",
            "hook_layer": 0,
            "hook_name": "h",
            "train_summary": {"final_metrics": {"explained_variance": 0.9}},
            "saebench": {"best_minus_llm_auc": -0.1, "sae_meta": {"architecture": "topk"}},
            "cebench": {
                "cebench_summary": {"interpretability_score_mean_max": 6.0},
                "delta_vs_matched_baseline": {},
            },
        }
        for s in (1, 2, 3)
    ]
    assignment = [
        {
            "lambda_consistency": 0.1,
            "selected_checkpoint": f"lambda_0.1/sae_seed{s}.pt",
            "explained_variance": {"mean": 0.7},
            "external_eval": {
                "saebench": {"summary": {"best_minus_llm_auc": 0.2}},
                "saebench_returncode": 0,
            },
            "selection_metrics": {"saebench_delta": 0.0, "cebench_delta": -3.0},
        }
        for s in (1, 2, 3)
    ]
    paths = [
        write(tmp_path / f"{n}.json", {"records": r})
        for n, r in (("scaling", scaling), ("assignment", assignment))
    ]
    found = load_candidates(scaling=[paths[0]], assignment=[paths[1]])
    assert [c.condition for c in found] == ["tok10"] * 3 + ["assignv3_lambda0.1"] * 3
    assert (
        found[0].metrics["saebench_delta"] == -0.1
        and found[0].metrics["train_explained_variance"] == 0.9
    )
    assert (
        found[0].architecture == "topk" and found[0].metrics["cebench_interpretability_max"] == 6.0
    )
    assert (
        found[3].metrics["saebench_delta"] == 0.0
        and found[3].metrics["cebench_interp_delta_vs_baseline"] == -3.0
        and found[3].seed == 1
    )


def test_bad_files(tmp_path):
    with pytest.raises(HusaiError, match="at least one --frontier-results"):
        load_candidates()
    with pytest.raises(HusaiError, match="has no list of 'records'"):
        load_candidates([write(tmp_path / "x.json", {"records": 3})])
    with pytest.raises(HusaiError, match="no such file"):
        load_candidates([tmp_path / "none.json"])
    with pytest.raises(HusaiError, match="did you mean 'cycle3'"):
        select_job("cycle33", output_dir=tmp_path, frontier_results=["x"])


def test_the_choice_feeds_the_gate(tmp_path):
    path = write(
        tmp_path / "frontier.json", {"records": condition("a", [0.1, 0.2, 0.3], [1.0, 2.0, 3.0])}
    )
    select_job("cycle3", output_dir=tmp_path / "selection", frontier_results=[path])
    chosen = tmp_path / "selection/selected_candidate.json"
    for options in (
        {"external_candidate_json": chosen},
        {"cycle3_candidate": chosen, "evidence": []},
    ):
        decision = gate_job(
            "cycle3",
            output_dir=tmp_path / "gate",
            ood_results=write(tmp_path / "o.json", {"drop": 0}),
            ledger=tmp_path / "l",
            **options,
        )
        assert decision.gates["external"] and not decision.gates["random_model"]
        assert decision.metrics["saebench_delta_ci95_low"] == pytest.approx(
            0.2 - 1.96 * 0.1 / math.sqrt(3)
        )
        assert decision.candidate["condition"] == "a"
    assert "| `a` | 3 |" in (tmp_path / "selection/selection.md").read_text()
    assert (
        json.loads((tmp_path / "selection/selection.manifest.json").read_text())["return_code"] == 0
    )
