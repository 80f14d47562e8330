"""Job of the out-of-domain stress test: a recipe's probes against the subject's own, in and out of domain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from husai import provenance
from husai.compute import resolve_device, use_threads
from husai.errors import HusaiError
from husai.external import datasets, ood
from husai.external.baselines import baseline_rows
from husai.external.latents import SAEEncoder
from husai.external.probe_files import load_probe_data, probe_data, probe_path
from husai.external.probing import probe_datasets
from husai.external.saebench import paired_rows
from husai.stages.external import blocks, missing_hook, sae_files


def ood_job(
    spec: dict, sae_dirs: Sequence[str | Path], probes: str | Path, out: str | Path, *, device: str = "auto", threads: int | None = None
) -> dict:
    """Out-of-domain stress test of one recipe over its seeds; writes ``results/stress/ood.json``.

    ``excess_drop`` is (SAE drop - dense drop) on the shipped OOD sets, crossed over seeds and families; ``ood_drop`` is the original's
    number on its alphabetical partition of all given data sets.

    Parameters
    ----------
    spec : dict
        ``ood``: data sets with an OOD twin; ``selection`` and ``confirmation``: data sets of the alphabetical partition; ``gate_k``,
        ``penalty``, ``max_rows``.
    sae_dirs : sequence of path
        One checkpoint per seed.
    """
    from husai.sae import load_sae
    from husai.stages.cebench import identity
    from husai.statistics import crossed_interval, jackknife_t

    use_threads(threads)
    where = resolve_device(device)
    if not sae_dirs:
        raise HusaiError("ood: no SAE was given; name at least one seed of the candidate")
    saes = [load_sae(d, device=where) for d in sae_dirs]
    ids = [identity(Path(d), sae, spec) for d, sae in zip(sae_dirs, saes, strict=True)]
    hook, k, penalty = ids[0]["hook_name"] or missing_hook(sae_dirs[0]), spec.get("gate_k", 16), spec.get("penalty", "l1")
    names = datasets.check_names(spec.get("ood") or datasets.ood_names(), "external.datasets.ood: data set")
    loaded = [
        (load_probe_data(probes, hook, n, spec.get("max_rows")), load_probe_data(probes, hook, n, spec.get("max_rows"), ood=True))
        for n in names
    ]
    dense = [ood.dense_drop(*pair) for pair in loaded]
    drops = [ood.sae_drops(SAEEncoder(sae), loaded, k, penalty=penalty, device=where) for sae in saes]
    table = [ood.excess_drops(found, dense).tolist() for found in drops]
    families = [pair[0].family for pair in loaded]
    alphabetical = _alphabetical(spec, saes, probes, hook, where)
    per_dataset = [
        {
            "dataset": n,
            "family": f,
            "k": k,
            "seed": name["seed"],
            "sae_id": s["id"],
            "sae_ood": s["ood"],
            "llm_id": d["id"],
            "llm_ood": d["ood"],
        }
        for name, found in zip(ids, drops, strict=True)
        for n, f, s, d in zip(names, families, found, dense, strict=True)
    ]
    inputs = [p for d in sae_dirs for p in sae_files(Path(d))] + [probe_path(probes, hook, n, o) for n in names for o in (False, True)]
    record = provenance.evidence(
        "ood",
        ids[0]["subject"],
        ids[0]["recipe"],
        ids[0]["recipe_hash"],
        {
            "excess_drop": crossed_interval(table, families).metric(),
            "ood_drop": jackknife_t([a["ood_drop"] for a in alphabetical]).metric(),
        },
        inputs,
        spec,
        [name["seed"] for name in ids if name["seed"] is not None],
        hook_name=hook,
        k=k,
        per_dataset=per_dataset,
        alphabetical={**alphabetical[0], "per_seed": [a["ood_drop"] for a in alphabetical]},
    )
    provenance.write_json(out, record)
    return record


def _alphabetical(spec: dict, saes: Sequence, probes, hook: str, where: torch.device) -> list[dict]:
    """The original's drop for every SAE, on all data sets the spec names."""
    wanted = list(dict.fromkeys([*(spec.get("selection") or []), *(spec.get("confirmation") or []), *(spec.get("ood") or [])]))
    names = datasets.check_names(wanted or datasets.ood_names(), "ood: data set")
    penalty, ks = spec.get("penalty", "l1"), [1, 2, 5]
    rows = [[] for _ in saes]
    base: dict[str, dict] = {}
    for block in blocks(names):
        sources = list(probe_data(probes, hook, block, spec.get("max_rows")))
        base.update({row["dataset"]: row for row in baseline_rows(sources, ks, penalty=penalty)})
        for found, sae in zip(rows, saes, strict=True):
            found += probe_datasets(SAEEncoder(sae), sources, ks, penalty=penalty, device=where)
    dense = {n: row["dense"] for n, row in base.items()}
    return [ood.alphabetical_drop(paired_rows(found, base), dense) for found in rows]
