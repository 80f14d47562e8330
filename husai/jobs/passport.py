"""Verb ``passport``: what is known of every latent of several SAEs, as table, record and page."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from husai import provenance, sae_files
from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_path, describe, optional_path, positive
from husai.shown import printable

REPORTED = ("name", "living", "certified", "certified_share", "certified_variance_share")
"""What the gate report shows of each SAE."""


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="SAEs of one hook, one per seed, and held-out activations of that hook",
        writes="passport.parquet, passport.json, passport.html and a manifest",
        costs="all pairs of decoders, and two passes over the rows",
    )
    command.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="SAE checkpoints from any trainer; a trained recipe's folder stands for all its seeds",
    )
    optional_path(
        command,
        "--activations",
        "activation folder or store, or a .npy, .safetensors or .pt file of rows; without it "
        "cosines are told and nothing is certified",
    )
    command.add_argument(
        "--split",
        default="held_out",
        help="rows of an activation folder (default %(default)s)",
    )
    add_path(command, "--out", "folder to write", required=True)
    add_path(command, "--page", "page to write (default: OUT/passport.html)")
    command.add_argument("--report", help="address of the gate report, for a link on the page")
    optional_path(
        command,
        "--model",
        "model/ folder of the subject, or its manifest: the page then quotes the held-out texts in "
        "which each latent fires most",
    )
    command.add_argument(
        "--contexts",
        type=positive,
        default=4,
        metavar="N",
        help="texts quoted per latent at most (default %(default)s)",
    )
    command.add_argument(
        "--page-of",
        metavar="NAME",
        help="SAE whose latents the page shows, as named in the table (default: the one whose latents "
        "reappear most)",
    )
    command.add_argument(
        "--fdr", type=float, default=0.05, help="share of false certificates (default %(default)s)"
    )
    add_compute(command)


def run(args: Namespace) -> None:
    """Certify the latents of the SAEs given and print one line per SAE."""
    from husai.compute import resolve_device

    record = passport_job(args, resolve_device(args.device))
    for sae in record["saes"]:
        share = sae["certified_share"]
        print(
            f"{sae['name']}: {sae['certified']} of {sae['living']} living latents certified "
            f"({share:.1%}), compared with {len(sae['compared_with'])} other seeds"
        )
    for remark in record["remarks"]:
        print(printable(remark))


def passport_job(args: Namespace, device: Any) -> dict[str, Any]:
    """Write ``passport.parquet`` (one row per SAE and latent), ``passport.json`` (evidence, which
    is returned), ``passport.html`` and ``manifest.json``.

    Without ``--activations`` the rows are those that a trained recipe among the paths was trained
    on, else none.

    Raises
    ------
    HusaiError
        See :func:`husai.passport.certify`; no SAE of the name ``--page-of``; a subject without
        text.
    """
    from husai.activations import ActivationStore
    from husai.activations.files import open_rows
    from husai.activations.store import HEADER
    from husai.jobs.passport_page import quoted_texts, write_passport_page
    from husai.passport import certify
    from husai.sae import load_sae

    paths, out = [provenance.folder(p) for p in args.paths], args.out
    places, page = sae_files.expand(paths), args.page or out / "passport.html"
    names = short_names(places)
    if args.page_of is not None and args.page_of not in names:
        known = ", ".join(names)
        raise HusaiError(f"--page-of: no SAE is named '{args.page_of}'; there are {known}")
    config = {"saes": [str(p) for p in places], "split": args.split, "fdr": args.fdr}
    if args.model is not None:
        config["contexts"] = args.contexts
    with provenance.job(out / "manifest.json", config=config) as work:
        saes = [load_sae(place, device) for place in places]
        where = args.activations or trained_on(paths)
        rows = None if where is None else open_rows(where, args.split)
        work.reads(*(f for place in places for f in sae_files.sae_files(place)))
        if rows is not None:
            work.reads(rows.path / HEADER if isinstance(rows, ActivationStore) else where)
        _check_origins(names, saes, rows)
        seeds = [sae_files.declared_seed(place) for place in places]
        found = certify(
            saes,
            rows,
            names=names,
            related=_same_seeds(seeds),
            fdr=args.fdr,
            alone=any((path / "recipe.json").is_file() for path in paths),
            device=device,
        )
        _write_table(out / "passport.parquet", found)
        record = _record(found, saes, work.inputs, config, seeds)
        provenance.write_json(out / "passport.json", record)
        shown = names.index(args.page_of or record["representative"])
        sae, quoted = saes[shown], {}
        if args.model is not None:
            work.reads(provenance.folder(args.model) / "config.json")
            quoted = quoted_texts(sae, names[shown], args.model, args.split, args.contexts, device)
        write_passport_page(page, found, sae, shown, rows, record, args.report, quoted)
        work.writes(out / "passport.parquet", out / "passport.json", page)
    return record


def trained_on(paths: Sequence[Path]) -> Path | None:
    """Activation folder of the hook of a trained recipe among ``paths``; None without one."""
    for path in paths:
        if (path / "recipe.json").is_file():
            described = provenance.read_json(path / "recipe.json")
            recipe = described.get("resolved") or described.get("recipe") or {}
            where = Path("results/subjects") / str(recipe.get("subject")) / "activations"
            where = where / str(recipe.get("hook_name"))
            return where if where.is_dir() else None
    return None


def short_names(places: Sequence[Path]) -> list[str]:
    """The last part of each path where it names one SAE only, else the whole path."""
    last = [p.stem if p.suffix else p.name for p in places]
    return [
        name if last.count(name) == 1 else str(place)
        for name, place in zip(last, places, strict=True)
    ]


def _check_origins(names: Sequence[str], saes: Sequence, rows) -> None:
    """Raise a :class:`HusaiError` where metadata say that SAEs or rows are of different hooks."""
    notes = [(name, sae.cfg) for name, sae in zip(names, saes, strict=True)]
    notes.append((str(getattr(rows, "path", "the rows")), getattr(rows, "meta", {})))
    for key in ("model_name", "subject", "hook_name"):
        known = [(name, str(note[key])) for name, note in notes if note.get(key)]
        for name, value in known:
            if value != known[0][1]:
                raise HusaiError(
                    f"{known[0][0]} is of {key} {known[0][1]} and {name} of {value}; passports "
                    "compare SAEs of one hook on its own rows"
                )


def _same_seeds(seeds: Sequence[int | None]) -> list:
    """Pairs whose metadata name one seed."""
    from husai.passport import Kin

    return [
        Kin(i, j, f"their metadata name the same seed ({seeds[i]})")
        for i, j in combinations(range(len(seeds)), 2)
        if seeds[i] is not None and seeds[i] == seeds[j]
    ]


def _write_table(path: Path, found) -> None:
    """One row per SAE and latent; what is known per other seed is null in that seed's own rows."""
    import numpy as np
    import pandas as pd

    parts = []
    for table in found.tables:
        columns = {
            name: values.astype(np.float32) if values.dtype == np.float64 else values
            for name, values in table.columns().items()
        }
        parts.append(pd.DataFrame({"sae": table.name, **columns}))
    with provenance.atomic_path(path) as temporary:
        pd.concat(parts, ignore_index=True).to_parquet(temporary, index=False, compression="zstd")


