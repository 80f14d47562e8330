"""Summaries of baseline, ablations, calibration and consistency from stability records of ensembles
with known structure.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from husai import provenance
from husai.config.stages import Calibration
from husai.evidence import Metric, new_record
from husai.jobs.summarize import summarize_job
from husai.planning.specs import CalibrationSpec
from husai.recipe import Recipe
from husai.sae import SAE
from husai.stability import gaussian_decoder, measure_stability, null_pwmcc, planted_decoders
from husai.stability.record import StabilityRecord, common_nulls, condition_row, pair_matrix
from husai.statistics import difference_pvalue, holm, jackknife_t
from husai.summaries.calibration import choose

D_IN, SEEDS = 16, [1, 2, 3, 4]
WEIGHTS = {"d_sae": 32, "k": 4, "weights": [0.1], "seeds": SEEDS, "max_ev_drop": 1.0}
WIDE = torch.randn((300, D_IN), generator=torch.Generator().manual_seed(1))
NARROW = WIDE * torch.cat([torch.ones(2), torch.full((D_IN - 2,), 1e-3)])


def recipe(subject="toy", d_sae=32, k=4, **changes):
    return Recipe(
        **(
            {"subject": subject, "hook_name": "h", "architecture": "topk", "d_sae": d_sae, "k": k}
            | changes
        )
    )


def sae(W, k):
    return SAE("topk", W.T.contiguous(), W, torch.zeros(len(W)), torch.zeros(D_IN), k=k)


def write(root, r, shared, rows=WIDE, frozen=False, seed=0):
    """Stability evidence of an ensemble whose seeds share a known part of their features."""
    saes = [sae(W, r.k) for W in planted_decoders(len(SEEDS), r.d_sae, D_IN, shared, seed)]
    controls = (
        [sae(gaussian_decoder(D_IN, r.d_sae, 70 + s), r.k) for s in SEEDS] if frozen else None
    )
    initial = [gaussian_decoder(D_IN, r.d_sae, 90 + s) for s in SEEDS]
    report = measure_stability(saes, rows, seeds=SEEDS, initial_decoders=initial, frozen=controls)
    final = [{"seed": s, "plateau_gain": 0.001, "plateau": True} for s in SEEDS]
    trajectory = {"step": [0, 10], "pwmcc": [0.3, 0.6]}
    about = {
        "recipe_fields": r.to_dict(),
        "resolved": r.to_dict(),
        "final": final,
        "trajectory": trajectory,
    }
    path = root / "stability" / r.subject / f"{r.id}.json"
    provenance.write_json(
        path,
        new_record(
            "stability", r.subject, r.id, r.hash, report.metrics(), **report.details(), **about
        ),
    )
    return str(path)


def subject_files(root, name):
    folder = root / "results/subjects" / name / "model"
    provenance.write_json(
        folder / "metrics.json",
        {
            "accuracy": 0.9,
            "loss": 1.5,
            "leak_probe": {"accuracy": 0.1, "chance": 0.1, "at_chance": True},
        },
    )
    provenance.write_json(folder / "manifest.json", {})
    return str(folder / "manifest.json")


def planted_file(root):
    value = Metric(0.9, 0.8, 1.0, 4)
    provenance.write_json(
        root / "planted.json",
        {"metrics": {"recovery": value, "S": value}, "spec": {"n_features": 8, "d_in": 4, "l0": 2}},
    )
    return str(root / "planted.json")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    """A wide subject where half the features are shared, and one that uses two dimensions only."""
    root = tmp_path_factory.mktemp("baseline")
    records = [
        write(root, recipe("wide"), 0.5, frozen=True),
        write(root, recipe("narrow"), 0.5, NARROW, frozen=True),
    ]
    inputs = [
        planted_file(root),
        *records,
        subject_files(root, "wide"),
        subject_files(root, "narrow"),
    ]
    spec = {"baseline": {"subject": ["wide", "narrow"], "d_sae": 32, "k": 4, "seeds": SEEDS}}
    return root, records, summarize_job("baseline", spec, inputs, root / "summary.json")


def test_the_baseline_has_a_row_for_every_subject_and_null(baseline):
    _, _, summary = baseline
    kinds = ["gaussian", "init", "covariance", "crowding", "frozen"]
    assert [(r["subject"], r["null"]) for r in summary["rows"]] == [
        (s, k) for s in ("wide", "narrow") for k in kinds
    ]
    gaussian = summary["rows"][0]
    assert gaussian["S"].value == pytest.approx(0.5, abs=0.03)
    assert gaussian["S"].n == gaussian["delta"].n == len(SEEDS)
    assert gaussian["p_holm"] < 0.01


def test_p_values_are_those_of_the_difference_with_seeds_as_units_adjusted_over_the_nulls(baseline):
    _, (path, _), summary = baseline
    record = StabilityRecord(path)
    trained = record.matrix("pwmcc")
    p = [
        difference_pvalue(trained, pair_matrix(null["pairs"]))
        for null in record.data["nulls"].values()
    ]
    assert [r["p_value"] for r in summary["rows"][:5]] == p
    assert [r["p_holm"] for r in summary["rows"][:5]] == pytest.approx(holm(p))


def test_cycle3_reads_the_first_subject(baseline):
    root, _, _ = baseline
    assert provenance.read_json(root / "evidence.json")["subject"] == "wide"


def test_where_chance_scores_above_0_9_the_summary_says_so_and_shows_the_other_nulls(baseline):
    root, _, summary = baseline
    narrow = {r["null"]: r for r in summary["rows"] if r["subject"] == "narrow"}
    assert narrow["covariance"]["null_pwmcc"].value > 0.9
    assert np.isnan(narrow["covariance"]["S"].value)
    assert narrow["gaussian"]["S"].value == pytest.approx(0.5, abs=0.03)
    assert "on narrow, 4 seeds: not assessable" in summary["headline"]
    assert "against the gaussian null" in summary["headline"]
    text = (root / "summary.md").read_text()
    assert "| not assessable |" in text
    assert "in about 2 dimensions even 32 isotropic directions score 0.99" in text
    json.loads((root / "summary.json").read_text(), parse_constant=pytest.fail)


def test_every_subject_says_movement_plateau_rank_and_trajectory(baseline):
    _, _, summary = baseline
    for subject in ("wide", "narrow"):
        told = " ".join(n for n in summary["notes"] if n.startswith(f"On {subject}:"))
        for word in (
            "accuracy",
            "leak probe",
            "movement",
            "plateau reached",
            "effective rank",
            "subspace overlap",
            "from 0.300 at step 0",
        ):
            assert word in told
    assert {f["subject"] for f in summary["training"]} == {"wide", "narrow"}
    assert [f["y"] for f in summary["figures"] if f["kind"] == "line"] == [[0.3, 0.6]] * 2


def test_ablations_have_both_grids_of_every_subject_and_the_trend_over_rank(tmp_path):
    section = {
        "subject": ["a", "b"],
        "k": [2, 4],
        "k_at_d_sae": {"a": 16, "b": 32},
        "d_sae": [16, 32],
        "d_sae_at_k": 4,
        "seeds": [1, 2, 3],
    }
    grid = {("a", 16, 2), ("a", 16, 4), ("a", 32, 4), ("b", 32, 2), ("b", 32, 4), ("b", 16, 4)}
    inputs = [
        write(tmp_path, recipe(s, d, k), 0.25 if d == 16 else 0.5) for s, d, k in sorted(grid)
    ]
    summary = summarize_job("ablations", {"ablations": section}, inputs, tmp_path / "summary.json")
    found = [(r["subject"], r["grid"], r["d_sae"], r["k"], r["n_seeds"]) for r in summary["rows"]]
    assert found[:4] == [
        ("a", "k", 16, 2, 3),
        ("a", "k", 16, 4, 3),
        ("a", "d_sae", 16, 4, 3),
        ("a", "d_sae", 32, 4, 3),
    ]
    assert found[4:6] == [("b", "k", 32, 2, 3), ("b", "k", 32, 4, 3)]
    small, large = summary["rows"][2:4]
    assert large["width_over_rank"] == pytest.approx(2 * small["width_over_rank"])
    assert small["S_gaussian"].value == pytest.approx(0.25, abs=0.05)
    assert large["S_gaussian"].value == pytest.approx(0.5, abs=0.05)
    assert summary["headline"].count("S against d_sae / effective rank") == 2


def calibration(default_k):
    section = {
        "subject": "toy",
        "d_sae": 32,
        "k": [2, 4],
        "default_k": default_k,
        "seeds": SEEDS,
        "retrain_seeds": [5, 6, 7],
        "min_explained_variance": -1e9,
        "match_architectures": [],
    }
    # Unchecked: the ensembles here were never trained, so no share of variance is low enough.
    return CalibrationSpec.model_construct(calibration=Calibration.model_construct(**section))


def test_conditions_are_compared_by_the_nulls_that_all_of_them_have(tmp_path):
    """Only one candidate has a frozen control; a null the others lack must not decide against
    it.
    """
    r, other = recipe(k=4), recipe(k=2)
    candidates = {
        x.id: StabilityRecord(write(tmp_path, x, 0.5, frozen=x.k == 4, seed=x.k))
        for x in (r, other)
    }
    record = candidates[r.id]
    record.data["nulls"]["frozen"]["pairs"] = [0.89] * 6
    assert common_nulls(candidates.values()) == [
        "gaussian",
        "init",
        "covariance",
        "crowding",
    ]
    assert record.null() == pytest.approx(0.89)
    row = condition_row(record, SEEDS, common_nulls(candidates.values()))
    assert row["null_worst"].value < 0.6
    _, rows = choose(calibration(default_k=2), candidates)
    assert all(r["null_worst"].value < 0.6 for r in rows)


def test_where_no_candidate_is_assessable_the_default_k_is_kept(tmp_path):
    candidates = {
        r.id: StabilityRecord(write(tmp_path, r, 0.5, NARROW)) for r in (recipe(k=2), recipe(k=4))
    }
    assert choose(calibration(default_k=4), candidates)[0].recipe.k == 4


def probing(root, r, seed, auc):
    path = root / "results/external" / r.id / f"seed{seed}" / "saebench.json"
    rows = [
        {"dataset": f"d{i}", "family": f"f{i // 2}", "k": 16, "auc": auc + 0.01 * i}
        | {"dense_val_lcb": 0.7}
        for i in range(6)
    ]
    provenance.write_json(path, {"subject": r.subject, "seed": seed, "per_dataset": rows})
    return str(path)


@pytest.mark.parametrize(("gain", "accepted"), [(0.02, True), (-0.02, False)])
def test_a_consistency_weight_needs_stability_and_on_text_an_external_gain(
    tmp_path, gain, accepted
):
    plain = recipe("text")
    pulled = replace(plain, consistency_weight=0.1, reference_seed=1)
    inputs = [write(tmp_path, plain, 0.25), write(tmp_path, pulled, 0.75, seed=1)]
    inputs += [
        write(tmp_path, replace(plain, subject="sums"), 0.25),
        write(tmp_path, replace(pulled, subject="sums"), 0.75, seed=1),
    ]
    inputs += [
        probing(tmp_path, r, s, 0.7 + (gain if r is pulled else 0))
        for r in (plain, pulled)
        for s in SEEDS
    ]
    section = {"subject": ["sums", "text"], **WEIGHTS}
    summary = summarize_job(
        "consistency", {"consistency": section, "gate_k": 16}, inputs, tmp_path / "summary.json"
    )
    rows = {(r["subject"], r["weight"]): r for r in summary["rows"]}
    assert rows["text", 0.1]["external_delta"].value == pytest.approx(gain)
    assert rows["text", 0.1]["accepted"] is accepted
    assert rows["sums", 0.1]["external_delta"] is None
    assert rows["sums", 0.1]["accepted"] is True
    assert rows["text", 0.0]["accepted"] is False
    assert rows["text", 0.1]["delta_without_reference"].n == 3


def test_a_weight_whose_probing_failed_is_not_accepted_and_a_failed_recipe_is_told(tmp_path):
    plain = recipe("text")
    pulled, worse = (replace(plain, consistency_weight=w, reference_seed=1) for w in (0.1, 0.2))
    inputs = [
        write(tmp_path, plain, 0.25),
        write(tmp_path, pulled, 0.75, seed=1),
        failed(tmp_path, worse),
    ]
    inputs += [probing(tmp_path, plain, s, 0.7) for s in SEEDS]
    path = tmp_path / "results/external" / pulled.id / "seed1/saebench.json"
    provenance.write_json(
        path, {"subject": "text", "seed": 1, "status": "failed", "reason": "codes are not finite"}
    )
    section = {"subject": ["text"], **WEIGHTS}
    summary = summarize_job(
        "consistency",
        {"consistency": section, "gate_k": 16},
        [*inputs, str(path)],
        tmp_path / "summary.json",
    )
    assert [(r["weight"], r["external_delta"], r["accepted"]) for r in summary["rows"]] == [
        (0.0, summary["rows"][0]["external_delta"], False),
        (0.1, None, False),
    ]
    assert summary["negatives"] == [f"On text: {worse.id} failed: the loss became NaN"]


def test_ablations_leave_a_failed_condition_out_and_say_why(tmp_path):
    section = {
        "subject": "a",
        "k": [4],
        "k_at_d_sae": 16,
        "d_sae": [16, 32],
        "d_sae_at_k": 4,
        "seeds": [1, 2, 3],
    }
    inputs = [write(tmp_path, recipe("a", 16, 4), 0.25), failed(tmp_path, recipe("a", 32, 4))]
    summary = summarize_job("ablations", {"ablations": section}, inputs, tmp_path / "summary.json")
    assert [(r["grid"], r["d_sae"]) for r in summary["rows"]] == [("k", 16), ("d_sae", 16)]
    assert summary["negatives"] == ["On a: topk-d32-k4 failed: the loss became NaN"]


def failed(root, r):
    path = root / "stability" / r.subject / f"{r.id}.json"
    about = {"status": "failed", "reason": "the loss became NaN"}
    provenance.write_json(path, new_record("stability", r.subject, r.id, r.hash, {}, **about))
    return str(path)


def test_nothing_is_accepted_where_chance_cannot_be_told_apart(tmp_path):
    plain = recipe("sums")
    pulled = replace(plain, consistency_weight=0.1, reference_seed=1)
    inputs = [write(tmp_path, plain, 0.25, NARROW), write(tmp_path, pulled, 0.75, NARROW, seed=1)]
    section = {"subject": "sums", **WEIGHTS}
    summary = summarize_job(
        "consistency", {"consistency": section}, inputs, tmp_path / "summary.json"
    )
    assert [r["accepted"] for r in summary["rows"]] == [False, False]
    assert "no weight is accepted" in summary["headline"]


def test_the_baseline_is_that_of_its_own_seeds_although_the_recipe_has_more(tmp_path):
    few, all_seeds = [1, 3, 4], SEEDS
    spec = {"baseline": {"subject": "wide", "d_sae": 32, "k": 4}}
    inputs = [
        planted_file(tmp_path),
        write(tmp_path, recipe("wide"), 0.5, frozen=True),
        subject_files(tmp_path, "wide"),
    ]
    record = StabilityRecord(inputs[1])
    for seeds in (few, all_seeds):
        spec["baseline"]["seeds"] = seeds
        summary = summarize_job("baseline", spec, inputs, tmp_path / "summary.json")
        index = np.array([s - 1 for s in seeds])
        expected = jackknife_t(record.matrix("pwmcc")[np.ix_(index, index)])
        assert [r["trained_pwmcc"].value for r in summary["rows"]] == [expected.value] * 5
        assert summary["rows"][0]["null_pwmcc"].value == pytest.approx(
            null_pwmcc(D_IN, 32, len(seeds)).mean
        )
        assert (
            provenance.read_json(tmp_path / "evidence.json")["metrics"]["trained_pwmcc"]["n"]
            == len(seeds) * (len(seeds) - 1) // 2
        )
        assert f"{len(seeds)} seeds" in summary["headline"]
    initial = [gaussian_decoder(D_IN, 32, 90 + s) for s in few]
    assert record.null("init", seeds=few) == pytest.approx(
        null_pwmcc(D_IN, 32, 3, "init", decoders=initial).mean
    )
    assert len(record.null_matrix("frozen", few)) == 4


def test_the_conservative_delta_is_the_lower_bound_less_the_upper_bound_of_the_worst_null(tmp_path):
    record = StabilityRecord(write(tmp_path, recipe(), 0.5))
    trained, worst = record.matrix("pwmcc"), record.data["nulls"][record.worst_null()]
    highest = jackknife_t(np.array(worst["draws"])).ucb
    assert record.conservative_delta() == pytest.approx(jackknife_t(trained).lcb - highest)
    worst["draws"], worst["pairs"] = (), [0.9 * pair for pair in worst["pairs"]]
    assert record.conservative_delta(among=[worst["kind"]]) == pytest.approx(
        jackknife_t(trained).lcb - jackknife_t(pair_matrix(worst["pairs"])).ucb
    )
    assert (
        StabilityRecord(write(tmp_path, recipe("narrow"), 0.5, NARROW)).conservative_delta()
        == -np.inf
    )


def test_a_condition_row_uses_the_seeds_it_is_given(tmp_path):
    record = StabilityRecord(write(tmp_path, recipe(), 0.5))
    row = condition_row(record, [1, 3, 4])
    chosen = record.matrix("pwmcc")[np.ix_([0, 2, 3], [0, 2, 3])]
    assert row["pwmcc"].value == jackknife_t(chosen).value
    assert row["n_seeds"] == 3
