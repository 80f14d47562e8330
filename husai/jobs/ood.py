"""Verb ``ood``: a recipe's probes against the subject's own, in and out of domain."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.jobs.arguments import describe
from husai.jobs.measured import Identified, add_saes, identified, recipe_folder, seed_directories
from husai.jobs.probe_baselines import blocks

CYCLE3_KS = (1, 2, 5)


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(
        command,
        reads="SAEs of a recipe, probe activations",
        writes="evidence",
        costs="seconds per SAE",
    )
    add_saes(command)
    command.add_argument("--out", type=Path, required=True, help="JSON file to write")
    command.add_argument(
        "--probes", type=Path, required=True, help="probe activations: folder or manifest"
    )


def run(args: Namespace) -> None:
    """Out-of-domain evidence of a recipe over all its seeds."""
    from husai.planning.specs import OODSpec, read_spec

    spec = read_spec(OODSpec, args.spec)
    _, directories = seed_directories(recipe_folder(args))
    ood_job(spec, directories, args.probes, args.out, device=args.device, threads=args.threads)


def ood_job(
    spec,
    sae_dirs: Sequence[str | Path],
    probes: str | Path,
    out: str | Path,
    *,
    device: str = "auto",
    threads: int | None = None,
) -> dict:
    """Out-of-domain stress test of one recipe over its seeds; writes ``results/stress/ood.json``.

    ``excess_drop`` is (SAE drop - dense drop) on the shipped OOD sets, crossed over seeds and
    families of those that are informative in their domain; ``ood_drop`` is the original's number on
    its alphabetical partition of all given data sets.

    Parameters
    ----------
    spec : OODSpec
        ``ood``: data sets with an OOD twin, all there are when empty; ``selection`` and
        ``confirmation``: data sets of the alphabetical partition.
    sae_dirs : sequence of path
        One checkpoint per seed.

    Raises
    ------
    HusaiError
        ``sae_dirs`` is empty, or a data set, a checkpoint or stored activations are missing.
    """
    from husai.compute import resolve_device, use_threads
    from husai.config.external import GateProbe
    from husai.probing import datasets
    from husai.probing.files import load_probe_data, probe_path
    from husai.probing.solver import unconverged
    from husai.probing.tables import NONE_INFORMATIVE, counts, drop_metric
    from husai.statistics import jackknife_t
    from husai.stress import out_of_domain

    use_threads(threads)
    where = resolve_device(device)
    if not sae_dirs:
        raise HusaiError("ood: no SAE was given; name at least one seed of the candidate")
    saes = [identified(d, spec, where) for d in sae_dirs]
    first = saes[0]
    names = datasets.check_names(
        spec.ood or datasets.ood_names(), "external.datasets.ood: data set"
    )
    pairs = [
        tuple(
            load_probe_data(probes, first.hook_name, n, spec.pooling, spec.max_rows, ood=o)
            for o in (False, True)
        )
        for n in names
    ]
    with unconverged():
        dense = [out_of_domain.dense_drop(*pair) for pair in pairs]
        drops = [
            [
                out_of_domain.sae_drop(
                    sae.sae, *pair, spec.gate_k, penalty=spec.penalty, device=where
                )
                for pair in pairs
            ]
            for sae in saes
        ]
    rows = _rows(saes, pairs, drops, dense, spec.gate_k)
    metrics = drop_metric(rows)
    alphabetical = _alphabetical(spec, [sae.sae for sae in saes], first.hook_name, probes, where)
    old = [a["ood_drop"] for a in alphabetical]
    record = new_record(
        "ood",
        first.name["subject"],
        first.name["recipe"],
        first.name["recipe_hash"],
        metrics | {"ood_drop": jackknife_t(old)},
        [p for sae in saes for p in sae.files]
        + [probe_path(probes, first.hook_name, n, o) for n in names for o in (False, True)],
        spec.values(),
        [sae.name["seed"] for sae in saes if sae.name["seed"] is not None],
        hook_name=first.hook_name,
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
    """One row per seed and data set: AUC in and out of domain of the SAE's probe and of the dense
    probe, and whether the data set is informative in its domain.
    """
    from husai.probing.tables import INFORMATIVE

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
