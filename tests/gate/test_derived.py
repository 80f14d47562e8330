"""Evidence is derived, not believed: what hand-written or edited records are refused for."""

import json

import derivable
import pytest
from derivable import attempt, write_confirmation
from gate_records import HASH, passing, write

from husai.gate import evaluate, load_evidence, load_policy
from husai.gate.bounds import standing
from husai.provenance import file_records, finite
from husai.statistics import ensemble_metrics
from husai.stress import paired_probes, probing_difference, stress_metrics

STRICT = load_policy("strict")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = {path.stem: path for path in write_confirmation(tmp_path)}
    attempt()
    return written


def decide(run):
    about = {"recipe_hash": HASH}
    records = load_evidence(list(run.values()), recipe_hash=HASH)
    return evaluate(STRICT, records, about, **standing(STRICT, about))


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    write(path, record)


def rows(decision):
    return [r.reason for r in decision.rows if r.condition == "derived"]


def test_evidence_that_follows_from_what_is_stored_passes(run):
    decision = decide(run)
    assert decision.pass_all, decision.reasons
    assert rows(decision) == ["holds"]


@pytest.mark.parametrize(
    ("kind", "metric"),
    [
        ("integrity", "plateau_gain"),
        ("random_model", "delta_S"),
        ("transcoder", "delta_S"),
        ("ood", "excess_drop"),
        ("saebench", "delta_vs_neurons"),
        ("random_model", "delta_probing"),
        ("faithfulness", "recovered_vs_frozen"),
        ("cebench", "delta_vs_frozen"),
    ],
)
def test_an_edited_metric_does_not_follow(run, kind, metric):
    edit(run[kind], lambda r: r["metrics"][metric].update(value=1e-4, lcb=1e-4, ucb=1e-4))
    decision = decide(run)
    assert "integrity" in decision.failing
    assert f"metric {metric} is 0.0001" in rows(decision)[0]


def test_bounds_for_later_candidates_are_derived_too(run):
    def looser(record):
        record["metrics"]["delta_vs_frozen"]["bounds"][0]["lcb"] += 0.01

    edit(run["saebench"], looser)
    assert "metric delta_vs_frozen" in rows(decide(run))[0]


def test_a_metric_that_nothing_gives_is_refused(run):
    edit(run["ood"], lambda r: r["metrics"].update(extra=r["metrics"]["excess_drop"]))
    assert "metric extra cannot be derived" in rows(decide(run))[0]


@pytest.mark.parametrize("kind", ["integrity", "stability", "random_model", "ood", "saebench"])
def test_a_record_that_rests_on_no_weights_is_refused(run, tmp_path, kind):
    note = write(tmp_path / "results/note.txt", "nothing").relative_to(tmp_path)
    edit(run[kind], lambda r: r.update(inputs=file_records([note])))
    decision = decide(run)
    assert "integrity" in decision.failing
    assert "names 8 seeds but rests on the weights" in rows(decision)[0]


def test_weights_of_fewer_saes_than_seeds_are_refused(run):
    edit(run["ood"], lambda r: r.update(inputs=r["inputs"][:7]))
    assert "of 7 SAEs" in rows(decide(run))[0]


def test_stress_must_rest_on_the_stability_of_its_own_recipe(run):
    edit(run["random_model"], lambda r: r.update(inputs=r["inputs"][::-1]))
    assert "the first of its own recipe" in rows(decide(run))[0]


def test_the_judged_stability_record_is_the_one_that_other_evidence_rests_on(run, tmp_path):
    """Everything else rests on the record as it was measured, which lies elsewhere."""
    measured = tmp_path / "results/confirmation/stability/candidate.json"
    write(measured, json.loads(run["stability"].read_text()))
    for kind in ("integrity", "random_model", "transcoder"):
        paths = [entry["path"] for entry in json.loads(run[kind].read_text())["inputs"]]
        mine = "results/confirmation/stability.json"
        moved = [measured.relative_to(tmp_path) if p == mine else p for p in paths]
        edit(run[kind], lambda r, moved=moved: r.update(inputs=file_records(moved)))
    assert decide(run).pass_all

    def better(record):
        record["per_seed"]["explained_variance"] = [0.99] * 8
        record["metrics"] = finite(ensemble_metrics(record)) | {
            "shared_init_pairs": record["metrics"]["shared_init_pairs"]
        }
        record |= {"rows": 7, "split": "another"}

    edit(run["stability"], better)
    text = rows(decide(run))[0]
    assert "explained_variance_vs_frozen differ from results/confirmation/stability/" in text


