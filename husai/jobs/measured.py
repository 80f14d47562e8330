"""What the jobs that measure trained SAEs share: which seeds there are, what an SAE says of itself,
and records of recipes that failed.

A failed recipe is a result, not a fault of the run: its jobs say so in their records, and tables
show a row with the reason. Only what :class:`husai.errors.RecipeFailed` names is such a result (a
training that diverged, an L0 out of reach, codes that are not finite). A full disk, want of memory,
unreadable input or a mistake in the code stops the job as ever.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from husai import provenance
from husai.errors import HusaiError, RecipeFailed
from husai.evidence import new_record
from husai.jobs.arguments import add_compute, add_path, add_paths, add_spec
from husai.progress import log
from husai.provenance import failure, folder
from husai.sae_files import sae_files

Work = Sequence[tuple[Path, Path]]
"""SAE folders, and where the record of each goes."""


def add_saes(command: argparse.ArgumentParser) -> None:
    """Options of a job that measures the SAEs of a recipe."""
    add_spec(command)
    add_path(command, "--saes", "trained recipe: folder or manifest")
    add_compute(command)


def add_seeds(command: argparse.ArgumentParser) -> None:
    """Options of a job that writes a record of each SAE."""
    add_saes(command)
    command.add_argument(
        "--seed", type=int, nargs="+", action="extend", default=[], help="which of its seeds"
    )
    command.add_argument(
        "--all-seeds",
        action="store_true",
        help="every seed; records go to seed{n}/ beside --out, --out lists them",
    )
    add_paths(command, "--out", "JSON file to write, one for each --seed", required=True)


def recipe_folder(args: argparse.Namespace) -> Path:
    """Folder of the trained recipe that ``--saes`` names.

    Raises
    ------
    HusaiError
        ``--saes`` was not given.
    """
    if args.saes is None:
        raise HusaiError("--saes is missing; give the folder or manifest of a trained recipe")
    return folder(args.saes)


def seed_directories(recipe_dir: Path) -> tuple[list[int], list[Path]]:
    """Seeds of a trained recipe in ascending order, with their SAE directories.

    Raises
    ------
    HusaiError
        There are none.
    """
    found = sorted(
        (int(p.name.removeprefix("seed")), p)
        for p in recipe_dir.glob("seed*")
        if p.name.removeprefix("seed").isdigit()
    )
    if not found:
        raise HusaiError(f"{recipe_dir}: holds no seed*/ directories; train the recipe first")
    return [s for s, _ in found], [p for _, p in found]


def measure_seeds(args: argparse.Namespace, kind: str, measure: Callable[[Work], Any]) -> None:
    """Have ``measure`` write the records of the SAEs asked for: all of a recipe (``--all-seeds``),
    or those of some seeds (``--seed``, for tables that compare recipes), of which one that failed
    has a record with the reason.

    Raises
    ------
    HusaiError
        The recipe has no seeds or not one of those asked for, or there is not a file for each.
    """
    recipe_dir = recipe_folder(args)
    if args.all_seeds:
        if len(args.out) != 1:
            raise HusaiError(f"--out: --all-seeds writes one list, got {len(args.out)} files")
        _measure_all(args, kind, recipe_dir, measure)
        return
    if len(args.seed) != len(args.out) or not args.seed:
        raise HusaiError(
            f"--seed: {len(args.seed)} seeds and {len(args.out)} files (--out); give each seed its "
            "file, or --all-seeds"
        )

    def measure_some(*wanted: tuple[int, Path]) -> None:
        known = dict(zip(*seed_directories(recipe_dir), strict=True))
        for seed, _ in wanted:
            if seed not in known:
                raise HusaiError(
                    f"--seed: {seed} is not among the seeds {list(known)} of {args.saes}"
                )
        measure([(known[seed], out) for seed, out in wanted])

    wanted = list(zip(args.seed, args.out, strict=True))
    if len(wanted) > 1 and failure(provenance.read_json(recipe_dir / "recipe.json")) is None:
        try:
            measure_some(*wanted)
            return
        except RecipeFailed:
            pass  # one of them did: each by itself
    for one in wanted:
        measured_or_failed(kind, recipe_dir, *one, partial(measure_some, one))


def _measure_all(args: argparse.Namespace, kind: str, recipe_dir: Path, measure) -> None:
    """Measure every seed, and write a file that names and hashes the records."""
    [out] = args.out
    seeds, directories = seed_directories(recipe_dir)
    records = [out.parent / f"seed{seed}" / f"{kind}.json" for seed in seeds]
    measure(list(zip(directories, records, strict=True)))
    listing = {
        "schema": "husai.records/1",
        "kind": kind,
        "records": provenance.file_records(records),
        "provenance": provenance.provenance(args.spec),
    }
    provenance.write_json(out, listing)


def measured_or_failed(
    kind: str, recipe_dir: Path, seed: int | None, out: str | Path, measure: Callable[[], Any]
) -> None:
    """Measure one SAE; when its recipe failed in training or fails now, record that."""
    described = provenance.read_json(recipe_dir / "recipe.json")
    reason = failure(described)
    if reason is None:
        try:
            measure()
            return
        except RecipeFailed as error:
            reason = str(error)
    seeds = described["seeds"] if seed is None else [seed]
    record = new_record(
        kind,
        described["recipe"]["subject"],
        described["id"],
        described["hash"],
        {},
        [recipe_dir / "recipe.json"],
        {"kind": kind},
        seeds,
        seed=seed,
        status="failed",
        reason=reason,
    )
    provenance.write_json(out, record)
    which = f", seed {seed}" if seed is not None else ""
    log(f"FAILED: {kind} of {described['id']}{which}: {reason}")


class Identified(NamedTuple):
    """An SAE to measure: what it is, where it was trained, and its content."""

    sae: Any
    subject: str
    recipe: str
    recipe_hash: str
    seed: int | None
    hook_name: str | None
    files: list[Path]
    weights: str
    """One hash over the checkpoint's files."""

    def record(self, kind: str, metrics: dict, inputs: Sequence, config: Any, **extra: Any) -> dict:
        """A :func:`husai.evidence.new_record` of this SAE, resting on its files and ``inputs``."""
        sae = self.sae
        return new_record(
            kind,
            self.subject,
            self.recipe,
            self.recipe_hash,
            metrics,
            [*self.files, *inputs],
            config,
            [] if self.seed is None else [self.seed],
            seed=self.seed,
            hook_name=self.hook_name,
            sae_meta={
                "architecture": sae.architecture,
                "d_model": sae.d_in,
                "d_sae": sae.d_sae,
                "k": sae.k,
            },
            **extra,
        )


