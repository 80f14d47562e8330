"""A small finished run, written as files: what the report room reads. No models, the numbers are
chosen.
"""

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd

from husai import provenance
from husai.evidence import Metric, new_record
from husai.gate.policy import PINNED
from husai.jobs.gate import gate_job
from husai.probing.tables import drop_metric
from husai.statistics import ensemble_metrics, jackknife_t
from husai.stress import stress_metrics

HASH = "0123456789abcdef"


def metric(value, half=None, n=8):
    """A metric with a symmetric interval, or without one."""
    if half is None:
        return Metric(value, n=n)
    return Metric(value, value - half, value + half, n, "jackknife-t")


def out_of_domain(results, weights):
    """The record of three seeds on three data sets, with the values behind its metrics."""
    rows = [
        {"dataset": d, "family": d, "seed": s, "sae_id": 0.8, "sae_ood": 0.79 + 0.005 * (s == 2)}
        | {"llm_id": 0.8, "llm_ood": 0.79, "dense_val_lcb": 0.75}
        for s in (1, 2, 3)
        for d in ("a", "b", "c")
    ]
    metrics = drop_metric(rows) | {"ood_drop": jackknife_t([0.0, 0.0, 0.0])}
    raw = {"per_dataset": rows, "alphabetical": {"per_seed": [0.0, 0.0, 0.0]}}
    record(results / "stress/ood.json", "ood", metrics, [weights], **raw)


def record(path, kind, metrics, inputs=(), **extra):
    """Write one evidence record of the candidate."""
    made = new_record(
        kind,
        "language",
        "topk-d512-k16",
        HASH,
        metrics,
        inputs,
        config={"kind": kind},
        seeds=[1, 2, 3],
        **extra,
    )
    made["provenance"]["command"] = ["husai", kind]
    provenance.write_json(path, made)


def stability(path, s, inputs, n=8):
    """Write a stability record of ``n`` seeds whose mean S is ``s`` against a gaussian null, its
    metrics as the measurement derives them.
    """
    effect, null = 0.02 * (np.arange(n) - (n - 1) / 2), np.full((n, n), 0.3)
    matrix = 0.3 + 0.7 * (s + effect[:, None] + effect[None, :])
    np.fill_diagonal(matrix, 1.0)
    pairs = null[np.triu_indices(n, 1)].tolist()
    nulls = {"gaussian": {"kind": "gaussian", "mean": 0.3, "std": 0.0, "pairs": pairs}}
    names = ("pwmcc", "pwmcc_all", "pw_mcc", "shared", "shared_all", "reappearance", "activation_r")
    stored = {
        "pairwise": {name: matrix.tolist() for name in names}
        | {"same_index": np.eye(n, dtype=int).tolist()},
        "per_seed": {
            "seed": list(range(1, n + 1)),
            "explained_variance": [0.9] * n,
            "start_trace": [20.0] * n,
        },
        "nulls": nulls,
        "nulls_all": nulls,
    }
    record(path, "stability", ensemble_metrics(stored), inputs, **stored)


def summary(path, stage, rows, columns, **extra):
    """Write one stage summary with its manifest."""
    with provenance.job(
        path.with_name("manifest.json"),
        config={"stage": stage},
        seeds=[42, 123],
        data_slice={"rows": 1000},
    ) as work:
        provenance.write_json(
            path,
            {
                "schema": "husai.summary/1",
                "stage": stage,
                "columns": columns,
                "rows": rows,
                **extra,
            },
        )
        frame = pd.DataFrame(
            [{k: v.value if isinstance(v, Metric) else v for k, v in row.items()} for row in rows]
        )
        frame.to_parquet(path.with_suffix(".parquet"))
        work.writes(path, path.with_suffix(".parquet"))


