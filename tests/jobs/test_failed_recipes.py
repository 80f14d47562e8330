"""A recipe that failed is a row with its reason, not a gap; a fault of the run still stops it."""

import json
from pathlib import Path

import compared_world as world
import pandas as pd
import pytest

from husai import cli
from husai.config import load
from husai.cycle3.candidates import load_candidates
from husai.cycle3.selector import select_cycle3
from husai.errors import HusaiError, RecipeFailed
from husai.gate import load_policy
from husai.jobs.summarize import summarize_job
from husai.jobs.train_recipe import train_job
from husai.planning.plan import Plan
from husai.planning.spec_builder import SpecBuilder
from husai.planning.specs import TrainSpec
from husai.provenance import read_json
from husai.recipe import Recipe
from husai.selection.strict import select_strict
from husai.stability.record import StabilityRecord

DIVERGES = {**world.TOPK, "d_sae": 24, "learning_rate": 1e30, "gradient_clip": None}
UNMATCHED = {**world.TOPK, "architecture": "relu", "k": None, "l0_target": 31.9, "steps": 4}
SEEDS = [0, 1, 2]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A frontier of one sound recipe, one that diverges, one whose L0 is out of reach, and one
    whose control diverges.
    """
    root = tmp_path_factory.mktemp("failed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        world.build()
        orphan, broken_control = (
            {**world.TOPK, "d_sae": 16},
            {**world.FROZEN, "d_sae": 16, "learning_rate": 1e30, "gradient_clip": None},
        )
        recipes = [world.TOPK, world.FROZEN, DIVERGES, UNMATCHED, orphan, broken_control]
        for recipe in recipes:
            world.train(recipe, SEEDS, may_fail=True)
        inputs = []
        for recipe in recipes:
            frozen = bool(recipe.get("frozen_decoder"))
            inputs += world.measure(
                Recipe.from_dict(recipe).id,
                SEEDS,
                not frozen,
                {16: "topk-d16-k4-frozen", 32: "topk-d32-k4-frozen"}.get(recipe["d_sae"])
                if recipe["architecture"] == "topk"
                else None,
            )
        yield root, world.frontier(inputs)


def row(table, recipe_id):
    return next(r for r in table["rows"] if r["recipe"] == recipe_id)


def test_a_diverged_training_leaves_a_manifest_with_the_reason_and_no_sae(compared):
    root, _ = compared
    folder = root / "results/saes/language/topk-d24-k4"
    manifest = read_json(folder / "manifest.json")
    assert manifest["status"] == "failed" and "NaN or infinite at step" in manifest["reason"]
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "recipe.json"]
    assert read_json(folder / "recipe.json")["reason"] == manifest["reason"]


def test_an_l0_out_of_reach_says_which_l0_were_reached(compared):
    root, _ = compared
    reason = read_json(root / "results/saes/language/relu-d32-l0_31.9/manifest.json")["reason"]
    assert "l0_target 31.9 not reached; got L0" in reason


def test_measurements_of_a_failed_recipe_say_so_with_the_same_reason(compared):
    root, _ = compared
    reason = read_json(root / "results/saes/language/topk-d24-k4/manifest.json")["reason"]
    for name in (
        "external/topk-d24-k4/seed1/saebench",
        "external/topk-d24-k4/seed1/cebench",
        "stability/language/topk-d24-k4",
    ):
        record = read_json(root / f"results/{name}.json")
        assert (record["status"], record["reason"], record["metrics"]) == ("failed", reason, {})
        assert record["recipe_hash"] == Recipe.from_dict(DIVERGES).hash
    with pytest.raises(RecipeFailed, match="NaN or infinite"):
        StabilityRecord(root / "results/stability/language/topk-d24-k4.json")


def test_the_table_has_a_row_for_every_recipe_with_the_reason_of_each_failure(compared):
    root, table = compared
    assert {r["recipe"] for r in table["rows"]} == {
        "topk-d32-k4",
        "topk-d24-k4",
        "relu-d32-l0_31.9",
        "topk-d16-k4",
    }
    assert (
        row(table, "topk-d32-k4")["status"] == "measured"
        and row(table, "topk-d32-k4")["pareto"] is True
    )
    assert row(table, "topk-d24-k4")["status"].startswith(
        "failed: topk-d24-k4: the loss of seed 0 became NaN or infinite"
    )
    assert row(table, "relu-d32-l0_31.9")["status"].startswith(
        "failed: recipe relu-d32-l0_31.9: l0_target 31.9 not reached"
    )
    assert row(table, "topk-d16-k4")["status"].startswith(
        "failed: its control topk-d16-k4-frozen failed: "
    )
    assert all(
        "delta_vs_frozen" not in r and "pareto" not in r
        for r in table["rows"]
        if r["status"] != "measured"
    )
    assert (
        "Failed: topk-d24-k4, relu-d32-l0_31.9, topk-d16-k4." in table["headline"]
        and len(table["negatives"]) == 3
    )
    text = (root / "results/external/frontier.md").read_text()
    assert "| topk-d24-k4 | 3 |" in text and "failed: topk-d24-k4: the loss of seed 0" in text
    frame = pd.read_parquet(root / "results/external/frontier.parquet")
    assert list(frame["status"].str.startswith("failed")) == [False, True, True, True]


def test_a_failed_recipe_is_no_candidate(compared):
    root, _ = compared
    pool = load_candidates([root / "results/external/frontier.json"])
    assert {c.condition for c in pool} == {"topk-d32-k4"}
    assert (
        select_cycle3(pool).selected.name
        == select_strict(pool, load_policy("strict").all_conditions(), min_seeds=3).selected.name
        == "topk-d32-k4"
    )


def test_the_report_lists_failures_and_verify_accepts_the_run(compared, monkeypatch):
    from husai.jobs.report import report_job
    from husai.verify.checksums import write_index
    from husai.verify.run import verify

    root, _ = compared
    monkeypatch.chdir(root)
    report_job()
    write_index(root)
    text = Path("reports/gate_report.md").read_text()
    negative = text.split("## Negative results")[1].split("\n## ")[0]
    assert "relu-d32-l0" in negative and "not reached" in negative
    assert "failed: topk-d24-k4: the loss of seed 0 became NaN" in text.split("## Frontier")[1]
    found = verify(root)
    assert found.mismatches == []


def test_a_sound_training_afterwards_replaces_the_failure(compared, tmp_path, monkeypatch):
    root, _ = compared
    monkeypatch.chdir(root)
    out = tmp_path / "saes/topk-d24-k4"
    spec = TrainSpec(recipe=DIVERGES, seeds=[0], may_fail=True)
    sound = TrainSpec(recipe={**DIVERGES, "learning_rate": 1e-3}, seeds=[0], may_fail=True)
    train_job(spec, world.STORE, out, device="cpu")
    train_job(sound, world.STORE, out, device="cpu")
    assert "status" not in read_json(out / "manifest.json") and (out / "seed0/cfg.json").is_file()
    train_job(spec, world.STORE, out, device="cpu")
    assert not (out / "seed0").exists() and not (out / "training.parquet").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), ""),
        (OSError(28, "No space left on device"), "No space left"),
        (HusaiError("unreadable"), "unreadable"),
        (KeyError("k"), "k"),
    ],
)
def test_faults_of_the_run_are_never_a_row(compared, tmp_path, monkeypatch, error, message):
    root, _ = compared
    monkeypatch.chdir(root)

    def fault(*args, **kwargs):
        raise error

    monkeypatch.setattr("husai.sae.train_ensemble", fault)
    with pytest.raises(type(error), match=message):
        train_job(
            TrainSpec(recipe=world.TOPK, seeds=[0], may_fail=True),
            world.STORE,
            tmp_path / "out",
            device="cpu",
        )
    assert not (tmp_path / "out/manifest.json").exists()
    assert read_json(tmp_path / "out/manifest.failed.json")["return_code"] == 1


def test_a_recipe_other_stages_build_on_stops_the_run(compared, tmp_path, monkeypatch):
    root, _ = compared
    monkeypatch.chdir(root)
    with pytest.raises(RecipeFailed, match="NaN or infinite"):
        train_job(
            TrainSpec(recipe=DIVERGES, seeds=[0]), world.STORE, tmp_path / "out", device="cpu"
        )
    assert not (tmp_path / "out/manifest.json").exists()


def test_only_recipes_that_a_table_compares_may_fail():
    p = Plan(
        load(
            [Path(__file__).parents[2] / "config/config.yaml"],
            {"frontier": {"recipes": None, "k": "calibrated"}},
        )
    )
    allowed = {
        r.id
        for (_, r_id), t in p.trained.items()
        if (r := t.recipe) and json.loads(SpecBuilder(p).train(r.subject, r_id))["may_fail"]
    }
    assert {
        "relu-d384-l0cal",
        "jumprelu-d384-l0cal",
        "batchtopk-d384-kcal",
        "topk-d384-kcal-frozen",
    } <= allowed
    assert "topk-d384-kcal" not in allowed, "the calibration's choice is built on it"
    assert (
        not {
            r.id
            for r in (*p.baseline[0], *p.ablations[0], *p.consistency, *p.calibration_search[0])
        }
        & allowed
    )
    assert isinstance(p, Plan)


def test_the_calibration_lists_an_l0_matching_that_failed(compared, tmp_path, monkeypatch):
    root, _ = compared
    monkeypatch.chdir(root)
    section = {
        "subject": "language",
        "d_sae": 32,
        "k": [3, 4],
        "default_k": 3,
        "seeds": SEEDS,
        "retrain_seeds": [7, 8, 9],
        "match_architectures": ["relu"],
    }
    spec, out = (
        {"calibration": {**section, "min_explained_variance": 0.0}},
        root / "results/calibration",
    )
    search = [{**world.TOPK, "k": k} for k in (3, 4)]
    matched = {
        **world.TOPK,
        "architecture": "relu",
        "k": None,
        "l0_target": "calibrated",
        "steps": 1,
    }
    retrained = [{**world.TOPK, "k": "calibrated"}, {**world.TOPK, "k": 3, "tag": "control"}]
    for recipe in search:
        world.train(recipe, SEEDS)
    measured = [world.measure(Recipe.from_dict(r).id, [])[0] for r in search]
    summarize_job("calibration-select", spec, measured, out / "selected.json")
    for recipe, seeds in ((retrained[0], [7, 8, 9]), (retrained[1], [7, 8, 9]), (matched, SEEDS)):
        world.train(recipe, seeds, wait=out / "selected.json", may_fail=recipe is matched)
        measured += world.measure(Recipe.from_dict(recipe).id, [])
    inputs = [str(out / "selected.json"), *measured]
    record = summarize_job("calibration", spec, inputs, out / "summary.json")
    row = next(r for r in record["rows"] if r["recipe"] == "relu-d32-l0cal")
    assert (
        row["status"].startswith("failed: recipe relu-d32-l0_")
        and "not reached" in record["negatives"][0]
    )
    assert "relu-d32-l0cal: failed: " in (out / "summary.md").read_text()


def test_codes_that_are_not_finite_are_a_failed_measurement(compared, monkeypatch):
    from husai.probing import protocol

    root, _ = compared
    monkeypatch.chdir(root)

    def overflow(*args):
        raise RecipeFailed("the SAE's code has NaN values")

    monkeypatch.setattr(protocol, "codes_of", overflow)
    out = root / "elsewhere/topk-d32-k4/seed0/saebench.json"
    spec = json.dumps(world.probing(world.SELECTION))
    world.husai(
        "saebench",
        "--spec",
        spec,
        "--saes",
        "results/saes/language/topk-d32-k4",
        "--seed",
        0,
        "--probes",
        world.PROBES,
        "--baselines",
        f"results/external/baselines/selection/{world.HOOK}.json",
        "--out",
        out,
        "--device",
        "cpu",
    )
    assert read_json(out)["reason"] == "the SAE's code has NaN values"


def test_one_failed_seed_of_several_costs_the_others_nothing(compared, monkeypatch, capsys):
    from husai.cebench import scores

    root, _ = compared
    monkeypatch.chdir(root)
    score = scores.score_saes

    def overflow(saes, *args, **options):
        if any(sae.cfg["seed"] == 1 for sae in saes):
            raise RecipeFailed("the SAE's code has NaN values")
        return score(saes, *args, **options)

    monkeypatch.setattr(scores, "score_saes", overflow)
    files = [root / f"several/seed{seed}/cebench.json" for seed in (0, 1)]
    options = [
        "cebench",
        *("--spec", json.dumps({"n_pairs": world.N_PAIRS}), "--pairs", world.PAIRS),
        *("--saes", "results/saes/language/topk-d32-k4", "--device", "cpu"),
    ]
    world.husai(*options, "--seed", 0, 1, "--out", *files)
    found = [read_json(file) for file in files]
    assert found[0]["metrics"] and [r["seed"] for r in found] == [0, 1]
    assert found[1]["reason"] == "the SAE's code has NaN values"
    for more, problem in (
        (["--seed", "0", "1", "--out", "one.json"], "2 seeds and 1 files"),
        (["--out", "one.json"], "0 seeds and 1 files"),
        (["--all-seeds", "--out", "one.json", "two.json"], "got 2 files"),
        (["--seed", "0", "7", "--out", "one.json", "two.json"], "7 is not among the seeds"),
    ):
        assert cli.main([str(a) for a in [*options, *more]]) == 1
        assert problem in capsys.readouterr().err


def test_the_verb_writes_saebenchs_own_file_for_one_seed(compared, monkeypatch, capsys):
    root, _ = compared
    monkeypatch.chdir(root)
    out = root / "published/saebench.json"
    options = (
        "saebench",
        "--spec",
        json.dumps(world.probing(world.SELECTION)),
        "--saes",
        "results/saes/language/topk-d32-k4",
        "--probes",
        world.PROBES,
        "--baselines",
        f"results/external/baselines/selection/{world.HOOK}.json",
        "--device",
        "cpu",
        "--saebench-json",
        root / "published/theirs.json",
        "--out",
        out,
    )
    world.husai(*options, "--seed", 0)
    theirs, ours = read_json(root / "published/theirs.json"), read_json(out)
    assert theirs["eval_type_id"] == "sparse_probing_sae_probes"
    k = ours["per_dataset"][0]["k"]
    assert theirs["sae_metrics_by_k"][str(k)]["test_auc"] == pytest.approx(
        ours["metrics"][f"auc_k{k}"]["value"]
    )
    with pytest.raises((AssertionError, SystemExit)):
        world.husai(*options, "--all-seeds")
