"""The page of ``husai passport`` quotes held-out text of the subject, with its source and
licence."""

import json
import re

import pytest
import torch
from hub import build

from husai.cli import main
from husai.jobs.subject import subject_job
from husai.planning.specs import PretrainedSpec
from husai.sae import SAE, save_sae

SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    build.encoder_model(root / "bert")
    (root / "text.txt").write_text("\n\n".join(build.documents(400, seed=2)))
    source = {"kind": "files", "paths": [str(root / "text.txt")], "licence": "CC0-1.0"}
    corpus = {"sources": [source], "confirmation_fraction": 0.3}
    spec = {"name": "s", "kind": "pretrained", "model": str(root / "bert"), "corpus": corpus}
    subject_job(PretrainedSpec(**spec), root / "model", device="cpu")
    for seed in SEEDS:
        W = torch.randn(20, build.WIDTH, generator=torch.Generator().manual_seed(seed))
        cfg = {"hook_name": build.HOOK, "subject": "s", "seed": seed}
        zeros = torch.zeros(20), torch.zeros(build.WIDTH)
        save_sae(SAE("topk", W.T.contiguous(), W, *zeros, k=2, cfg=cfg), root / f"saes/seed{seed}")
    return root


def page_of(root, out, *options):
    args = ["passport", root / "saes", "--out", root / out, "--split", "confirmation", *options]
    assert main([*map(str, args), "--device", "cpu"]) == 0
    html = (root / out / "passport.html").read_text()
    blocks = {}
    for name in ("data", "contexts"):
        found = re.search(
            rf'<script id="{name}" type="application/json">(.*?)</script>', html, re.S
        )
        blocks[name] = json.loads(found.group(1))
    return blocks


def test_the_page_quotes_the_strongest_texts_of_each_latent(root):
    found = page_of(root, "quoted", "--model", root / "model", "--contexts", "2")
    documents = " ".join(build.documents(400, seed=2)).lower()
    assert found["contexts"]
    for quoted in found["contexts"].values():
        peaks = [max(one["activations"]) for one in quoted]
        assert 1 <= len(quoted) <= 2 and peaks == sorted(peaks, reverse=True) and peaks[-1] > 0
        words = "".join(quoted[0]["tokens"]).lower().split()
        assert any(word in documents for word in words)
    assert found["data"]["text_source"].endswith("text.txt (licence: CC0-1.0)")


def test_without_the_model_the_page_quotes_nothing(root):
    found = page_of(root, "bare")
    assert found["contexts"] == {}
    assert found["data"]["text_source"] is None


def test_the_page_shows_the_sae_that_stands_for_its_recipe(root):
    found = page_of(root, "chosen")
    record = json.loads((root / "chosen/passport.json").read_text())
    counts = {
        sae["name"]: sum(y * n for y, n in enumerate(sae["latents_by_reappearances"]))
        / sae["living"]
        for sae in record["saes"]
    }
    assert counts[record["representative"]] == max(counts.values())
    assert found["data"]["summary"]["name"] == record["representative"]