def grid(stage):
    """Rows of a sweep over k for two architectures."""
    rng = np.random.default_rng(len(stage))
    rows = []
    for architecture in ("topk", "relu"):
        for k in (4, 8, 16, 32, 64):
            s = 0.2 + 0.05 * np.log2(k) + float(rng.normal(0, 0.02))
            rows.append(
                {
                    "architecture": architecture,
                    "k": k,
                    "S": metric(s, 0.06),
                    "explained_variance": 0.9 + k / 1000,
                    "l0": k,
                }
            )
    return rows


def decision(root: Path, rows, policy="strict"):
    """Write a gate decision."""
    gates = {}
    for row in rows:
        gates[row["gate"]] = gates.get(row["gate"], True) and row["passed"]
    gates["pass_all"] = all(gates.values())
    failing = [g for g, ok in gates.items() if not ok and g != "pass_all"]
    value = {
        "policy": policy,
        "policy_sha256": PINNED[policy],
        "candidate": {"recipe": "topk-d512-k16", "recipe_hash": HASH, "subject": "language"},
        "metrics": {
            f"{r['condition'].split()[0]}": {
                "value": r["value"],
                "lcb": r["lcb"],
                "ucb": r["ucb"],
                "n": 8,
            }
            for r in rows
        },
        "thresholds": {},
        "gates": gates,
        "reasons": {
            g: next(r["reason"] for r in rows if r["gate"] == g) for g in gates if g != "pass_all"
        },
        "verdict": "RELEASED" if policy == "strict" and gates["pass_all"] else "NOT RELEASED",
        "unattainable": [],
        "failing": failing,
        "rows": rows,
        "provenance": provenance.provenance({"policy": policy}, [1, 2, 3]),
    }
    value["provenance"]["command"] = ["husai", "gate"]
    provenance.write_json(root / f"results/gate/{policy}/release_policy.json", value)


def row(gate, condition, value, lcb, ucb, asked, passed):
    """One judged condition."""
    reason = f"= {value:.4g} {'meets' if passed else 'fails'} {asked.split(' ', 1)[1]}"
    return {
        "gate": gate,
        "condition": condition,
        "value": value,
        "lcb": lcb,
        "ucb": ucb,
        "n": 8,
        "asked": asked,
        "passed": passed,
        "reason": reason,
    }


STRICT_ROWS = [
    row("integrity", "integrity.leak_excess ucb", 0.001, -0.004, 0.006, "ucb <= 0.01", True),
    row("integrity", "integrity.dead_fraction", 0.02, None, None, "point <= 0.1", True),
    row("reproducibility", "stability.S lcb", 0.3127, 0.2541, 0.3713, "lcb >= 0.3", False),
    row("reproducibility", "stability.shared_fraction lcb", 0.41, 0.37, 0.45, "lcb >= 0.3", True),
    row("random_model", "random_model.delta_S lcb", 0.11, 0.07, 0.15, "lcb > 0", True),
    row("ood", "ood.excess_drop ucb", 0.012, -0.004, 0.028, "ucb <= 0.03", True),
    row(
        "saebench", "saebench.delta_vs_dense lcb", -0.0312, -0.0497, -0.0127, "lcb >= -0.02", False
    ),
]


