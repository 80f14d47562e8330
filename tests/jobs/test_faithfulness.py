"""The faithfulness verb on a trained recipe of a modular subject: a record per seed from which the
metric can be derived again, the recipe's evidence against a control, and its row of the frontier.
"""

import json

import numpy as np
import pytest
import torch

from husai.cli import main
from husai.errors import HusaiError
from husai.evidence import read_metric
from husai.jobs.subject import subject_job
from husai.planning.specs import SubjectSpec, read_spec
from husai.provenance import read_json, write_json
from husai.sae import SAE, save_sae
from husai.statistics import recovered_interval
from husai.statistics.recovered import faithfulness_metrics, losses_of
from husai.summaries.faithfulness import load_losses

HOOK = "blocks.0.hook_resid_post"
SPEC = {
    "kind": "modular",
    "name": "modular",
    "p": 13,
    "d_model": 16,
    "d_mlp": 32,
    "n_heads": 2,
    "train_fraction": 0.97,
    "max_steps": 300,
    "learning_rate": 5.0e-3,
    "weight_decay": 0.0,
}


def sae(seed, noise):
    """An SAE that passes its input on (positive and negative parts apart), blurred by noise."""
    eye = torch.eye(16)
    decoder = torch.cat([eye, -eye])
    generator = torch.Generator().manual_seed(seed)
    blurred = decoder + noise * torch.randn(decoder.shape, generator=generator)
    cfg = {"hook_name": HOOK, "subject": "modular"}
    return SAE("relu", decoder.T.contiguous(), blurred, torch.zeros(32), torch.zeros(16), cfg=cfg)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    subject_job(read_spec(SubjectSpec, SPEC), root / "model", device="cpu")
    recipe = {"subject": "modular", "hook_name": HOOK, "architecture": "relu", "d_sae": 32}
    for name, noise in (("good", 0.02), ("bad", 0.5)):
        for seed in (1, 2, 3):
            save_sae(sae(seed, noise), root / name / f"seed{seed}")
        about = {"recipe": recipe, "id": name, "hash": name, "seeds": [1, 2, 3]}
        write_json(root / name / "recipe.json", about)
        out = root / "records" / name / "all.json"
        spec = json.dumps({"n_texts": 15, "split": "confirmation"})
        options = ["--saes", root / name, "--model", root / "model", "--out", out, "--spec", spec]
        assert main(["faithfulness", "--all-seeds", *map(str, options), "--device", "cpu"]) == 0
    return root


def records(root, name):
    return [read_json(root / f"records/{name}/seed{s}/faithfulness.json") for s in (1, 2, 3)]


def test_a_record_holds_what_its_metric_is_derived_from(root):
    for record in records(root, "good"):
        texts = record["texts"]
        assert len(texts["spliced"]) == len(texts["ablated"]) == 15
        metric = read_metric(record["metrics"]["recovered"])
        assert metric.value == pytest.approx(
            recovered_interval(texts["spliced"], texts["ablated"]).value
        )
        assert 0.8 < metric.value <= 1.2 and record["phase"] == "confirmation"
        assert record["loss"] == "answer" and len(record["inputs"]) > 2


def test_a_recipe_is_compared_with_its_control_over_seeds(root):
    good, bad = (losses_of(records(root, name)) for name in ("good", "bad"))
    metrics = faithfulness_metrics(good, bad)
    ratio = [1 - sum(s) / sum(good["ablated"]) for s in good["spliced"]]
    assert metrics["recovered"].value == pytest.approx(np.mean(ratio))
    assert metrics["recovered"].n == 3
    assert metrics["recovered_vs_frozen"].value > 0.1


def test_the_frontier_reads_the_records_of_a_recipe(root):
    paths = [str(root / f"records/good/seed{s}/faithfulness.json") for s in (1, 2, 3)]
    found = load_losses(paths)
    assert set(found) == {"good"} and len(found["good"]["spliced"]) == 3


def test_records_of_different_texts_are_not_mixed(root):
    mixed = records(root, "good")
    mixed[1]["texts"]["ablated"] = [1.0] * 15
    with pytest.raises(HusaiError, match="measured on different texts"):
        losses_of(mixed)
