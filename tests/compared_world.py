"""A small place where recipes are compared: activations, probing data sets and story pairs of one
subject, and the jobs run on them.
"""

import json
from pathlib import Path

import numpy as np
import torch

from husai import cli, provenance
from husai.activations import write_store
from husai.cebench.pairs import Pair
from husai.cebench.store import save_pairs
from husai.config.brought import bring
from husai.evidence import new_record
from husai.jobs.bring import bring_job
from husai.jobs.confirmation import confirmation_job
from husai.jobs.probe_baselines import baselines_job
from husai.jobs.summarize import summarize_job
from husai.jobs.train_recipe import train_job
from husai.planning.specs import BringSpec, ConfirmationSpec, ProbingSpec, TrainSpec
from husai.probing import datasets
from husai.probing.files import save_probe_data
from husai.statistics.recovered import recovered_interval

D_IN, D_SAE, K = 12, 32, 4
SUBJECT, HOOK = "language", "blocks.1.hook_resid_post"
SELECTION, CONFIRMATION = ["96_spam_is", "87_glue_cola"], ["21_headline_istrump", "54_cs_tf"]
PROBING = {"ks": [1, 4, 8], "gate_k": 4, "dense_k": 8, "penalty": "l1", "engine": "fast"}
STORE = Path(f"results/subjects/{SUBJECT}/activations/{HOOK}")
PROBES, PAIRS = (
    Path(f"results/subjects/{SUBJECT}/{name}/manifest.json") for name in ("probes", "pairs")
)
TRAINING = {"steps": 120, "batch_size": 128, "learning_rate": 2e-3}
TOPK = {
    "subject": SUBJECT,
    "hook_name": HOOK,
    "architecture": "topk",
    "d_sae": D_SAE,
    "k": K,
    **TRAINING,
}
FROZEN = {**TOPK, "frozen_decoder": True}
CONFIRM = {
    "seeds": list(range(9001, 9009)),
    "force": False,
    "selection_seeds": [0, 1, 2],
    "datasets": CONFIRMATION,
    "gate_k": 4,
    "stress": {
        "seeds": [9001, 9002, 9003, 9004, 9005],
        "transcoder_subject": SUBJECT,
        "transcoder_hooks": [HOOK, HOOK],
    },
    "training": {SUBJECT: TRAINING},
}
"""Spec of a confirmation."""
N_PAIRS = 6