def identified(sae_dir: str | Path, spec, device, *, hook_needed: bool = True) -> Identified:
    """Load an SAE and say which subject, recipe, seed and hook it belongs to: by ``recipe.json``
    beside its seeds, else by its spec (:class:`husai.planning.specs.OfSAE`) and its own metadata.

    Raises
    ------
    HusaiError
        No checkpoint, or, where it is needed, neither it nor the spec names its hook.
    """
    from husai.sae import load_sae, resolve

    sae_dir = resolve(sae_dir)
    sae, files = load_sae(sae_dir, device=device), sae_files(sae_dir)
    beside = sae_dir.parent / "recipe.json"
    described = provenance.read_json(beside) if beside.is_file() else {}
    fields = described.get("resolved") or described.get("recipe") or {}
    hook_name = fields.get("hook_name") or spec.hook_name or sae.cfg.get("hook_name")
    if hook_needed and not hook_name:
        raise HusaiError(
            f"{sae_dir}: the SAE does not say which hook it was trained on; add hook_name to the "
            "spec"
        )
    seed = sae_dir.name.removeprefix("seed")
    weights = provenance.hash_json([provenance.sha256_file(p) for p in files])
    return Identified(
        sae,
        subject=spec.subject or fields.get("subject") or sae.cfg.get("subject", "unknown"),
        recipe=spec.recipe or described.get("id", sae_dir.name),
        recipe_hash=described.get("hash") or weights[:16],
        seed=int(seed) if described and seed.isdigit() else spec.seed,
        hook_name=hook_name,
        files=files,
        weights=weights,
    )


def one_hook(found: Sequence[Identified], what: str, done: str) -> str | None:
    """The hook of SAEs that are measured together.

    Raises
    ------
    HusaiError
        They are of several.
    """
    hooks = {one.hook_name for one in found}
    if len(hooks) > 1:
        raise HusaiError(
            f"{what}: SAEs of different hooks ({', '.join(sorted(map(str, hooks)))}) cannot be "
            f"{done} in one pass; group them by hook"
        )
    return hooks.pop()


def write_record(out: str | Path, record: dict, data_slice: Any = None) -> None:
    """Write an evidence record, and ``{stem}.manifest.json`` beside it."""
    out, about = Path(out), record["provenance"]
    manifest = out.with_name(out.stem + ".manifest.json")
    with provenance.job(manifest, about["config"], about["seeds"], data_slice) as work:
        provenance.write_json(out, record)
        work.reads(*(entry["path"] for entry in record["inputs"]))
        work.writes(out)
