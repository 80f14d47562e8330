"""Verb ``cebench``: CE-Bench scores of SAEs on contrastive story pairs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.jobs.arguments import describe
from husai.jobs.measured import Work, add_seeds, identity, measure_seeds
from husai.sae_files import sae_files


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(command, reads="an SAE, pair activations", writes="cebench.json", costs="seconds")
    add_seeds(command)
    command.add_argument(
        "--pairs", type=Path, required=True, help="pair activations: folder or manifest"
    )


def run(args: Namespace) -> None:
    """Score the SAEs of a recipe in one pass."""
    from husai.compute import use_threads
    from husai.planning.specs import CEBenchSpec, read_spec

    use_threads(args.threads)
    spec = read_spec(CEBenchSpec, args.spec)

    def measure(work: Work) -> None:
        cebench_jobs(spec, work, args.pairs, device=args.device)

    measure_seeds(args, "cebench", measure)


def cebench_jobs(
    spec,
    work: Work,
    pairs_path: str | Path,
    frozen: str | Path | None = None,
    *,
    device: str = "auto",
) -> list[dict]:
    """Score SAEs of one hook in one pass over the activations and write a record of each,
    ``results/external/{recipe}/seed{seed}/cebench.json``.

    Parameters
    ----------
    spec : CEBenchSpec
    work : sequence of (path, path)
        A checkpoint that ``load_sae`` reads, and where its record goes.
    pairs_path : path
        Pairs file, or its folder or manifest.
    frozen : path, optional
        Record of the frozen-decoder control on the same pairs; adds the deltas.

    Raises
    ------
    HusaiError
        SAEs of different hooks or widths.
    """
    from husai.cebench.evidence import score_fields
    from husai.cebench.scores import score_saes
    from husai.cebench.store import load_pairs, pairs_file
    from husai.compute import resolve_device
    from husai.sae import load_sae, resolve

    where = resolve_device(device)
    work = [(resolve(sae_dir), out) for sae_dir, out in work]
    saes = [load_sae(sae_dir, device=where) for sae_dir, _ in work]
    names = [identity(sae_dir, sae, spec) for (sae_dir, _), sae in zip(work, saes, strict=True)]
    hooks = {name["hook_name"] for name in names}
    if len(hooks) > 1:
        raise HusaiError(
            f"CE-Bench: SAEs of different hooks ({', '.join(sorted(map(str, hooks)))}) cannot be "
            "scored in one pass; group them by hook"
        )
    hook = hooks.pop()
    pairs, files = load_pairs(pairs_path, spec.split, hook), pairs_file(pairs_path, hook)
    results = score_saes(saes, pairs, device=where, progress=True)
    return [
        _write(spec, Path(sae_dir), Path(out), name, score_fields(result, pairs), frozen, files)
        for (sae_dir, out), name, result in zip(work, names, results, strict=True)
    ]


def _write(
    spec,
    sae_dir: Path,
    out: Path,
    name: dict,
    fields: dict,
    frozen: str | Path | None,
    pairs: Path,
) -> dict:
    """Write the record of one SAE with its manifest.

    Parameters
    ----------
    name : dict
        See :func:`husai.jobs.measured.identity`.
    fields : dict
        See :func:`husai.cebench.evidence.score_fields`.
    """
    from husai.cebench.evidence import with_baseline

    seeds = [] if name["seed"] is None else [name["seed"]]
    inputs = [*sae_files(sae_dir), pairs, *([Path(frozen)] if frozen else [])]
    with provenance.job(
        out.with_name(out.stem + ".manifest.json"),
        config=spec.values(),
        seeds=seeds,
        data_slice={"split": spec.split, "n_pairs": fields["n_pairs"]},
    ) as work:
        record = new_record(
            "cebench",
            name["subject"],
            name["recipe"],
            name["recipe_hash"],
            fields.pop("metrics"),
            inputs,
            spec.values(),
            seeds,
            seed=name["seed"],
            hook_name=name["hook_name"],
            split=spec.split,
            sae_meta=name["sae_meta"],
            **fields,
        )
        if frozen:
            record = with_baseline(record, provenance.read_json(frozen))
        provenance.write_json(out, record)
        work.reads(*inputs)
        work.writes(out)
    return record
