"""``husai official --saes``: cache, command and our own figures rest on the same activations."""

import types
from pathlib import Path

import pytest
import torch

from husai.cli import main
from husai.errors import HusaiError
from husai.jobs.official_inputs import saebench_inputs
from husai.official.results import our_probing
from husai.probing import datasets
from husai.provenance import write_json
from husai.sae import SAE, save_sae

HOOK, NAME = "blocks.0.hook_resid_post", "66_living-room"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe of one seed, and a subject that gives every row activations of its own."""
    monkeypatch.chdir(tmp_path)
    W = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(16), torch.zeros(8)
    sae = SAE("topk", W.T.contiguous(), W, *zeros, k=4, cfg={"subject": "mine", "hook_name": HOOK})
    save_sae(sae, Path("results/saes/mine/r/seed3"))

    def activations(prompts, hooks, positions, max_tokens):
        assert (hooks, positions) == ([HOOK], "last")
        made = torch.randn(len(prompts), 8, generator=torch.Generator().manual_seed(1))
        return {HOOK: made}

    subject = types.SimpleNamespace(activations=activations)
    monkeypatch.setattr("husai.subjects.load_subject", lambda *_: subject)
    return Path("results/saes/mine/r")


def test_the_program_and_our_figures_read_the_same_activations(recipe, tmp_path):
    made = saebench_inputs(recipe, 3, tmp_path / "out", names=[NAME], ks=[1, 2], device="cpu")
    cached = torch.load(
        tmp_path / f"out/cache/model_activations_mine/{NAME}_{HOOK}.pt", weights_only=True
    )
    assert cached.shape == (len(datasets.load_dataset(NAME).y), 8)
    assert set(our_probing(made["ours"])) == {(NAME, m) for m in ("sae k=1", "sae k=2", "llm")}
    command = made["command"]
    assert command[command.index("--sae") + 1].endswith("r/seed3")
    assert command[command.index("--cache") + 1] == str(tmp_path / "out/cache")


def test_what_is_missing_is_named(recipe, tmp_path, capsys):
    with pytest.raises(HusaiError, match=r"--seed: 4 is not among the seeds \[3\]"):
        saebench_inputs(recipe, 4, tmp_path, names=[NAME])
    with pytest.raises(HusaiError, match="--datasets: name some"):
        saebench_inputs(recipe, 3, tmp_path)
    with pytest.raises(HusaiError, match="nearest: 66_living-room"):
        saebench_inputs(recipe, 3, tmp_path, names=["66_living-rom"])
    write_json("results/subjects/mine/probes/manifest.json", {"data_slice": {"datasets": [NAME]}})
    assert main(["official", "--saes", str(recipe), "--program", "cebench", "--seed", "3"]) == 1
    assert "--saes needs --program saebench and --seed" in capsys.readouterr().err
