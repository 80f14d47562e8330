"""Baselines of sparse probing at one hook, for every SAE (``husai saebench --baselines-only``)."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError
from husai.progress import Progress
from husai.provenance import folder

BLOCK = 8
"""Data sets held in memory at once: more keep more cores busy, fewer need less memory (a full set
of 512 columns takes some 40 MB)."""
SCHEMA = "husai.probe_baselines/1"


def run(args: Namespace) -> None:
    """Measure the baselines of ``--hook``."""
    from husai.planning.specs import ProbingSpec, read_spec

    if args.hook is None:
        raise HusaiError("--baselines-only needs --hook; name the hook point")
    spec = read_spec(ProbingSpec, args.spec)
    baselines_job(spec, args.probes, args.hook, args.out[0])


def settings_of(spec) -> dict[str, Any]:
    """Settings of sparse probing as records keep them, with the data sets by name.

    Raises
    ------
    HusaiError
        A data set that does not exist, a gate's k that is not measured, a k that the engine does
        not take.
    """
    from husai.probing import datasets
    from husai.probing.solver import check_ks
    from husai.probing.splits import PROBE_SEED

    if spec.engine == "fast":
        check_ks(spec.ks)
    for key in ("gate_k", "dense_k"):
        if getattr(spec, key) not in spec.ks:
            raise HusaiError(
                f"external.probing.{key}: {getattr(spec, key)} is not among external.probing.ks "
                f"{spec.ks}; add it"
            )
    names = spec.datasets or list(datasets.dataset_names())
    return {
        "engine": spec.engine,
        "ks": spec.ks,
        "gate_k": spec.gate_k,
        "dense_k": spec.dense_k,
        "penalty": spec.penalty,
        "pooling": spec.pooling,
        "max_rows": spec.max_rows,
        "probe_seed": PROBE_SEED,
        "datasets": datasets.check_names(names, "external.datasets: data set"),
    }


def protocol_of(settings: dict) -> dict:
    """What a probe result depends on besides weights and activations."""
    return {key: settings[key] for key in ("ks", "penalty", "pooling", "probe_seed", "max_rows")}


def baselines_job(spec, probes: str | Path, hook_name: str, out: str | Path) -> dict:
    """Write the baselines of one hook, ``results/external/baselines/{split}/{hook}.json``.

    An interrupted job goes on with the data sets that are missing.
    """
    from husai.probing.baselines import baseline_rows
    from husai.probing.files import activation_hashes, probe_data
    from husai.probing.partial import Partial

    settings = settings_of(spec)
    hashes = activation_hashes(probes, hook_name, settings["datasets"])
    protocol = protocol_of(settings)
    partial = Partial(
        out, {n: provenance.hash_json(["baselines", sha, protocol]) for n, sha in hashes.items()}
    )
    progress = Progress(len(hashes), f"baselines at {hook_name}: data sets")
    progress.update(len(hashes) - len(partial.missing))
    for names in blocks(partial.missing):
        sources = list(probe_data(probes, hook_name, names, spec.pooling, spec.max_rows))
        rows = baseline_rows(sources, spec.ks, penalty=spec.penalty, seed=settings["probe_seed"])
        if spec.engine == "official":
            rows = _official_baselines(rows, sources, hook_name, settings, hashes, Path(out).parent)
        partial.add({row["dataset"]: row for row in rows})
        progress.update(len(rows))
    record = {
        "schema": SCHEMA,
        "subject": folder(probes).resolve().parent.name,
        "hook_name": hook_name,
        "probing": settings,
        "activations": hashes,
        "datasets": {row["dataset"]: row for row in partial.values()},
        "provenance": provenance.provenance(spec.values()),
    }
    provenance.write_json(out, record)
    partial.finish()
    return record


def _official_baselines(
    rows: list[dict], sources: list, hook: str, settings: dict, hashes: dict, out_dir: Path
) -> list[dict]:
    """Dense probe and neurons by sae-probes itself; PCA-k has no counterpart there at fixed k."""
    from husai.official.engine import dense_officially, probe_officially, results_dir

    out = []
    for row, source in zip(rows, sources, strict=True):
        content = {"neurons": hashes[source.name], "protocol": protocol_of(settings)}
        results = results_dir(out_dir / "official", content)
        seed = settings["probe_seed"]
        options = {"results": results, "penalty": settings["penalty"], "seed": seed}
        neurons = probe_officially(source.activations(), source, hook, settings["ks"], **options)
        names = ("auc", "val_auc", "accuracy", "f1", "C")
        values = {str(r.k): {name: getattr(r, name) for name in names} for r in neurons}
        dense = dense_officially(source, hook, results=results, seed=seed)
        out.append({**row, "dense": dense, "neurons": values})
    return out


def read_baselines(path: str | Path, probes: str | Path, hook_name: str, settings: dict) -> dict:
    """Baselines fit for this hook, protocol and these activations.

    Raises
    ------
    HusaiError
        The file holds no baselines of this hook, or a setting of the protocol or the activations of
        a data set differ; the error names which.
    """
    from husai.probing.files import activation_hashes

    base = provenance.read_json(path)
    if base.get("schema") != SCHEMA or base.get("hook_name") != hook_name:
        raise HusaiError(
            f"{path}: holds no baselines of hook '{hook_name}' (found {base.get('hook_name')!r}); "
            "name the file of that hook"
        )
    for key, value in protocol_of(settings).items():
        found = base["probing"].get(key)
        fits = set(value) <= set(found or []) if key == "ks" else found == value
        if not fits:
            raise HusaiError(
                f"{path}: baselines were measured with {key} = {found}, the spec says {value}; "
                "run --baselines-only again"
            )
    now = activation_hashes(probes, hook_name, settings["datasets"])
    for name, sha in now.items():
        if base["activations"].get(name) != sha:
            raise HusaiError(
                f"{path}: no baseline for the present activations of data set '{name}'; run "
                "--baselines-only again"
            )
    return base


def blocks(names: Sequence[str]) -> list[list[str]]:
    """Names in groups small enough to hold their activations at once."""
    return [list(names[i : i + BLOCK]) for i in range(0, len(names), BLOCK)]