def build(root: Path) -> Path:
    """Write results/ of a finished run below ``root``."""
    results = root / "results"
    weights = results / "saes/language/topk-d512-k16/seed1/sae_weights.safetensors"
    weights.parent.mkdir(parents=True)
    with provenance.job(
        results / "saes/language/topk-d512-k16/manifest.json", config={"k": 16}, seeds=[1, 2, 3]
    ) as work:
        weights.write_bytes(np.random.default_rng(0).bytes(50_000))
        curves = pd.DataFrame(
            {"seed": [1] * 5, "step": range(5), "explained_variance": [0.1, 0.5, 0.8, 0.85, 0.86]}
        )
        curves.to_parquet(results / "saes/language/topk-d512-k16/training.parquet")
        work.writes(weights, results / "saes/language/topk-d512-k16/training.parquet")
    for subject in ("modular", "language"):
        provenance.write_json(
            results / f"subjects/{subject}/model/metrics.json",
            {"held_out_accuracy": 0.9991, "leak_probe": metric(0.0087, 0.002)},
        )
    figures = [
        {
            "kind": "errorbar",
            "x": "k",
            "y": "S",
            "group": "architecture",
            "title": "Stability over k",
        }
    ]
    columns = ["architecture", "k", "S", "explained_variance", "l0"]
    for stage in ("baseline", "ablations", "calibration"):
        headline = f"{stage}: S is 0.31 at k = 16."
        notes = ["Dead latents are excluded."]
        summary(
            results / stage / "summary.json",
            stage,
            grid(stage),
            columns,
            figures=figures,
            headline=headline,
            notes=notes,
        )
    for name in ("frontier", "scaling"):
        summary(results / f"external/{name}.json", name, grid(name), columns, figures=figures)
    provenance.write_json(
        results / "selection/selected_candidate.json",
        {"recipe": "topk-d512-k16", "score": 0.7356815833597771, "pool": 12},
    )
    name = weights.relative_to(root)
    candidate = results / "confirmation/stability/candidate.json"
    for path in (candidate, results / "confirmation/stability.json"):
        stability(path, 0.3127, [name])
    for kind, s in (("random_model", 0.2), ("transcoder", 0.25)):
        other, its = (
            results / f"confirmation/stability/{kind}.json",
            results / f"confirmation/{kind}/seed1/sae_weights.safetensors",
        )
        its.parent.mkdir(parents=True)
        its.write_bytes(np.random.default_rng(len(kind)).bytes(1000))
        stability(other, s, [its.relative_to(root)], 5)
        metrics = stress_metrics(kind, provenance.read_json(candidate), provenance.read_json(other))
        record(results / f"stress/{kind}.json", kind, metrics, [candidate, other])
    out_of_domain(results, name)
    decision(root, STRICT_ROWS)
    decision(
        root,
        [
            row(
                "random_model",
                "baseline.trained_random_delta",
                0.0012,
                6e-5,
                0.002,
                "point >= 0",
                True,
            )
        ],
        "cycle3",
    )
    rows = [
        {"adversary": a, "rejected": True, "by": "reproducibility"}
        for a in ("frozen", "clone", "random")
    ]
    provenance.write_json(
        results / "gate/selftest.json",
        {"false_pass_rate": metric(0.004, 0.003, 2000), "rows": rows},
    )
    return root


def finish(root: Path) -> None:
    """Report, log and index, as at the end of a run."""
    from husai.jobs.log import log_job
    from husai.jobs.report import report_job

    log_job(
        root / "results",
        root / "reports",
        event="start",
        command="snakemake --profile profiles/local",
        config_hash="abc",
    )
    report_job(root / "results", root / "reports")
    log_job(root / "results", root / "reports")
    log_job(root / "results", root / "reports", event="success")


def tamper(path: Path, key: str, value) -> None:
    """Change one top-level field of a JSON file."""
    record = json.loads(path.read_text())
    record[key] = value
    path.write_text(json.dumps(record))


@contextlib.contextmanager
def inside(folder: Path):
    """Work below ``folder``, as a run does."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def build_in(root: Path) -> Path:
    """Build the run with paths relative to its root, as a pipeline leaves them."""
    with inside(root):
        build(Path())
    return root


def finish_in(root: Path) -> Path:
    """Finish the run from its root."""
    with inside(root):
        finish(Path())
    return root


def judge_in(root: Path, **policies) -> Path:
    """Put decisions that the gate makes of the evidence in the place of those that were chosen; by
    policy name, the files or folders of its evidence.
    """
    asked = {"strict": ["results/confirmation", "results/stress"], "cycle3": ["results/stress"]}
    with inside(root):
        for policy, evidence in (asked | policies).items():
            gate_job(policy, output_dir=f"results/gate/{policy}", evidence=evidence, candidate=HASH)
    return root
