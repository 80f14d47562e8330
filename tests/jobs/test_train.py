"""The train job: what it leaves on disk, that a killed one goes on where it was, and how it refuses
what cannot be trained.
"""

import json
import subprocess
import sys
import time

import pytest
import torch

from husai.activations import write_store
from husai.brought.comparison import compare_paths
from husai.errors import HusaiError
from husai.jobs.train_recipe import train_job
from husai.planning.specs import TrainSpec
from husai.sae import Recipe, evaluate_sae, initial_decoder, load_sae
from husai.stability import null_pwmcc

D, D_SAE = 16, 32
HOOK = "blocks.0.hook_resid_post"
BASE = {"subject": "tiny", "hook_name": HOOK, "d_sae": D_SAE, "steps": 40, "batch_size": 64}
TOPK = {**BASE, "architecture": "topk", "k": 4}


@pytest.fixture(scope="module")
def rows():
    """Sparse combinations of 24 unit directions: something an SAE can learn."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, D, generator=generator), dim=1)
    codes = torch.rand(3000, 24, generator=generator) * (
        torch.rand(3000, 24, generator=generator) < 0.1
    )
    return codes @ directions + 0.5


@pytest.fixture(scope="module")
def store(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("activations")
    for hook, x in ((HOOK, rows), ("blocks.1.hook_resid_post", rows.flip(1) * 2)):
        write_store(root / hook / "train", x[:2500])
        write_store(root / hook / "held_out", x[2500:])
    return root / HOOK


def test_every_artifact_is_there_and_the_saes_do_what_is_reported(tmp_path, store, rows):
    out = tmp_path / "saes" / "tiny" / "topk-d32-k4"
    train_job(TrainSpec(recipe=TOPK, seeds=[3, 5]), store, out, device="cpu")
    assert sorted(p.name for p in out.iterdir()) == [
        "manifest.json",
        "recipe.json",
        "seed3",
        "seed5",
        "training.parquet",
    ]
    record = json.loads((out / "recipe.json").read_text())
    assert (record["id"], record["hash"], record["d_in"]) == (
        "topk-d32-k4",
        Recipe.from_dict(TOPK).hash,
        D,
    )
    for final in record["final"]:
        sae = load_sae(out / f"seed{final['seed']}")
        found = evaluate_sae(sae, rows[2500:])
        assert found["explained_variance"] == pytest.approx(final["explained_variance"], abs=1e-4)
        assert found["l0"] == pytest.approx(final["l0"], abs=1e-4)
        assert (sae.cfg["hook_name"], sae.cfg["recipe_hash"], sae.cfg["seed"]) == (
            HOOK,
            record["hash"],
            final["seed"],
        )
    manifest = json.loads((out / "manifest.json").read_text())
    assert {r["path"] for r in manifest["outputs"]} >= {
        "recipe.json",
        "training.parquet",
        "seed3/cfg.json",
        "seed5/sae_weights.safetensors",
    }
    assert [r["path"] for r in manifest["inputs"]] == [
        str(store / s / "store.json") for s in ("train", "held_out")
    ]
    assert manifest["seeds"] == [3, 5]


def test_saes_of_the_job_are_compared_with_their_own_initialisations(tmp_path, store):
    train_job(TrainSpec(recipe=TOPK, seeds=[3, 5, 8]), store, tmp_path, device="cpu")
    record = compare_paths([tmp_path], "init", rows=store).record
    decoders = [initial_decoder(Recipe.from_dict(TOPK), s, D) for s in (3, 5, 8)]
    assert record["nulls"]["init"]["mean"] == pytest.approx(
        null_pwmcc(D, D_SAE, 3, "init", decoders=decoders).mean
    )
    assert record["pairwise"]["activation_r"][0][1] > 0


def test_curves_hold_every_seed_from_start_to_end(tmp_path, store):
    import pandas as pd

    train_job(TrainSpec(recipe=TOPK, seeds=[0, 1]), store, tmp_path, device="cpu")
    curves = pd.read_parquet(tmp_path / "training.parquet")
    assert {
        "seed",
        "step",
        "loss",
        "explained_variance",
        "l0",
        "dead_fraction",
        "cos_to_init",
    } <= set(curves.columns)
    assert set(curves.seed) == {0, 1}
    assert (curves.step.min(), curves.step.max()) == (0, 40)


def test_the_untrained_decoder_of_a_seed_can_be_made_again(tmp_path, store):
    """The median cosine to it, measured anew from the saved weights, is the one the job
    reported.
    """
    record = train_job(TrainSpec(recipe=TOPK, seeds=[7]), store, tmp_path, device="cpu")
    start = initial_decoder(Recipe.from_dict(TOPK), 7, D)
    cosine = torch.nn.functional.cosine_similarity(load_sae(tmp_path / "seed7").W_dec, start, dim=1)
    assert float(cosine.median()) == pytest.approx(record["final"][0]["cos_to_init"], abs=1e-5)


@pytest.fixture
def one_thread():
    """Weights are bit-identical for equal numbers of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


RUN = """
import json, sys, torch
torch.set_num_threads(1)
from husai.stability import null_pwmcc
from husai.brought.comparison import compare_paths
from husai.jobs.train_recipe import train_job
from husai.planning.specs import TrainSpec
recipe, store, out = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
train_job(TrainSpec(recipe=recipe, seeds=[0, 1]), store, out, device="cpu")
"""


