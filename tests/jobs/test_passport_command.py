"""``husai passport PATH PATH ...`` as a user types it: table, record, page and manifest, and bad
input as one line."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from husai.activations import write_store
from husai.cli import main
from husai.passport.planted import PlantedDesign, planted_sae, planted_world
from husai.provenance import sha256_file
from husai.sae import save_sae

PLAN = PlantedDesign(d_in=24, d_sae=48, l0=3, n_rows=800)


@pytest.fixture
def made(tmp_path):
    """Folder of four seeds, and a store of held-out rows."""
    world = planted_world(PLAN, 4)
    for seed in range(4):
        sae, _ = planted_sae(world, seed)
        sae.cfg = {"seed": seed, "subject": "planted", "recipe_id": "topk-d48-k3"}
        save_sae(sae, tmp_path / f"saes/seed{seed}")
    write_store(tmp_path / "rows/held_out", world.rows)
    return tmp_path


def run(capsys, *args):
    """Exit status, standard output, and the lines of standard error."""
    status = main(["passport", *map(str, args), "--device", "cpu"])
    out, err = capsys.readouterr()
    return status, out, err.strip().split("\n")


def test_a_folder_of_seeds_gets_passports(made, capsys):
    out = made / "out"
    status, said, _ = run(
        capsys, made / "saes", "--activations", made / "rows", "--out", out, "--page-of", "seed2"
    )
    assert status == 0
    table = pd.read_parquet(out / "passport.parquet")
    assert len(table) == 4 * 48
    assert list(table.columns[:2]) == ["sae", "latent"]
    record = json.loads((out / "passport.json").read_text())
    certified = table.groupby("sae")["certified"].sum()
    for sae in record["saes"]:
        assert sae["certified"] == certified[sae["name"]] > 5
        assert f"{sae['name']}: {sae['certified']} of" in said
    share = record["metrics"]["certified_share"]["value"]
    living = table[table["alive"]]
    assert share == pytest.approx(living.groupby("sae")["certified"].mean().mean())
    assert (record["subject"], record["recipe"]) == ("planted", "topk-d48-k3")
    assert table.loc[table["sae"] == "seed1", "decoder_cosine:seed1"].isna().all()
    assert "topk-d48-k3, seed2" in (out / "passport.html").read_text()


def test_the_manifest_names_what_was_read_and_written(made, capsys):
    run(capsys, made / "saes", "--activations", made / "rows", "--out", made / "out")
    manifest = json.loads((made / "out/manifest.json").read_text())
    for output in manifest["outputs"]:
        assert sha256_file(made / "out" / output["path"]) == output["sha256"]
    read = [one["path"] for one in manifest["inputs"]]
    assert str(made / "saes/seed3/sae_weights.safetensors") in read
    assert str(made / "rows/held_out/store.json") in read


def test_rows_may_lie_in_a_file(made, capsys):
    np.save(made / "rows.npy", planted_world(PLAN, 4).rows.numpy())
    for where in ("rows", "rows.npy"):
        run(capsys, made / "saes", "--activations", made / where, "--out", made / f"of {where}")
    stored, filed = (
        pd.read_parquet(made / f"of {where}" / "passport.parquet") for where in ("rows", "rows.npy")
    )
    pd.testing.assert_frame_equal(stored, filed)
    read = json.loads((made / "of rows.npy/manifest.json").read_text())["inputs"]
    assert str(made / "rows.npy") in [one["path"] for one in read]


def test_without_activations_it_says_what_is_not_known(made, capsys):
    status, said, _ = run(capsys, made / "saes", "--out", made / "out")
    assert status == 0
    assert "Without activations" in said
    table = pd.read_parquet(made / "out/passport.parquet")
    assert not table["certified"].any()
    assert json.loads((made / "out/passport.json").read_text())["metrics"] == {}


def test_saes_of_one_seed_certify_nothing(made, capsys):
    for seed in range(4):
        path = made / f"saes/seed{seed}/cfg.json"
        config = json.loads(path.read_text())
        config["metadata"]["seed"] = 7
        path.write_text(json.dumps(config))
    _, said, _ = run(capsys, made / "saes", "--activations", made / "rows", "--out", made / "out")
    assert "no trainings of their own" in said
    assert not pd.read_parquet(made / "out/passport.parquet")["certified"].any()


def test_bad_input_is_one_line(made, capsys):
    save_sae(planted_sae(planted_world(PlantedDesign(d_in=16), 1), 1)[0], made / "other")
    write_store(made / "narrow", torch.randn(100, 8))
    first = made / "saes/seed0"
    elsewhere, _ = planted_sae(planted_world(PLAN, 4), 9)
    elsewhere.cfg = {"subject": "other"}
    save_sae(elsewhere, made / "elsewhere")
    for message, args in {
        "1 SAE cannot show": [first],
        "different models or hooks": [first, made / "other"],
        "elsewhere of other": [first, made / "elsewhere"],
        "d_in = 24": [made / "saes", "--activations", made / "narrow"],
        "no SAE is named 'seed9'": [made / "saes", "--page-of", "seed9"],
        "fdr 2.0": [made / "saes", "--fdr", "2"],
        "nowhere": [made / "saes", made / "nowhere"],
    }.items():
        status, _, err = run(capsys, *args, "--out", made / "bad")
        assert status == 1
        assert len(err) == 1
        assert message in err[0]
        assert not (made / "bad/passport.json").exists()


def test_rows_of_a_file_give_what_a_store_of_them_gives(made, capsys):
    from husai.activations import ActivationStore

    np.save(made / "rows.npy", ActivationStore.open(made / "rows/held_out").tensor().numpy())
    said = [
        run(capsys, made / "saes", "--activations", made / rows, "--out", made / "out")[1]
        for rows in ("rows", "rows.npy")
    ]
    assert said[0] == said[1]
    manifest = json.loads((made / "out/manifest.json").read_text())
    assert any(entry["path"].endswith("rows.npy") for entry in manifest["inputs"])


def test_a_recipe_that_has_one_seed_gets_passports_without_reappearance(made, capsys):
    """SAEs that are brought alone go through the pipeline: it ends with a page all the same."""
    for seed in (1, 2, 3):
        shutil.rmtree(made / f"saes/seed{seed}")
    (made / "saes/recipe.json").write_text("{}")
    status, said, err = run(
        capsys, made / "saes", "--activations", made / "rows", "--out", made / "out"
    )
    assert status == 0, err
    assert "1 independent SAE give" in said
    table = pd.read_parquet(made / "out/passport.parquet")
    assert not table["certified"].any()
    assert table["density"].notna().all() and table["theta"].isna().all()
    assert (made / "out/passport.html").is_file()
