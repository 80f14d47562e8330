"""Verb ``activations``: store activations of a subject at a hook, of the probing data sets
(``--probes``), or of the contrastive story pairs (``--pairs``).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_path, add_spec, describe
from husai.progress import log
from husai.provenance import code_hash, folder, hash_json, job, read_json, sha256_file


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="a subject's model/",
        writes="activation stores, probe activations (--probes) or story pairs (--pairs)",
        costs="one forward pass over the rows",
    )
    add_spec(command)
    add_path(command, "--model", "the subject's model/ folder or its manifest", required=True)
    command.add_argument("--hook", help="hook point (without --probes and --pairs)")
    kind = command.add_mutually_exclusive_group()
    kind.add_argument(
        "--probes",
        action="store_true",
        help="last-token activations of the probing data sets, all hooks of the spec",
    )
    kind.add_argument(
        "--pairs", action="store_true", help="all tokens of the contrastive story pairs, all hooks"
    )
    add_path(command, "--out", "manifest to write", required=True)
    add_compute(command)


def run(args: Namespace) -> None:
    """Store one of the three kinds of activations."""
    from husai.planning.specs import ActivationsSpec, PairsSpec, ProbesSpec, read_spec

    if args.pairs:
        from husai.jobs.pair_activations import pair_activations_job

        spec = read_spec(PairsSpec, args.spec)
        pair_activations_job(spec, args.model, args.out, device=args.device)
    elif args.probes:
        from husai.jobs.probe_activations import probe_activations_job

        spec = read_spec(ProbesSpec, args.spec)
        probe_activations_job(spec, args.model, args.out, device=args.device)
    elif args.hook is None:
        raise HusaiError("--hook is missing; name the hook point, or give --probes or --pairs")
    else:
        spec = read_spec(ActivationsSpec, args.spec)
        activations_job(spec, args.model, args.hook, args.out, device=args.device)


def activations_job(
    spec, model_dir: str | Path, hook_name: str, out: str | Path, *, device: str = "auto"
) -> dict:
    """Store activations of one hook as ``out/{train,held_out,confirmation}`` and return the number
    of rows of each; row i is the same token for every hook of a subject.

    Subjects that read text: random positions of the corpus split; splits share no document.
    Modular: every pair at "=", 80/10/10.
    """
    from husai.activations import SPLITS
    from husai.compute import resolve_device
    from husai.subjects import load_subject
    from husai.subjects.given import store_given

    out, model_dir = folder(out), folder(model_dir)
    manifest, about = out / "manifest.json", {"hook": hook_name}
    with job(manifest, spec.values(), seeds=[spec.seed], data_slice=about) as work:
        work.reads(model_dir / "manifest.json")
        wanted, dtype = {}, "float32"
        if spec.rows:
            wanted = {split: getattr(spec.rows, f"{split}_rows") for split in SPLITS}
            dtype = spec.rows.dtype
        if "rows" in read_json(model_dir / "config.json"):
            stored = store_given(model_dir, hook_name, out, wanted, dtype)
            orders = dict.fromkeys(SPLITS, "that of the file")
        else:
            subject = load_subject(model_dir, resolve_device(device))
            subject.check_hooks([hook_name])
            chosen = _chosen(spec, subject, model_dir, wanted)
            orders = {split: chosen[split].digest for split in SPLITS}
            stored = _store(subject, hook_name, chosen, out, dtype, model_dir)
        for split in SPLITS:
            work.writes(*sorted(p for p in (out / split).iterdir() if p.is_file()))
        work.notes(rows=stored, row_order=orders, subject=spec.name)
    log(f"activations of {spec.name} at {hook_name}: {stored}")
    return stored


def _chosen(spec, subject, model_dir: Path, wanted: dict[str, int]) -> dict:
    """Which tokens become the rows of each split."""
    from husai.subjects.rows import modular_rows, text_rows

    if subject.kind == "modular":
        return modular_rows(subject, spec.seed)
    if not wanted:
        raise HusaiError(f"--spec: rows: missing; {subject.name} reads text")
    return text_rows(subject, model_dir, wanted, spec.seed, spec.rows.positions_per_context)


def _store(
    subject, hook_name: str, chosen: dict, out: Path, dtype: str, model_dir: Path
) -> dict[str, int]:
    """Write the rows of each split; what an earlier run of the same job wrote is gone on with."""
    from husai.subjects.rows import store_rows

    model = sha256_file(model_dir / "manifest.json")
    same = [model, hook_name, dtype, code_hash(), str(subject.device)]
    stored = {}
    for split, rows in chosen.items():
        resume = hash_json([*same, rows.digest])
        place = out / split
        stored[split] = store_rows(subject, hook_name, rows, place, dtype, split, resume=resume)
    return stored