def rows(n, seed):
    """Sparse combinations of 24 unit directions."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(
        torch.randn(24, D_IN, generator=torch.Generator().manual_seed(0)), dim=1
    )
    return (
        torch.rand(n, 24, generator=g) * (torch.rand(n, 24, generator=g) < 0.12)
    ) @ directions + 0.5


def build():
    """Everything that measuring needs, below the working directory."""
    for split, n in (("train", 3000), ("held_out", 400), ("confirmation", 400)):
        write_store(STORE / split, rows(n, len(split)))
    folder = PROBES.parent / HOOK
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate([*SELECTION, *CONFIRMATION]):
        y = datasets.load_dataset(name).y[:420]
        x = rows(420, 100 + i).numpy() + 0.7 * y[:, None] * rng.normal(size=D_IN)
        tokens = torch.tensor(x, dtype=torch.float32)
        save_probe_data(folder / f"{name}.safetensors", tokens, torch.arange(len(y) + 1), y, "mean")
    provenance.write_json(PROBES, {"text_overlap_rows": 0})
    leak = {"excess": 0.0, "excess_lcb": -0.01, "n": 1000}
    provenance.write_json(f"results/subjects/{SUBJECT}/model/metrics.json", {"leak_probe": leak})
    pairs = {
        s: [
            Pair(f"{s} theme {i % 3}", f"{s} family {i % 3}", f"a {i}", f"b {i}", (i, i))
            for i in range(N_PAIRS)
        ]
        for s in ("selection", "confirmation")
    }
    counts = torch.randint(2, 6, (24,), generator=torch.Generator().manual_seed(3))
    save_pairs(
        PAIRS.parent / f"{HOOK}.safetensors",
        rows(int(counts.sum()), 7),
        counts,
        pairs,
        SUBJECT,
        HOOK,
    )
    for split, names in (("selection", SELECTION), ("confirmation", CONFIRMATION)):
        baselines_job(
            ProbingSpec(**probing(names)),
            PROBES,
            HOOK,
            f"results/external/baselines/{split}/{HOOK}.json",
        )


def probing(names):
    """Config slice of sparse probing."""
    return {**PROBING, "datasets": names}


def train(recipe, seeds=(0, 1, 2), wait=None, **spec):
    """Train a recipe where the workflow would; returns what ``recipe.json`` says."""
    from husai.recipe import Recipe

    out = Path(f"results/saes/{SUBJECT}/{Recipe.from_dict(recipe).id}/manifest.json")
    return train_job(
        TrainSpec(recipe=recipe, seeds=list(seeds), **spec),
        STORE,
        out,
        calibration=wait,
        device="cpu",
    )


def husai(*args):
    """One verb, as a rule calls it."""
    status = cli.main([str(a) for a in args])
    assert status == 0, args


def measure(recipe_id, seeds, stability=True, frozen=None):
    """The records of one recipe that the frontier table reads."""
    saes, found = Path(f"results/saes/{SUBJECT}/{recipe_id}/manifest.json"), []
    for seed in seeds:
        out = Path(f"results/external/{recipe_id}/seed{seed}")
        common = ["--saes", saes, "--seed", seed, "--device", "cpu", "--threads", "1"]
        husai(
            "saebench",
            "--spec",
            json.dumps(probing(SELECTION)),
            *common,
            "--probes",
            PROBES,
            "--baselines",
            f"results/external/baselines/selection/{HOOK}.json",
            "--out",
            out / "saebench.json",
        )
        pairs = json.dumps({"n_pairs": N_PAIRS})
        husai("cebench", "--spec", pairs, *common, "--pairs", PAIRS, "--out", out / "cebench.json")
        found += [out / "saebench.json", out / "cebench.json"]
        found += splicing(saes.parent / f"seed{seed}", out / "faithfulness.json")
    if stability:
        out = Path(f"results/stability/{SUBJECT}/{recipe_id}.json")
        twin = [f"results/saes/{SUBJECT}/{frozen}/manifest.json"] if frozen else []
        husai(
            "stability",
            "--recipe",
            saes,
            "--activations",
            STORE,
            "--frozen",
            *twin,
            "--out",
            out,
            "--device",
            "cpu",
        )
        found.append(out)
    return [str(p) for p in found]


def splicing(sae, out):
    """A record of faithfulness as it would be, of a subject whose model is not here; none of an SAE
    that is not there.
    """
    weights = sae / "sae_weights.safetensors"
    if not weights.is_file():
        return []
    described = provenance.read_json(sae.parent / "recipe.json")
    lost = 0.8 if described["recipe"].get("frozen_decoder") else 0.3
    texts = {"spliced": [lost, lost + 0.01, lost - 0.01], "ablated": [1.0] * 3}
    seed = int(sae.name.removeprefix("seed"))
    record = new_record(
        "faithfulness",
        SUBJECT,
        described["id"],
        described["hash"],
        {"recovered": recovered_interval(texts["spliced"], texts["ablated"])},
        [weights],
        {},
        [seed],
        seed=seed,
        hook_name=HOOK,
        loss="encoder",
        texts=texts,
    )
    provenance.write_json(out, record)
    return [out]


def frontier(inputs):
    """The frontier table over these records."""
    section = {"architectures": ["topk"], "d_sae": D_SAE, "k": K, "seeds": [0, 1, 2]}
    spec = {"gate_k": 4, "frontier": section}
    return summarize_job("frontier", spec, inputs, Path("results/external/frontier.json"))


def confirm(candidate, spec):
    """The confirmation of a selected candidate, as the workflow runs it."""
    for role in ("candidate", "frozen"):
        out = f"results/confirmation/{role}/manifest.json"
        about = ["--candidate", candidate, "--spec", json.dumps(spec), "--out", out]
        husai("train", "--role", role, *about, "--device", "cpu")
        common = ["--saes", out, "--all-seeds", "--device", "cpu", "--out"]
        external = f"results/confirmation/external/{role}"
        held_out = json.dumps({**probing(CONFIRMATION), "split": "confirmation"})
        baselines = ["--baselines", f"results/external/baselines/confirmation/{HOOK}.json"]
        saebench = [*common, f"{external}/saebench.json", "--probes", PROBES, *baselines]
        husai("saebench", "--spec", held_out, *saebench)
        pairs = json.dumps({"split": "confirmation", "n_pairs": N_PAIRS})
        husai("cebench", "--spec", pairs, *common, f"{external}/cebench.json", "--pairs", PAIRS)
        for seed in provenance.read_json(Path(out).with_name("recipe.json"))["seeds"]:
            splicing(
                Path(out).with_name(f"seed{seed}"), Path(external) / f"seed{seed}/faithfulness.json"
            )
    husai(
        "stability",
        *("--recipe", "results/confirmation/candidate", "--frozen", "results/confirmation/frozen"),
        *("--split", "confirmation", "--phase", "confirmation", "--device", "cpu"),
        *("--out", "results/confirmation/stability/candidate.json"),
    )
    confirmation_job(
        ConfirmationSpec(**spec), [str(candidate)], Path("results/confirmation/integrity.json")
    )


def spec_of(path, name="theirs", confirmation=(), **changes):
    """What the workflow passes to the import of brought SAEs, and to the confirmation."""
    found = bring(name, path, SUBJECT, HOOK, confirmation)
    members = {"members": [str(p) for p in found.members], "seeds": list(found.seeds)}
    spec = {
        "name": found.name,
        "subject": found.subject,
        "hook_name": found.hook_name,
        **members,
        "training": TRAINING,
        **changes,
    }
    return spec, {
        found.id: {"members": [str(p) for p in found.fresh], "seeds": list(found.fresh_seeds)}
    }


def imported(path, name="theirs", **changes):
    """Import brought SAEs where the workflow would."""
    return bring_job(
        BringSpec(**spec_of(path, name, **changes)[0]),
        STORE,
        f"results/saes/{SUBJECT}/brought-{name}/manifest.json",
        device="cpu",
    )
