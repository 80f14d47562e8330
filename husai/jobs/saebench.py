"""Verb ``saebench``: sparse probing of SAEs, and its baselines (``--baselines-only``)."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.jobs import probe_baselines
from husai.jobs.arguments import add_path, add_paths, describe
from husai.jobs.measured import (
    Identified,
    Work,
    add_seeds,
    identified,
    measure_seeds,
    recipe_folder,
)
from husai.jobs.probe_baselines import protocol_of, read_baselines, settings_of
from husai.progress import Progress


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="an SAE, probe activations, baselines",
        writes="saebench.json",
        costs="seconds (fast engine), minutes (official engine)",
    )
    add_seeds(command)
    add_path(command, "--probes", "probe activations: folder or manifest", required=True)
    add_paths(
        command,
        "--baselines",
        "baseline records; the one of the SAE's hook is used. Without any, AUCs alone",
    )
    command.add_argument(
        "--baselines-only",
        action="store_true",
        help="measure the baselines of --hook instead of an SAE",
    )
    command.add_argument("--hook", help="hook point (with --baselines-only)")
    command.add_argument(
        "--saebench-json",
        type=Path,
        help="write the result as SAEBench publishes its own, too (with --seed)",
    )


def run(args: Namespace) -> None:
    """Probe one SAE or every seed of a recipe, or measure the baselines."""
    from husai.planning.specs import ProbingSpec, read_spec

    if args.baselines_only:
        return probe_baselines.run(args)
    if args.saebench_json and len(args.seed) != 1:
        raise HusaiError("--saebench-json: SAEBench's file holds one SAE; give one --seed")
    if args.saebench_json and not args.baselines:
        raise HusaiError("--saebench-json: SAEBench's file holds the dense probe; give --baselines")
    spec = read_spec(ProbingSpec, args.spec)

    def measure(work: Work) -> None:
        baselines = _baselines_of(args.baselines, recipe_folder(args))
        for sae_dir, out in work:
            saebench_job(spec, sae_dir, args.probes, baselines, out, device=args.device)
            if args.saebench_json:
                _write_as_saebench(out, baselines, args.saebench_json)

    measure_seeds(args, "saebench", measure)


def _write_as_saebench(record: Path, baselines: Path, out: Path) -> None:
    from husai.official.results import to_saebench_schema

    found = provenance.read_json(baselines)["datasets"]
    dense = {name: row["dense"] for name, row in found.items()}
    provenance.write_json(out, to_saebench_schema(provenance.read_json(record), dense))


def _baselines_of(paths: list[Path], recipe_dir: Path) -> Path | None:
    """The baseline record of the recipe's hook, among those given; None of none."""
    if not paths:
        return None
    hook = provenance.read_json(recipe_dir / "recipe.json")["recipe"]["hook_name"]
    found = [p for p in paths if p.stem == hook]
    if not found:
        raise HusaiError(
            f"--baselines: none of {', '.join(map(str, paths))} is of hook {hook}; "
            "measure it with --baselines-only"
        )
    return found[0]


def saebench_job(
    spec,
    sae_dir: str | Path,
    probes: str | Path,
    baselines: str | Path | None,
    out: str | Path,
    *,
    device: str = "auto",
) -> dict:
    """Sparse probing of one SAE; writes ``results/external/{recipe}/seed{seed}/saebench.json``.

    An interrupted job goes on with the data sets that are missing, from a side file that is read
    only for the same weights, activations and settings.

    ``baselines`` is the record of :func:`husai.jobs.probe_baselines.baselines_job` for the SAE's
    hook and the same data sets; None for the AUCs alone."""
    from husai.compute import resolve_device
    from husai.probing.files import activation_hashes
    from husai.probing.partial import Partial

    settings, where = settings_of(spec), resolve_device(device)
    measured = identified(sae_dir, spec, where)
    hook, names, base = measured.hook_name, settings["datasets"], None
    if baselines is None:
        hashes = activation_hashes(probes, hook, names)
    else:
        base = read_baselines(baselines, probes, hook, settings)
        hashes = {n: base["activations"][n] for n in names}
    content = {
        "weights": measured.weights,
        "hook_name": hook,
        "engine": spec.engine,
        **protocol_of(settings),
    }
    partial = Partial(out, {n: provenance.hash_json([content, sha]) for n, sha in hashes.items()})
    _probe_missing(measured, partial, probes, settings, content, hashes, where, Path(out).parent)
    rows = [row for value in partial.values() for row in value]
    metrics, about = _compared(rows, base, spec) if base else ({}, {"per_dataset": rows})
    record = measured.record(
        "saebench",
        metrics,
        [] if baselines is None else [baselines],
        spec.values(),
        sae_sha256=measured.weights,
        engine=spec.engine,
        probing=settings,
        activations=hashes,
        **about,
    )
    provenance.write_json(out, record)
    partial.finish()
    return record


def _compared(rows: list[dict], base: dict, spec) -> tuple[dict, dict]:
    """Metrics of probes against their baselines, and what the record keeps beside them."""
    from husai.probing.paired import cycle3_summary, metrics, paired_rows, validation_k
    from husai.probing.tables import NONE_INFORMATIVE, counts

    rows = paired_rows(rows, base["datasets"])
    found = counts(rows)
    dense = {row["dataset"]: base["datasets"][row["dataset"]]["dense"] for row in rows}
    return metrics(rows, spec.gate_k, spec.dense_k), {
        **found,
        **({} if found["n_informative"] else {"reason": NONE_INFORMATIVE}),
        "validation_k": validation_k(rows),
        "summary": cycle3_summary(rows, dense),
        "per_dataset": rows,
    }


def _probe_missing(
    measured: Identified,
    partial,
    probes: str | Path,
    settings: dict,
    content: dict,
    hashes: dict,
    where,
    out_dir: Path,
) -> None:
    """Probe the data sets that have no result yet, keeping each block as it is done."""
    from husai.probing.encoders import codes_of
    from husai.probing.files import probe_data
    from husai.probing.protocol import probe_datasets

    sae, hook = measured.sae, measured.hook_name
    progress = Progress(len(partial.keys), "sparse probing: data sets")
    progress.update(len(partial.keys) - len(partial.missing))

    def keep(found: list) -> None:
        rows: dict[str, list] = {}
        for result in found:
            rows.setdefault(result.dataset, []).append(result._asdict())
        partial.add(rows)
        progress.update(len(rows))

    options = {"penalty": settings["penalty"], "seed": settings["probe_seed"]}
    sources = probe_data(probes, hook, partial.missing, settings["pooling"], settings["max_rows"])
    if settings["engine"] == "fast":
        probe_datasets(sae, sources, settings["ks"], device=where, on_done=keep, **options)
        return
    from husai.official.engine import probe_officially, results_dir

    for source in sources:
        results = results_dir(out_dir / "official", {**content, "activations": hashes[source.name]})
        codes = codes_of(sae, source, where)
        keep(probe_officially(codes, source, hook, settings["ks"], results=results, **options))