def against(run, root, kind, role):
    """Have a stress record compare the candidate with the records of a role, metrics derived."""
    ours, other = run["stability"], root / f"results/confirmation/stability/{role}.json"
    pair = [json.loads(path.read_text()) for path in (ours, other)]
    names = [p.relative_to(root) for p in (ours, other)]
    singles = {}
    if kind == "random_model":
        for side in ("candidate", "frozen" if role == "candidate" else role):
            places = sorted((root / f"results/confirmation/external/{side}").rglob("saebench.json"))
            singles[side] = [json.loads(path.read_text()) for path in places]
            names += [path.relative_to(root) for path in places]

    def swap(record):
        metrics = stress_metrics(kind, *pair)
        if singles:
            probed = paired_probes(*singles.values())
            metrics["delta_probing"] = probing_difference(probed)
            record["probing"] = probed
        record |= {"metrics": finite(metrics), "inputs": file_records(names)}

    edit(run[kind], swap)


def test_the_randomised_subject_is_not_replaced_by_the_frozen_control(run, tmp_path):
    derivable._stability(tmp_path, "frozen", 0.3)
    against(run, tmp_path, "random_model", "frozen")
    assert (
        "as random_model, which is about language, not about language-random"
        in rows(decide(run))[0]
    )


def test_a_transcoder_is_one(run, tmp_path):
    derivable._stability(tmp_path, "frozen", 0.3)
    against(run, tmp_path, "transcoder", "frozen")
    assert "as transcoder, which is of a topk SAE" in rows(decide(run))[0]


def test_integrity_is_that_of_the_candidates_own_subject(run, tmp_path):
    """The subject itself leaks; another one does not."""
    places = [
        f"results/subjects/{{}}/{name}" for name in ("model/metrics.json", "probes/manifest.json")
    ]
    for place in places:
        own = tmp_path / place.format("language")
        write(tmp_path / place.format("modular"), json.loads(own.read_text()))
    write(tmp_path / places[0].format("language"), {"leak_probe": {"excess": 0.5}})

    def elsewhere(record):
        names = [e["path"].replace("/language/", "/modular/") for e in record["inputs"]]
        record["inputs"] = file_records(names)

    edit(run["integrity"], elsewhere)
    assert "rests on 0 files named subjects/language/model/metrics.json" in rows(decide(run))[0]
    edit(run["integrity"], lambda r: r.update(subject="modular"))
    assert "several subjects: language, modular" in rows(decide(run))[0]
    assert "is about modular, its recipe about language" in rows(decide(run))[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"candidate 3", "which holds no decoder"),
        (b"\xff" * 40, "which holds no decoder"),
        ((64, 2), "whose decoder is [64, 2], not [1024, 2]"),
        ((1024, 3), "whose decoder is [1024, 3], not [1024, 2]"),
    ],
)
def test_weights_are_those_of_an_sae_of_the_recipe(run, tmp_path, content, said):
    name = "results/confirmation/candidate/seed3/sae_weights.safetensors"
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        derivable.write_weights(path, "", content)
    for kind in ("stability", "ood"):
        edit(run[kind], lambda r: r.update(inputs=file_records(e["path"] for e in r["inputs"])))
    assert f"rests on {name}, {said}" in rows(decide(run))[0]


@pytest.mark.parametrize("change", [{"recipe": {}}, {"hash": "another"}, {"recipe": {"k": 7}}])
def test_a_recipe_is_known_by_the_hash_of_its_fields(run, tmp_path, change):
    described = tmp_path / "results/confirmation/candidate/recipe.json"

    def other(record):
        fields = record["recipe"] | change["recipe"] if change.get("recipe") else {}
        record |= change | ({"recipe": fields} if "recipe" in change else {})

    edit(described, other)
    edit(run["stability"], lambda r: r.update(inputs=file_records(e["path"] for e in r["inputs"])))
    assert f"rests on no recipe.json of {HASH}" in rows(decide(run))[0]


def test_records_in_memory_rest_on_no_files():
    assert evaluate(STRICT, passing(), HASH).pass_all


def test_settings_are_those_of_the_records_behind_and_not_what_the_summary_says(run, tmp_path):
    single = tmp_path / "results/confirmation/external/frozen/seed3/saebench.json"
    edit(single, lambda r: r["probing"].update(penalty="l2"))
    sides = (single.parents[2] / role for role in ("candidate", "frozen"))
    files = sorted(p.relative_to(tmp_path) for side in sides for p in side.rglob("saebench.json"))
    edit(run["saebench"], lambda r: r.update(inputs=file_records(files)))
    decision = decide(run)
    assert "saebench" in decision.failing
    assert "has penalty ['l1', 'l2'], the policy fixes l1" in decision.reasons["saebench"]