def _record(found, saes, inputs, config, seeds) -> dict[str, Any]:
    """``passport.json``: an evidence record."""
    from husai.evidence import Metric, new_record
    from husai.passport.prediction import halves

    notes = [sae.cfg for sae in saes]

    def common(key: str) -> str | None:
        values = {str(n[key]) for n in notes if n.get(key) is not None}
        return values.pop() if len(values) == 1 else None

    shares = {}
    if found.n_rows is not None:
        shares = {
            "certified_share": [t.certified_share for t in found.tables],
            "certified_variance_share": [
                float(t.variance_share[t.certified].sum()) for t in found.tables
            ],
        }
    method = "mean over SAEs, which are compared with each other: no interval"
    return new_record(
        "passport",
        common("subject") or common("model_name") or "",
        common("recipe_id") or "",
        common("recipe_hash") or "",
        {
            name: Metric(sum(values) / len(values), n=len(values), method=method)
            for name, values in shares.items()
        },
        inputs,
        config,
        [s for s in seeds if s is not None],
        hook_name=common("hook_name"),
        representative=representative(found).name,
        columns=list(REPORTED),
        prediction=[one.row() for one in halves(found)],
        **provenance.finite(found.summary()),
    )


def representative(found):
    """The table of the SAE that stands for its recipe: the first of those whose living latents
    reappear in most of the others on average.
    """
    return max(
        found.tables, key=lambda table: float(table.reappearances[table.alive].double().mean())
    )
