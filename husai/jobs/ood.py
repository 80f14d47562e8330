"""Verb ``ood``: a recipe's probes against the subject's own, in and out of domain."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.jobs.arguments import add_path, describe
from husai.jobs.measured import Identified, add_saes, identified, recipe_folder, seed_directories
from husai.jobs.probe_baselines import blocks

CYCLE3_KS = (1, 2, 5)
"""Those of the original campaign, whose policy takes the best of them."""


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="SAEs of a recipe, probe activations",
        writes="evidence",
        costs="seconds per SAE",
    )
    add_saes(command)
    add_path(command, "--out", "JSON file to write", required=True)
    add_path(command, "--probes", "probe activations: folder or manifest", required=True)


def run(args: Namespace) -> None:
    """Out-of-domain evidence of a recipe over all its seeds."""
    from husai.planning.specs import OODSpec, read_spec

    spec = read_spec(OODSpec, args.spec)
    _, directories = seed_directories(recipe_folder(args))
    ood_job(spec, directories, args.probes, args.out, device=args.device)


def ood_job(
    spec,
    sae_dirs: Sequence[str | Path],
    probes: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
) -> dict:
    """Out-of-domain stress test of one recipe over its seeds; writes ``results/stress/ood.json``.

    ``excess_drop`` is (SAE drop - dense drop) on the shipped OOD sets, crossed over seeds and
    families of those that are informative in their domain; ``ood_drop`` is the original's number on
    its alphabetical partition of all given data sets.

    Of the spec, ``ood`` are data sets with an OOD twin, all there are when empty; ``selection`` and
    ``confirmation`` those of the alphabetical partition. ``sae_dirs`` is a checkpoint per seed.

    Raises
    ------
    HusaiError
        ``sae_dirs`` is empty, or a data set, a checkpoint or stored activations are missing.
    """
    from husai.compute import resolve_device
    from husai.config.external import GateProbe
    from husai.probing import datasets
    from husai.probing.files import load_probe_data, probe_path
    from husai.probing.solver import unconverged
    from husai.probing.tables import NONE_INFORMATIVE, counts, drop_metric
    from husai.statistics import jackknife_t
    from husai.stress import out_of_domain

    where = resolve_device(device)
    if not sae_dirs:
        raise HusaiError("ood: no SAE was given; name at least one seed of the candidate")
    saes = [identified(d, spec, where) for d in sae_dirs]
    first = saes[0]
    names = datasets.check_names(
        spec.ood or datasets.ood_names(), "external.datasets.ood: data set"
    )
    hook, options = first.hook_name, (spec.pooling, spec.max_rows)
    pairs = [
        tuple(load_probe_data(probes, hook, n, *options, ood=o) for o in (False, True))
        for n in names
    ]
    fit = partial(out_of_domain.sae_drop, penalty=spec.penalty, device=where)
    with unconverged():
        dense = [out_of_domain.dense_drop(*pair) for pair in pairs]
        drops = [[fit(sae.sae, *pair, spec.gate_k) for pair in pairs] for sae in saes]
    rows = _rows(saes, pairs, drops, dense, spec.gate_k)
    metrics = drop_metric(rows)
    alphabetical = _alphabetical(spec, [sae.sae for sae in saes], hook, probes, where)
    old = [a["ood_drop"] for a in alphabetical]
    record = new_record(
        "ood",
        first.subject,
        first.recipe,
        first.recipe_hash,
        metrics | {"ood_drop": jackknife_t(old)},
        [p for sae in saes for p in sae.files]
        + [probe_path(probes, hook, n, o) for n in names for o in (False, True)],
        spec.values(),
        [sae.seed for sae in saes if sae.seed is not None],
        hook_name=hook,
        k=spec.gate_k,
        probing={key: getattr(spec, key) for key in GateProbe.model_fields},
        **counts(rows),
        **({} if metrics else {"reason": NONE_INFORMATIVE}),
        per_dataset=rows,
        alphabetical={**alphabetical[0], "per_seed": old},
    )
    provenance.write_json(out, record)
    return record


def _rows(
    saes: Sequence[Identified], pairs: Sequence, drops: Sequence, dense: Sequence, k: int
) -> list[dict]:
    """One row per seed and data set: AUC in and out of domain of the SAE's and the dense probe."""
    from husai.probing.tables import INFORMATIVE

    return [
        {
            "dataset": data.name,
            "family": data.family,
            "k": k,
            "seed": sae.seed,
            "sae_id": s["id"],
            "sae_ood": s["ood"],
            "llm_id": d["id"],
            "llm_ood": d["ood"],
            "dense_val_lcb": d["val_lcb"],
            "informative": d["val_lcb"] >= INFORMATIVE,
        }
        for sae, found in zip(saes, drops, strict=True)
        for (data, _), s, d in zip(pairs, found, dense, strict=True)
    ]


def _alphabetical(spec, saes: Sequence, hook: str, probes, where) -> list[dict]:
    """The original's drop for every SAE, on all data sets the spec names."""
    from husai.compute import side_by_side
    from husai.probing import datasets
    from husai.probing.baselines import dense_probe
    from husai.probing.files import probe_data
    from husai.probing.protocol import probe_datasets
    from husai.probing.solver import unconverged
    from husai.stress import out_of_domain

    wanted = list(dict.fromkeys([*spec.selection, *spec.confirmation, *spec.ood]))
    names = datasets.check_names(wanted or datasets.ood_names(), "ood: data set")
    rows: list[list[dict]] = [[] for _ in saes]
    dense: dict[str, dict] = {}
    for block in blocks(names):
        sources = list(probe_data(probes, hook, block, spec.pooling, spec.max_rows))
        with unconverged():
            found = side_by_side(dense_probe, sources)
        dense |= {data.name: fit._asdict() for data, fit in zip(sources, found, strict=True)}
        for mine, sae in zip(rows, saes, strict=True):
            results = probe_datasets(sae, sources, CYCLE3_KS, penalty=spec.penalty, device=where)
            mine += [result._asdict() for result in results]
    return [out_of_domain.alphabetical_drop(mine, dense) for mine in rows]
