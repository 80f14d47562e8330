"""The release folder: SAELens loads it, its card begins with the verdict and validates, and every
byte of it is covered."""

import json
import shutil

import pandas as pd
import pytest
import report_tree
import torch
import yaml
from released_run import SEEDS, build_run, decide

from husai.cli import main
from husai.errors import HusaiError
from husai.jobs.verify import verify_job
from husai.provenance import read_json, write_json
from husai.release.card import model_card
from husai.sae import load_sae


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    build_run(root)
    with report_tree.inside(root):
        assert main(["export", "--device", "cpu"]) == 0
        assert main(["export", "--certified-only", "--device", "cpu"]) == 0
    return root


@pytest.fixture
def copy(run, tmp_path, monkeypatch):
    """The run, free to be changed, as the working directory."""
    shutil.copytree(run, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return tmp_path / "run"


def card(folder):
    text = (folder / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_saelens_loads_the_release(run):
    from sae_lens import SAE

    name = read_json(run / "results/passport/passport.json")["representative"]
    own = load_sae(run / "results/confirmation/candidate" / name)
    theirs = SAE.load_from_disk(run / "results/release", device="cpu")
    x = torch.randn(50, own.d_in)
    torch.testing.assert_close(theirs.encode(x), own.encode(x))
    assert len(pd.read_parquet(run / "results/release/passport.parquet")) == own.d_sae


def test_the_card_begins_with_the_verdict_and_its_header_validates(run):
    from huggingface_hub import ModelCard

    header, body = card(run / "results/release")
    assert body.startswith("# NOT RELEASED: strict gate failed (2 of 5 gates)\n")
    assert header["library_name"] == "saelens"
    assert header["husai"]["verdict"] == "NOT RELEASED: strict gate failed (2 of 5 gates)"
    assert header["husai"]["hook"] == "blocks.1.hook_resid_post"
    assert "base_model" not in header  # a folder of this machine is no name on the hub
    assert ModelCard.load(run / "results/release/README.md").data.library_name == "saelens"


def test_the_card_has_every_gate_with_its_interval(run):
    _, body = card(run / "results/release")
    for row in report_tree.STRICT_ROWS:
        assert f"| {row['gate']} | " in body
    assert (
        "| reproducibility | stability.S lcb | 0.3127 | [0.2541, 0.3713] | lcb >= 0.3 | FAIL |"
        in body
    )
    record = read_json(run / "results/release/release.json")
    assert record["decision"]["sha256"] in body
    assert record["evidence"][0]["sha256"] in body


def test_a_release_is_written_with_its_verdict_when_the_gate_passed(copy):
    decide([{**row, "passed": True} for row in report_tree.STRICT_ROWS])
    assert main(["export", "--device", "cpu"]) == 0
    assert card(copy / "results/release")[1].startswith("# RELEASED: strict gate passed")


def test_certified_only_keeps_the_certified_latents_and_measures_itself(run):
    whole, cut = (run / "results" / name for name in ("release", "release-certified"))
    table, kept = (pd.read_parquet(folder / "passport.parquet") for folder in (whole, cut))
    assert 0 < len(kept) < len(table)
    assert kept["latent_of_whole"].tolist() == table[table["certified"]]["latent"].tolist()
    big, small = load_sae(whole), load_sae(cut)
    x = torch.randn(50, big.d_in)
    latents = torch.tensor(kept["latent_of_whole"].to_numpy())
    torch.testing.assert_close(small.encode(x), big.encode(x)[:, latents])
    measured = read_json(cut / "release.json")["measured"]
    alone = read_json(whole / "release.json")["measured"]["whole"]
    for name in ("explained_variance", "l0"):
        assert measured["whole"][name] == alone[name]
        assert measured["certified only"][name] != alone[name]
    assert measured["certified only"]["l0"] == pytest.approx(kept["density"].sum(), rel=1e-4)
    recovered = [measured[name]["recovered"]["value"] for name in ("whole", "certified only")]
    assert recovered[0] == pytest.approx(alone["recovered"]["value"], rel=1e-5)
    assert recovered[1] != pytest.approx(recovered[0], rel=1e-3)
    assert f"{len(table) - len(kept)} of the whole SAE were removed" in card(cut)[1]


def test_topk_without_uncertified_latents_keeps_how_often_the_others_fire(tmp_path):
    build_run(tmp_path, "topk")
    with report_tree.inside(tmp_path):
        assert main(["export", "--certified-only", "--device", "cpu"]) == 0
    cut = tmp_path / "results/release-certified"
    density = pd.read_parquet(cut / "passport.parquet")["density"].sum()
    assert load_sae(cut).k == round(density) < 4


@pytest.mark.parametrize("name", ["passport.parquet", "sae_weights.safetensors", "README.md"])
def test_a_changed_byte_is_named_by_verify(copy, capsys, name):
    path = copy / "results/release" / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(HusaiError, match="mismatch"):
        verify_job(".")
    assert f"results/release/{name}: differs from" in capsys.readouterr().out


def test_bad_input_is_one_line(copy, capsys):
    path = copy / "results/passport/passport.json"
    record = read_json(path)
    write_json(path, {**record, "recipe_hash": "f" * 16})
    assert main(["export", "--device", "cpu"]) == 1
    assert "is of recipe ffffffffffffffff" in capsys.readouterr().err
    write_json(path, record)
    table = pd.read_parquet(path.with_suffix(".parquet"))
    table.assign(certified=False).to_parquet(path.with_suffix(".parquet"))
    assert main(["export", "--certified-only", "--device", "cpu"]) == 1
    assert "leaves no SAE" in capsys.readouterr().err
    (copy / "results/gate/strict/release_policy.json").unlink()
    assert main(["export", "--device", "cpu"]) == 1
    assert "release_policy.json" in capsys.readouterr().err


def test_the_release_is_one_of_the_confirmed_seeds(run):
    record = json.loads((run / "results/release/release.json").read_text())
    assert record["sae"]["name"] in {f"seed{s}" for s in SEEDS}
    assert record["passport"]["name"] == record["sae"]["name"]


def test_what_the_card_quotes_stays_text(run):
    record = read_json(run / "results/release/release.json")
    record["model"] = record["hook_name"] = "a`b\n# Forged\n<script>|"
    record["sae"] |= {"name": "x\n## y <img src=x>", "architecture": "[z](http://x)"}
    lines = model_card(record).split("---\n", 2)[2].splitlines()
    head = [line for line in lines if line.startswith("#")]
    own = [line for line in card(run / "results/release")[1].splitlines() if line.startswith("#")]
    assert head == own
    text = next(line for line in lines if "sparse autoencoder of" in line)
    assert text.count("`") == 6 and r"\<img" in text and r"[z\](http" in text
