"""Probing on the trained subject against probing on its randomised copy."""

import numpy as np
import pytest

from husai import provenance
from husai.jobs.stress import stress_job
from husai.recipe import Recipe
from husai.stress import paired_probes, probing_difference

SETS = {"a": "one", "b": "two", "c": "two", "chance": "three"}
SEEDS = (1, 2, 3)


def probed(seed, level, subject="language"):
    rng = np.random.default_rng(seed)
    rows = [
        {"dataset": d, "family": f, "k": k, "auc": level + 0.01 * k + rng.normal(0, 0.001)}
        | ({"dense_val_lcb": 0.5 if d == "chance" else 0.8} if subject == "language" else {})
        for d, f in SETS.items()
        for k in (2, 4)
    ]
    return {"seed": seed, "subject": subject, "probing": {"gate_k": 4}, "per_dataset": rows}


def test_seeds_and_informative_data_sets_are_paired_at_the_gates_k():
    ours = [probed(s, 0.8) for s in (*SEEDS, 4, 5)]
    theirs = [probed(s + 10, 0.6, "language-random") for s in SEEDS]
    rows = paired_probes(ours, theirs)
    assert [(r["seed"], r["random_seed"], r["dataset"]) for r in rows] == [
        (s, s + 10, d) for s in SEEDS for d in ("a", "b", "c")
    ], "the smaller ensemble sets how many, and the data set at chance decides nothing"
    assert all(r["random_auc"] == pytest.approx(0.64, abs=0.01) for r in rows)
    found = probing_difference(rows)
    assert found.value == pytest.approx(0.2, abs=0.005) and found.n == 3


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    """Stability evidence of both ensembles and the lists of their probing records."""
    monkeypatch.chdir(tmp_path)
    matrix = [[1.0 if i == j else 0.6 for j in SEEDS] for i in SEEDS]
    nulls = {"gaussian": {"pairs": [0.3] * 3}}
    for role in ("candidate", "random_model"):
        about = {"schema": "husai.evidence/1", "kind": "stability", "recipe": "r"}
        about |= {"subject": "language", "recipe_hash": "h", "metrics": {}, "inputs": []}
        fields = Recipe("language", "h", "topk", 32, k=4).to_dict()
        about |= {"recipe_fields": fields}
        stored = {"pairwise": {"pwmcc": matrix}, "nulls": nulls, "per_seed": {"seed": [*SEEDS]}}
        provenance.write_json(f"stability/{role}.json", about | stored)
        records = []
        for seed in SEEDS:
            trained = role == "candidate"
            made = probed(seed, 0.8 if trained else 0.6, "language" if trained else "x-random")
            records.append(f"external/{role}/seed{seed}/saebench.json")
            provenance.write_json(records[-1], made)
        listing = {"records": provenance.file_records(records)}
        provenance.write_json(f"external/{role}/saebench.json", listing)
    return [
        f"{folder}/{role}{name}.json"
        for folder, name in (("stability", ""), ("external", "/saebench"))
        for role in ("candidate", "random_model")
    ]


def test_the_record_holds_the_difference_and_the_values_it_follows_from(evidence, tmp_path):
    record = stress_job("random_model", evidence, tmp_path / "out.json")
    assert record["metrics"]["delta_probing"] == probing_difference(record["probing"])
    assert len(record["probing"]) == 9
    named = {entry["path"] for entry in record["inputs"]}
    assert "external/random_model/seed2/saebench.json" in named and len(named) == 8
    without = stress_job("random_model", evidence[:2], tmp_path / "out.json")
    assert "delta_probing" not in without["metrics"]
