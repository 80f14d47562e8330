"""Evidence and artifacts that the gate's tests share: one candidate that passes strict, and the
original's JSON shapes.
"""

from __future__ import annotations

import json
from pathlib import Path

from husai.evidence import SCHEMA, Metric
from husai.recipe import Recipe

RECIPE = Recipe("language", "blocks.3.hook_resid_post", "topk", 1024, 32)
HASH = RECIPE.hash
PASSING = {
    "integrity": {
        "leak_excess": 0.0,
        "plateau_gain": 0.001,
        "cos_to_init": 0.3,
        "dead_fraction": 0.02,
        "text_overlap_rows": 0,
    }
    | {"shared_init_pairs": 0},
    "stability": {
        "S": 0.6,
        "shared_fraction": 0.6,
        "S_worst_seed": 0.5,
        "shared_fraction_weighted": 0.6,
        "activation_agreement": 0.6,
        "null_worst": 0.4,
        **dict.fromkeys(("null_gaussian", "null_init", "null_covariance"), 0.3),
        **dict.fromkeys(("null_crowding", "null_frozen"), 0.3),
        "explained_variance": 0.7,
        "explained_variance_vs_frozen": 0.4,
        "l0_per_d_in": 0.1,
        "dense_fraction": 0.02,
        "redundancy": 0.02,
        "assessable": 1,
        "clone_pairs": 0,
    },
    "random_model": {"delta_S": 0.3, "delta_probing": 0.1},
    "transcoder": {"delta_S": 0.02},
    "ood": {"excess_drop": 0.0},
    "saebench": {
        "delta_vs_frozen": 0.05,
        "delta_vs_neurons": 0.05,
        "delta_vs_pca": 0.0,
        "delta_vs_dense": 0.0,
    },
    "cebench": {"delta_vs_frozen": 0.1},
    "faithfulness": {"recovered": 0.8, "recovered_vs_frozen": 0.5},
}
SETTINGS = {
    "saebench": {
        "probing": {"engine": "official", "pooling": "mean", "penalty": "l1"}
        | {"gate_k": 16, "dense_k": 128},
        "n_informative": 12,
        "n_families": 8,
    },
    "cebench": {"n_pairs": 100},
    "ood": {
        "probing": {"pooling": "mean", "penalty": "l1", "gate_k": 16},
        "n_informative": 7,
        "n_families": 3,
    },
    "faithfulness": {"n_texts": 100},
}
"""What the strict policy fixes, as the records of each kind state it."""
EXACT = ("text_overlap_rows", "shared_init_pairs", "clone_pairs", "assessable")


def record(kind: str, metrics: dict, recipe_hash: str = HASH, seeds: int = 8, **extra) -> dict:
    """One evidence record; plain numbers get an interval of +-0.01."""
    full = {
        k: interval(k, v)
        if isinstance(v, (int, float))
        else v.to_json()
        if isinstance(v, Metric)
        else v
        for k, v in metrics.items()
    }
    about = {"code_hash": "code", "config_hash": f"config of {kind}", "seeds": list(range(seeds))}
    head = {
        "schema": SCHEMA,
        "kind": kind,
        "subject": "language",
        "recipe": "topk-d1024-k32",
        "recipe_hash": recipe_hash,
    }
    body = {"metrics": full, "inputs": [], "provenance": about}
    return {**head, **body, **SETTINGS.get(kind, {}), **extra}


def interval(name: str, value: float, half: float = 0.01, n: int = 8) -> dict:
    half = 0.0 if name in EXACT else half
    return Metric(value, value - half, value + half, n, "jackknife-t").to_json()


def passing(**changes) -> list[dict]:
    """Records that pass strict, with whole metrics replaced by ``kind__metric=value`` (None removes
    it).
    """
    kinds = {kind: dict(metrics) for kind, metrics in PASSING.items()}
    for key, value in changes.items():
        kind, name = key.split("__")
        if value is None:
            del kinds[kind][name]
        else:
            kinds[kind][name] = value
    return [record(kind, metrics) for kind, metrics in kinds.items()]


def write(path: Path, value) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def phase4a(difference=0.1, low=0.5, high=0.4) -> dict:
    return {
        "comparison": {"difference": difference},
        "trained": {"ci95_low": low},
        "random": {"ci95_high": high},
    }


def frontier_record(architecture: str, seed: int, saebench, cebench, ev=0.8, **extra) -> dict:
    """A frontier record in the original's shape."""
    return {
        "architecture": architecture,
        "seed": seed,
        "checkpoint": f"run/checkpoints/{architecture}_seed{seed}/sae_final.pt",
        "train_metrics": {"explained_variance": ev},
        "saebench": {"summary": {"best_minus_llm_auc": saebench}},
        "cebench": {
            "delta_vs_matched_baseline": {"interpretability_score_mean_max": cebench},
            "custom_metrics": {"interpretability_score_mean_max": 7.0},
            "sae_meta": {"d_sae": 1024},
            "matched_baseline_metrics": {"interpretability_score_mean_max": 47.951611585617066},
        },
        "saebench_returncode": 0,
        "cebench_returncode": 0,
        **extra,
    }