def test_a_job_killed_and_started_again_ends_with_the_same_weights(tmp_path, store, one_thread):
    recipe = {**TOPK, "steps": 400}
    train_job(TrainSpec(recipe=recipe, seeds=[0, 1]), store, tmp_path / "whole", device="cpu")
    with subprocess.Popen(
        [sys.executable, "-c", RUN, json.dumps(recipe), store, tmp_path / "killed"],
        stderr=subprocess.DEVNULL,
    ) as child:
        end = time.monotonic() + 60
        while (
            time.monotonic() < end
            and child.poll() is None
            and not list((tmp_path / "killed").glob(".resume/state.pt"))
        ):
            time.sleep(0.01)
        child.kill()
    assert not (tmp_path / "killed" / "manifest.json").exists()
    assert (tmp_path / "killed" / ".resume" / "state.pt").exists()
    train_job(TrainSpec(recipe=recipe, seeds=[0, 1]), store, tmp_path / "killed", device="cpu")
    assert not (tmp_path / "killed" / ".resume").exists()
    for seed in ("seed0", "seed1"):
        weights = [
            (tmp_path / run / seed / "sae_weights.safetensors").read_bytes()
            for run in ("whole", "killed")
        ]
        assert weights[0] == weights[1]


def test_the_calibrated_k_is_filled_in(tmp_path, store):
    (tmp_path / "selected.json").write_text(json.dumps({"tiny": {"k": 6}}))
    recipe = {**TOPK, "k": "calibrated"}
    record = train_job(
        TrainSpec(recipe=recipe, seeds=[0]),
        store,
        tmp_path / "out",
        calibration=tmp_path / "selected.json",
        device="cpu",
    )
    assert (record["recipe"]["k"], record["resolved"]["k"], record["id"]) == (
        "calibrated",
        6,
        "topk-d32-kcal",
    )
    assert load_sae(tmp_path / "out" / "seed0").k == 6
    with pytest.raises(HusaiError, match="waits for the calibrated L0"):
        train_job(TrainSpec(recipe=recipe, seeds=[0]), store, tmp_path / "out", device="cpu")
    (tmp_path / "selected.json").write_text(json.dumps({"other": {"k": 6}}))
    with pytest.raises(HusaiError, match="holds no k for subject tiny"):
        train_job(
            TrainSpec(recipe=recipe, seeds=[0]),
            store,
            tmp_path / "out",
            calibration=tmp_path / "selected.json",
            device="cpu",
        )


def test_an_l0_target_is_matched_and_the_coefficient_recorded(tmp_path, store):
    recipe = {**BASE, "architecture": "relu", "l0_target": 4.0, "steps": 300}
    record = train_job(TrainSpec(recipe=recipe, seeds=[0]), store, tmp_path, device="cpu")
    assert record["resolved"]["sparsity_coefficient"] > 0
    found = record["resolved"]["sparsity_coefficient"]
    assert record["final"][0]["sparsity_coefficient"] == found
    again = train_job(
        TrainSpec(recipe=recipe, seeds=[0, 1]),
        store,
        tmp_path / "again",
        coefficient=found,
        device="cpu",
    )
    assert again["hash"] == record["hash"] and again["resolved"] == record["resolved"]
    assert again["final"][0]["l0"] == pytest.approx(record["final"][0]["l0"], abs=1e-6)


def test_a_transcoder_reads_both_hooks(tmp_path, store):
    recipe = {
        **TOPK,
        "steps": 300,
        "architecture": "transcoder",
        "target_hook_name": "blocks.1.hook_resid_post",
    }
    record = train_job(TrainSpec(recipe=recipe, seeds=[0]), store, tmp_path, device="cpu")
    assert load_sae(tmp_path / "seed0").architecture == "transcoder"
    assert len(json.loads((tmp_path / "manifest.json").read_text())["inputs"]) == 4
    assert record["final"][0]["explained_variance"] > 0


def test_a_consistency_recipe_reads_its_plain_twin(tmp_path, store):
    train_job(TrainSpec(recipe=TOPK, seeds=[0]), store, tmp_path / "plain", device="cpu")
    recipe = {**TOPK, "consistency_weight": 0.5, "reference_seed": 0}
    train_job(
        TrainSpec(recipe=recipe, seeds=[1]),
        store,
        tmp_path / "aligned",
        reference=tmp_path / "plain",
        device="cpu",
    )
    inputs = [
        r["path"]
        for r in json.loads((tmp_path / "aligned" / "manifest.json").read_text())["inputs"]
    ]
    assert str(tmp_path / "plain" / "manifest.json") in inputs
    with pytest.raises(HusaiError, match="give --reference with the folder of topk-d32-k4"):
        train_job(TrainSpec(recipe=recipe, seeds=[1]), store, tmp_path / "alone", device="cpu")


def test_other_seeds_replace_the_old_ones(tmp_path, store):
    train_job(TrainSpec(recipe=TOPK, seeds=[0, 1]), store, tmp_path, device="cpu")
    train_job(TrainSpec(recipe=TOPK, seeds=[2]), store, tmp_path, device="cpu")
    assert [p.name for p in sorted(tmp_path.glob("seed*"))] == ["seed2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 33}, "k = 33 is larger than d_sae = 32"),
        ({"colour": 3}, "unknown field 'colour'"),
        ({"n_rows": 99999}, "n_rows = 99999"),
        ({"learning_rate": 1e30, "gradient_clip": None}, "NaN or infinite at step"),
    ],
)
def test_what_cannot_be_trained_is_one_line_and_leaves_no_manifest(
    tmp_path, store, changes, message
):
    with pytest.raises(HusaiError, match=message) as caught:
        spec = TrainSpec(recipe={**TOPK, **changes}, seeds=[0])
        train_job(spec, store, tmp_path / "out", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_missing_activations_are_named(tmp_path):
    with pytest.raises(
        HusaiError,
        match=r"nowhere/train: no activation store here .* run the activations job first",
    ):
        train_job(
            TrainSpec(recipe=TOPK, seeds=[0]), tmp_path / "nowhere", tmp_path / "out", device="cpu"
        )
