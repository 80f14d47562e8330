"""Job of the out-of-domain stress test: a recipe's probes against the subject's own, in and out of
domain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from husai import provenance
from husai.compute import resolve_device, use_threads
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.jobs.external import Identified, blocks, identified
from husai.parallel import parallel_map
from husai.probing import datasets
from husai.probing.baselines import dense_probe, unconverged
from husai.probing.files import load_probe_data, probe_data, probe_path
from husai.probing.protocol import probe_datasets
from husai.stress import out_of_domain

CYCLE3_KS = (1, 2, 5)


def ood_job(
    spec: dict,
    sae_dirs: Sequence[str | Path],
    probes: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> dict:
    """Out-of-domain stress test of one recipe over its seeds; writes
    ``results/stress/out_of_domain.json``.

    ``excess_drop`` is (SAE drop - dense drop) on the shipped OOD sets, crossed over seeds and
    families; ``ood_drop`` is the original's number on its alphabetical partition of all given data
    sets.

    Parameters
    ----------
    spec : dict
        ``ood``: data sets with an OOD twin; ``selection`` and ``confirmation``: data sets of the
        alphabetical partition; ``gate_k``, ``penalty``, ``max_rows``.
    sae_dirs : sequence of path
        One checkpoint per seed.
    """
    from husai.statistics import crossed_metric, jackknife_t

    use_threads(threads)
    where = resolve_device(device)
    if not sae_dirs:
        raise HusaiError("ood: no SAE was given; name at least one seed of the candidate")
    saes = [identified(d, spec, where) for d in sae_dirs]
    first = saes[0]
    k, penalty, max_rows = spec.get("gate_k", 16), spec.get("penalty", "l1"), spec.get("max_rows")
    names = datasets.check_names(
        spec.get("ood") or datasets.ood_names(), "external.datasets.ood: data set"
    )
    pairs = [
        tuple(load_probe_data(probes, first.hook_name, n, max_rows, ood=o) for o in (False, True))
        for n in names
    ]
    with unconverged():
        dense = [out_of_domain.dense_drop(*pair) for pair in pairs]
    drops = [
        out_of_domain.sae_drops(sae.encoder, pairs, k, penalty=penalty, device=where)
        for sae in saes
    ]
    table = [out_of_domain.excess_drops(found, dense).tolist() for found in drops]
    alphabetical = _alphabetical(spec, saes, probes, where)
    old = [a["ood_drop"] for a in alphabetical]
    record = new_record(
        "ood",
        first.name["subject"],
        first.name["recipe"],
        first.name["recipe_hash"],
        {
            "excess_drop": crossed_metric(table, [data.family for data, _ in pairs]),
            "ood_drop": jackknife_t(old),
        },
        [p for sae in saes for p in sae.files]
        + [probe_path(probes, first.hook_name, n, o) for n in names for o in (False, True)],
        spec,
        [sae.name["seed"] for sae in saes if sae.name["seed"] is not None],
        hook_name=first.hook_name,
        k=k,
        per_dataset=_rows(saes, pairs, drops, dense, k),
        alphabetical={**alphabetical[0], "per_seed": old},
    )
    provenance.write_json(out, record)
    return record


def _rows(
    saes: Sequence[Identified], pairs: Sequence, drops: Sequence, dense: Sequence, k: int
) -> list[dict]:
    """One row per seed and data set: AUC in and out of domain of the SAE's probe and of the dense
    probe.
    """
    return [
        {
            "dataset": data.name,
            "family": data.family,
            "k": k,
            "seed": sae.name["seed"],
            "sae_id": s["id"],
            "sae_ood": s["ood"],
            "llm_id": d["id"],
            "llm_ood": d["ood"],
        }
        for sae, found in zip(saes, drops, strict=True)
        for (data, _), s, d in zip(pairs, found, dense, strict=True)
    ]


def _alphabetical(
    spec: dict, saes: Sequence[Identified], probes, where: torch.device
) -> list[dict]:
    """The original's drop for every SAE, on all data sets the spec names."""
    wanted = list(
        dict.fromkeys(
            [
                *(spec.get("selection") or []),
                *(spec.get("confirmation") or []),
                *(spec.get("ood") or []),
            ]
        )
    )
    names = datasets.check_names(wanted or datasets.ood_names(), "ood: data set")
    rows: list[list[dict]] = [[] for _ in saes]
    dense: dict[str, dict] = {}
    for block in blocks(names):
        sources = list(probe_data(probes, saes[0].hook_name, block, spec.get("max_rows")))
        with unconverged():
            found = parallel_map(dense_probe, sources)
        dense.update(
            {data.name: result._asdict() for data, result in zip(sources, found, strict=True)}
        )
        for mine, sae in zip(rows, saes, strict=True):
            results = probe_datasets(
                sae.encoder, sources, CYCLE3_KS, penalty=spec.get("penalty", "l1"), device=where
            )
            mine += [result._asdict() for result in results]
    return [out_of_domain.alphabetical_drop(mine, dense) for mine in rows]
