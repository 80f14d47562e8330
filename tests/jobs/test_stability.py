"""The stability job on a trained recipe, and the comparison of SAEs a user brings."""

import json
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from husai.activations import write_store
from husai.brought.comparison import compare_paths
from husai.errors import HusaiError
from husai.jobs.stability import stability_job, training_trajectory
from husai.provenance import read_json, write_json
from husai.sae import SAE, Recipe, initial_decoder, save_sae
from husai.stability import gaussian_decoder, null_pwmcc, planted_decoders, pwmcc

D_IN, D_SAE = 16, 32


def sae(W, seed=None, recipe=None, b_enc=None):
    cfg = {} if seed is None else {"seed": seed}
    if recipe is not None:
        cfg["recipe"] = recipe.to_dict()
    b_enc = torch.zeros(len(W)) if b_enc is None else b_enc
    return SAE("relu", W.T.contiguous(), W, b_enc, torch.zeros(W.shape[1]), cfg=cfg)


def recipe(**changes):
    return Recipe(
        **(
            {
                "subject": "toy",
                "hook_name": "h",
                "architecture": "relu",
                "d_sae": D_SAE,
                "l0_target": 8.0,
            }
            | changes
        )
    )


def write_recipe(root, r, decoders, seeds):
    directory = root / "results/saes/toy" / r.id
    for seed, W in zip(seeds, decoders, strict=True):
        save_sae(sae(W, seed, r), directory / f"seed{seed}")
    write_json(
        directory / "recipe.json",
        {"recipe": r.to_dict(), "resolved": r.to_dict(), "hash": r.hash, "id": r.id, "d_in": D_IN},
    )
    rows = [
        {"seed": s, "step": t, "loss": 1.0 / t, "explained_variance": 0.1 * s}
        for s in seeds
        for t in (1, 2)
    ]
    pd.DataFrame(rows).to_parquet(directory / "training.parquet")
    return directory


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A trained recipe of five seeds that share half their features, its frozen control, and
    held-out activations.
    """
    monkeypatch.chdir(tmp_path)
    r = recipe()
    rows = torch.randn((400, D_IN), generator=torch.Generator().manual_seed(1))
    hook = tmp_path / "results/subjects/toy/activations/h"
    write_store(hook / "held_out", rows)
    write_store(hook / "confirmation", rows[:200])
    frozen = recipe(frozen_decoder=True)
    return {
        "root": tmp_path,
        "recipe": r,
        "saes": write_recipe(tmp_path, r, planted_decoders(5, D_SAE, D_IN, 0.5), [1, 2, 3, 4, 5]),
        "frozen": write_recipe(
            tmp_path, frozen, [initial_decoder(frozen, s, D_IN) for s in (1, 2, 3)], [1, 2, 3]
        ),
        "hook": hook,
    }


def test_the_job_writes_an_evidence_record(world):
    out = world["root"] / "results/stability/toy/x.json"
    stability_job(
        world["saes"] / "manifest.json",
        world["hook"] / "manifest.json",
        out,
        frozen_dir=world["frozen"] / "manifest.json",
    )
    record = read_json(out)
    assert (record["schema"], record["kind"], record["subject"]) == (
        "husai.evidence/1",
        "stability",
        "toy",
    )
    assert (record["recipe"], record["recipe_hash"]) == (world["recipe"].id, world["recipe"].hash)
    assert record["provenance"]["seeds"] == [1, 2, 3, 4, 5]
    assert {
        "S",
        "shared_fraction",
        "activation_r",
        "null_worst",
        "null_frozen",
        "assessable",
    } <= set(record["metrics"])
    assert len(record["pairwise"]["pwmcc"]) == 5
    assert record["per_seed"]["seed"] == [1, 2, 3, 4, 5]
    assert record["trajectory"]["step"] == [1, 2]
    assert record["trajectory"]["explained_variance"] == pytest.approx([0.3, 0.3])
    assert record["nulls_missing"] == {}
    names = [p["path"] for p in record["inputs"]]
    assert sum(n.endswith("sae_weights.safetensors") for n in names) == 8
    assert any(n.endswith("store.json") for n in names)


def test_without_a_store_the_recipe_says_where_its_rows_are(world):
    first = stability_job(world["saes"], None, world["root"] / "a.json")
    assert first["rows"] == 400
    assert first["nulls_missing"] == {"frozen": "no frozen-decoder control was given"}
    assert (
        first["metrics"]["pwmcc"]
        == stability_job(world["saes"], world["hook"], world["root"] / "b.json")["metrics"]["pwmcc"]
    )
    assert (
        stability_job(world["saes"], None, world["root"] / "c.json", split="confirmation")["rows"]
        == 200
    )


def test_one_frozen_seed_is_no_null(world):
    shutil.rmtree(world["frozen"] / "seed2")
    shutil.rmtree(world["frozen"] / "seed3")
    record = stability_job(
        world["saes"], world["hook"], world["root"] / "a.json", frozen_dir=world["frozen"]
    )
    assert "one seed" in record["nulls_missing"]["frozen"]
    assert "null_frozen" not in record["metrics"]


def test_a_missing_piece_is_one_clear_line(world):
    with pytest.raises(HusaiError, match=r"recipe\.json: no such file"):
        stability_job(world["root"], world["hook"], world["root"] / "a.json")
    with pytest.raises(HusaiError, match="absent"):
        stability_job(world["saes"], world["hook"].parent / "absent", world["root"] / "a.json")
    for seed in (2, 3, 4, 5):
        shutil.rmtree(world["saes"] / f"seed{seed}")
    with pytest.raises(HusaiError, match="at least two SAEs"):
        stability_job(world["saes"], world["hook"], world["root"] / "a.json")
    with pytest.raises(HusaiError, match="no seed"):
        shutil.rmtree(world["saes"] / "seed1")
        stability_job(world["saes"], world["hook"], world["root"] / "a.json")


def test_damaged_curves_are_named(tmp_path):
    (tmp_path / "training.parquet").write_bytes(b"nothing")
    with pytest.raises(HusaiError, match="not readable as parquet"):
        training_trajectory(tmp_path / "training.parquet")
    pd.DataFrame({"step": [1]}).to_parquet(tmp_path / "training.parquet")
    with pytest.raises(HusaiError, match="column seed is missing"):
        training_trajectory(tmp_path / "training.parquet")


def save(root, name, W, seed=None, **more):
    save_sae(sae(W, seed, **more), root / name)
    return root / name


def test_comparison_of_independent_saes(tmp_path):
    decoders = planted_decoders(4, D_SAE, D_IN, 0.75)
    paths = [save(tmp_path, f"sae{i}", W, seed=i) for i, W in enumerate(decoders)]
    found = compare_paths(paths)
    record = found.record
    assert record["flags"] == []
    assert record["pairwise"]["pwmcc"][0][1] == pytest.approx(
        pwmcc(decoders[0], decoders[1]), abs=1e-6
    )
    assert record["nulls"]["gaussian"]["pairs"] == list(null_pwmcc(D_IN, D_SAE, 4).pairs)
    assert record["metrics"]["S"]["value"] == pytest.approx(0.75, abs=0.02)
    assert record["metrics"]["shared_fraction"]["value"] == pytest.approx(0.75, abs=0.04)
    assert record["verdict"].startswith("reproducible on these 4 SAEs")
    assert "verdict: reproducible" in found.table
    assert "S4" in found.table
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_mixed_formats_in_one_table(tmp_path):
    """SAELens, sparsify and an old HUSAI checkpoint of the same shape."""
    decoders = planted_decoders(3, D_SAE, D_IN, 0.5)
    first = save(tmp_path, "saelens", decoders[0])
    second = tmp_path / "sparsify"
    second.mkdir()
    W = decoders[1].contiguous()
    tensors = {
        "encoder.weight": W.clone(),
        "encoder.bias": torch.zeros(D_SAE),
        "W_dec": W.clone(),
        "b_dec": torch.zeros(D_IN),
    }
    save_file(tensors, second / "sae.safetensors")
    (second / "cfg.json").write_text(
        json.dumps({"k": 4, "num_latents": D_SAE, "d_in": D_IN, "activation": "topk"})
    )
    W = decoders[2]
    state = {"encoder.weight": W, "encoder.bias": torch.zeros(D_SAE), "decoder.weight": W.T}
    torch.save(
        {"model_state_dict": state, "k": 4, "d_model": D_IN, "d_sae": D_SAE}, tmp_path / "old.pt"
    )
    record = compare_paths([first, second, tmp_path / "old.pt"]).record
    assert [s["format"] for s in record["saes"]] == ["saelens", "sparsify", "husai_pt"]
    assert record["pairwise"]["pwmcc"][1][2] == pytest.approx(
        pwmcc(decoders[1], decoders[2]), abs=1e-6
    )
    assert record["independent"] == [0, 1, 2]


def test_copies_and_equal_seeds_are_flagged_and_not_counted(tmp_path):
    decoders = planted_decoders(3, D_SAE, D_IN, 0.25)
    a, b, c = (
        save(tmp_path, n, W, seed=s) for n, W, s in zip("abc", decoders, (1, 2, 3), strict=True)
    )
    shutil.copytree(a, tmp_path / "copy")
    permuted = save(tmp_path, "permuted", -decoders[0][torch.randperm(D_SAE)], seed=9)
    same_seed = save(
        tmp_path, "same_seed", planted_decoders(1, D_SAE, D_IN, 0.0, seed=5)[0], seed=2
    )
    alone = compare_paths([a, b, c]).record
    found = compare_paths([a, b, c, tmp_path / "copy", permuted, same_seed])
    reasons = {(f["a"], f["b"]): f["reason"] for f in found.record["flags"]}
    assert reasons[0, 3] == "identical weights"
    assert reasons[0, 4] == "the same decoder up to order and sign of rows"
    assert reasons[1, 5] == "the same seed (2)"
    assert found.record["independent"] == [0, 1, 2]
    assert found.record["metrics"] == alone["metrics"]
    assert "S1 and S4: identical weights; not counted as reproduction" in found.table


def test_only_copies_are_no_reproduction(tmp_path):
    W = planted_decoders(1, D_SAE, D_IN, 0.0)[0]
    found = compare_paths([save(tmp_path, "a", W), save(tmp_path, "b", W)])
    assert found.record["metrics"]["S"]["value"] is None
    assert "no pair of independent SAEs" in found.record["verdict"]


def test_two_saes_give_no_interval(tmp_path):
    paths = [save(tmp_path, f"{i}", W) for i, W in enumerate(planted_decoders(2, D_SAE, D_IN, 0.5))]
    found = compare_paths(paths)
    assert found.record["metrics"]["S"]["lcb"] is None
    assert found.record["verdict"].startswith("no interval")
    assert "none" in found.table


def test_rows_add_living_latents_agreement_and_the_covariance_null(tmp_path):
    rows = torch.randn((300, D_IN), generator=torch.Generator().manual_seed(1))
    write_store(tmp_path / "rows", rows)
    bias = torch.zeros(D_SAE)
    bias[:8] = -1e6
    decoders = planted_decoders(3, D_SAE, D_IN, 0.25, shuffle=False)
    paths = [save(tmp_path, f"{i}", W, b_enc=bias) for i, W in enumerate(decoders)]
    found = compare_paths(paths, rows=tmp_path / "rows")
    record, fires = found.record, (rows @ decoders[0].T + bias > 0).sum(1).double().mean()
    assert found.table.splitlines()[1].split()[4:7] == [
        "24",
        f"{fires:.1f}",
        f"{record['saes'][0]['explained_variance']:.4f}",
    ]
    assert " L0 " not in compare_paths(paths).table.splitlines()[0]
    assert [s["living"] for s in record["saes"]] == [24, 24, 24]
    assert record["saes"][0]["dead_fraction"] == 0.25
    assert record["pairwise"]["pwmcc"][0][1] == pytest.approx(
        pwmcc(decoders[0][8:], decoders[1][8:]), abs=1e-6
    )
    assert record["metrics"]["shared_fraction"]["value"] < 0.1
    assert "activation_r" in record["metrics"]
    assert compare_paths(paths, "covariance", rows=tmp_path / "rows").record["null"] == "covariance"
    write_store(tmp_path / "hook" / "held_out", rows)
    assert compare_paths(paths, rows=tmp_path / "hook").record == record
    assert compare_paths(paths, "gaussian", rows=rows).record["null"] == "gaussian"


def test_saes_trained_here_have_an_initialisation_null(world):
    record = compare_paths([world["saes"]], "init").record
    assert len(record["saes"]) == 5
    decoders = [initial_decoder(world["recipe"], s, D_IN) for s in (1, 2, 3, 4, 5)]
    assert record["nulls"]["init"]["mean"] == pytest.approx(
        null_pwmcc(D_IN, D_SAE, 5, "init", decoders=decoders).mean
    )


def test_different_widths_of_dictionary_are_fine(tmp_path):
    A, B = gaussian_decoder(D_IN, 32, 1), gaussian_decoder(D_IN, 48, 2)
    record = compare_paths([save(tmp_path, "a", A), save(tmp_path, "b", B)]).record
    assert record["pairwise"]["pwmcc"][0][1] == pytest.approx(pwmcc(A, B), abs=1e-6)
    pairs = null_pwmcc(D_IN, 32, 2, sizes=[32, 48]).pairs
    assert record["nulls"]["gaussian"]["pairs"] == list(pairs)


def test_bad_input_is_one_clear_line(tmp_path):
    good = save(tmp_path, "good", gaussian_decoder(D_IN, D_SAE, 1))
    with pytest.raises(HusaiError, match="got 1 checkpoint"):
        compare_paths([good])
    with pytest.raises(HusaiError, match="did you mean 'gaussian'"):
        compare_paths([good, good], "gausian")
    narrow = save(tmp_path, "narrow", gaussian_decoder(8, D_SAE, 2))
    with pytest.raises(
        HusaiError, match=r"good \(d_in 16, d_out 16\) and .*narrow \(d_in 8, d_out 8\)"
    ):
        compare_paths([good, narrow])
    W = gaussian_decoder(D_IN, D_SAE, 3)
    W[5] = 0
    hollow = save(tmp_path, "hollow", W)
    with pytest.raises(HusaiError, match=r"hollow: 1 of 32 decoder rows are zero \(first: row 5\)"):
        compare_paths([good, hollow])
    assert compare_paths([good, hollow], drop_zero_rows=True).record["saes"][1]["living"] == 31
    broken = tmp_path / "broken"
    shutil.copytree(good, broken)
    weights = gaussian_decoder(D_IN, D_SAE, 4).contiguous()
    weights[0, 0] = float("nan")
    tensors = {
        "W_enc": weights.T.contiguous(),
        "W_dec": weights,
        "b_enc": torch.zeros(D_SAE),
        "b_dec": torch.zeros(D_IN),
    }
    save_file(tensors, broken / "sae_weights.safetensors")
    with pytest.raises(HusaiError, match=r"broken.*NaN"):
        compare_paths([good, broken])
    other = save(tmp_path, "other", gaussian_decoder(D_IN, D_SAE, 5))
    for kind, reason in (("init", "HUSAI trained"), ("covariance", "needs activations")):
        with pytest.raises(HusaiError, match=reason):
            compare_paths([good, other], kind)
    dead = save(
        tmp_path, "dead", gaussian_decoder(D_IN, D_SAE, 6), b_enc=torch.full((D_SAE,), -1e6)
    )
    with pytest.raises(HusaiError, match="dead: all 32 latents fire on none of the rows"):
        compare_paths([good, dead], rows=torch.randn(50, D_IN))
    with pytest.raises(HusaiError, match="no such file"):
        compare_paths([good, tmp_path / "absent"])
    with pytest.raises(HusaiError, match="wide"):
        compare_paths([good, other], rows=torch.randn(50, 5))
