"""Verb ``cebench``: CE-Bench scores of SAEs on contrastive story pairs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.jobs.arguments import add_path, describe
from husai.jobs.measured import (
    Work,
    add_seeds,
    identified,
    measure_seeds,
    one_hook,
    write_record,
)


def add_arguments(command: ArgumentParser) -> None:
    describe(command, reads="an SAE, pair activations", writes="cebench.json", costs="seconds")
    add_seeds(command)
    add_path(command, "--pairs", "pair activations: folder or manifest", required=True)


def run(args: Namespace) -> None:
    """Score the SAEs of a recipe in one pass."""
    from husai.planning.specs import CEBenchSpec, read_spec

    spec = read_spec(CEBenchSpec, args.spec)
    measure_seeds(
        args, "cebench", lambda work: cebench_jobs(spec, work, args.pairs, device=args.device)
    )


def cebench_jobs(spec, work: Work, pairs_path: str | Path, *, device: str = "auto") -> list[dict]:
    """Score SAEs of one hook in one pass over the activations and write a record of each,
    ``results/external/{recipe}/seed{seed}/cebench.json``.

    Parameters
    ----------
    work : sequence of (path, path)
        A checkpoint that ``load_sae`` reads, and where its record goes.
    pairs_path : path
        Pairs file, or its folder or manifest.

    Raises
    ------
    HusaiError
        SAEs of different hooks or widths.
    """
    from husai.cebench.evidence import score_fields
    from husai.cebench.scores import score_saes
    from husai.cebench.store import load_pairs, pairs_file
    from husai.compute import resolve_device

    where, config = resolve_device(device), spec.values()
    found = [identified(sae_dir, spec, where, hook_needed=False) for sae_dir, _ in work]
    hook = one_hook(found, "CE-Bench", "scored")
    pairs, files = load_pairs(pairs_path, spec.split, hook), [pairs_file(pairs_path, hook)]
    results = score_saes([one.sae for one in found], pairs, device=where, progress=True)
    records = []
    for (_, out), one, result in zip(work, found, results, strict=True):
        fields = score_fields(result, pairs)
        metrics = fields.pop("metrics")
        record = one.record("cebench", metrics, files, config, split=spec.split, **fields)
        write_record(out, record, {"split": spec.split, "n_pairs": fields["n_pairs"]})
        records.append(record)
    return records
