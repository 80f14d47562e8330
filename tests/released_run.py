"""A small finished run with something to release: an encoder with random weights, four SAEs that
share most of their latents, passports, and a decision."""

from pathlib import Path

import report_tree
import torch
from hub import build

from husai.cli import main
from husai.jobs.activations import activations_job
from husai.jobs.subject import subject_job
from husai.planning.specs import ActivationsSpec, PretrainedSpec
from husai.provenance import file_records, read_json, write_json
from husai.sae import SAE, save_sae

SEEDS, SHARED, PRIVATE = (9001, 9002, 9003, 9004), 24, 8
RECIPE = {"subject": "language", "hook_name": build.HOOK, "architecture": "relu", "d_sae": 32}


def sae_of(seed: int, architecture: str = "relu") -> SAE:
    """Shared directions, a little turned, and private ones, in an order of its own."""
    common = torch.randn(SHARED, build.WIDTH, generator=torch.Generator().manual_seed(0))
    own = torch.Generator().manual_seed(seed)
    rows = torch.cat(
        [
            common + 0.2 * torch.randn(common.shape, generator=own),
            torch.randn(PRIVATE, build.WIDTH, generator=own),
        ]
    )
    W_dec = torch.nn.functional.normalize(rows[torch.randperm(len(rows), generator=own)], dim=1)
    notes = {"subject": "language", "hook_name": build.HOOK, "seed": seed}
    notes |= {"recipe_id": "relu-d32", "recipe_hash": report_tree.HASH}
    bias = torch.full((len(rows),), -0.5)
    k = 4 if architecture == "topk" else None
    return SAE(
        architecture, W_dec.T.contiguous(), W_dec, bias, torch.zeros(build.WIDTH), k=k, cfg=notes
    )


def build_run(root: Path, architecture: str = "relu") -> None:
    """Write the run below ``root``, up to passports and decision."""
    build.encoder_model(root / "bert")
    (root / "text.txt").write_text("\n\n".join(build.documents(600, seed=2)))
    corpus = {
        "sources": [{"kind": "files", "paths": [str(root / "text.txt")]}],
        "confirmation_fraction": 0.3,
        "held_out_fraction": 0.1,
    }
    spec = {"name": "language", "kind": "pretrained", "model": str(root / "bert")}
    with report_tree.inside(root):
        subject = Path("results/subjects/language")
        subject_job(PretrainedSpec(**spec, corpus=corpus), subject / "model", device="cpu")
        wanted = {"train_rows": 200, "held_out_rows": 200, "confirmation_rows": 1200}
        rows = ActivationsSpec(name="language", rows=wanted)
        stored = subject / "activations" / build.HOOK
        activations_job(rows, subject / "model", build.HOOK, stored, device="cpu")
        candidate = Path("results/confirmation/candidate")
        for seed in SEEDS:
            save_sae(sae_of(seed, architecture), candidate / f"seed{seed}")
        about = {"id": "relu-d32", "hash": report_tree.HASH, "seeds": list(SEEDS)}
        write_json(candidate / "recipe.json", {**about, "recipe": RECIPE})
        passport = f"passport {candidate} --split confirmation --out results/passport --device cpu"
        assert main(passport.split()) == 0
        decide(report_tree.STRICT_ROWS)


def decide(rows) -> None:
    """Write the strict decision, here."""
    report_tree.decision(Path(), rows)
    path = Path("results/gate/strict/release_policy.json")
    inputs = file_records(["results/passport/passport.json"])
    write_json(path, {**read_json(path), "inputs": inputs})
