"""Verb ``activations``: store activations of a subject at a hook, of the probing data sets
(``--probes``), or of the contrastive story pairs (``--pairs``).
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_spec, describe
from husai.progress import log
from husai.provenance import folder, job


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(
        command,
        reads="a subject's model/",
        writes="activation stores, probe activations (--probes) or story pairs (--pairs)",
        costs="one forward pass over the rows",
    )
    add_spec(command)
    command.add_argument(
        "--model", type=Path, required=True, help="the subject's model/ folder or its manifest"
    )
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
    command.add_argument("--out", type=Path, required=True, help="manifest to write")
    add_compute(command)


def run(args: Namespace) -> None:
    """Store one of the three kinds of activations."""
    from husai.compute import use_threads

    use_threads(args.threads)
    if args.pairs:
        from husai.jobs import pair_activations

        return pair_activations.run(args)
    if args.probes:
        from husai.jobs import probe_activations

        return probe_activations.run(args)
    from husai.planning.specs import ActivationsSpec, read_spec

    if args.hook is None:
        raise HusaiError("--hook is missing; name the hook point, or give --probes or --pairs")
    spec = read_spec(ActivationsSpec, args.spec)
    activations_job(spec, args.model, args.hook, args.out, device=args.device)
    return None


def activations_job(
    spec, model_dir: str | Path, hook_name: str, out: str | Path, *, device: str = "auto"
) -> dict:
    """Store activations of one hook as ``out/{train,held_out,confirmation}``; row i is the same
    token for every hook of a subject.

    Subjects that read text: random positions of the corpus split; splits share no document.
    Modular: every pair at "=", 80/10/10.

    Parameters
    ----------
    spec : ActivationsSpec

    Returns
    -------
    dict
        Rows stored per split.
    """
    from husai.activations import SPLITS
    from husai.compute import resolve_device
    from husai.subjects import load_subject
    from husai.subjects.rows import modular_rows, rows_digest, store_rows, text_rows

    out, model_dir = folder(out), folder(model_dir)
    with job(
        out / "manifest.json",
        config=spec.values(),
        seeds=[spec.seed],
        data_slice={"hook": hook_name},
    ) as work:
        work.reads(model_dir / "manifest.json")
        subject = load_subject(model_dir, resolve_device(device))
        subject.check_hooks([hook_name])
        if subject.kind == "modular":
            chosen = modular_rows(subject, spec.seed)
        else:
            if spec.rows is None:
                raise HusaiError(f"--spec: rows: missing; {subject.name} reads text")
            wanted = {split: getattr(spec.rows, f"{split}_rows") for split in SPLITS}
            chosen = text_rows(subject, model_dir, wanted, spec.seed, spec.positions_per_context)
        dtype = spec.rows.dtype if spec.rows else "float32"
        stored, keys = {}, {}
        for split in SPLITS:
            tokens, positions = chosen[split]
            stored[split] = store_rows(
                subject, hook_name, tokens, positions, out / split, dtype, split
            )
            keys[split] = rows_digest(tokens, positions)
            work.writes(*sorted(p for p in (out / split).iterdir() if p.is_file()))
        work.notes(rows=stored, row_order=keys, subject=subject.name)
    log(f"activations of {subject.name} at {hook_name}: {stored}")
    return stored
