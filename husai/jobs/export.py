"""Verb ``export``: the representative SAE of a finished run as a folder that can be handed on, with
its passport, its verdict and how to check both."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_path, describe
from husai.report.mirror import SUMS, write_sums
from husai.shown import printable

DECISION = "gate/strict/release_policy.json"
PASSPORT = "passport"
CANDIDATE = "confirmation/candidate"
CANDIDATE_SPLICED = "confirmation/external/candidate"
RECORD, CARD = "release.json", "README.md"


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="the decision, the passports, the candidate's SAEs, held-out rows and text",
        writes="an SAELens folder with passport.parquet, README.md (model card), release.json, "
        "SHA256SUMS and a manifest",
        costs="a pass over the rows and one over the texts",
    )
    add_path(command, "--results", "default %(default)s", default=Path("results"))
    command.add_argument(
        "--certified-only", action="store_true", help="leave out latents that are not certified"
    )
    command.add_argument(
        "--out",
        type=Path,
        help="folder, or manifest in it (default: results/release, with --certified-only "
        "results/release-certified)",
    )
    add_compute(command)


def run(args: Namespace) -> None:
    """Write the release and say where it is."""
    from husai.compute import resolve_device

    name = "release-certified" if args.certified_only else "release"
    out = provenance.folder(args.out or args.results / name)
    record = export_job(args.results, out, args.certified_only, resolve_device(args.device))
    print(printable(f"{record['verdict']}: {out}, {record['sae']['d_sae']} latents"))


def export_job(results: Path, out: Path, certified_only: bool, device: Any) -> dict[str, Any]:
    """Write the release folder, whatever the verdict; returns what ``release.json`` holds.

    The SAE is the passports' representative; with ``certified_only`` latents without a certificate
    are removed (:func:`husai.sae.subset.subset`). Explained variance, L0 and faithfulness are
    measured on the confirmation's held-out rows and texts, of the SAE as written and of the whole.

    Raises
    ------
    HusaiError
        No decision or no passports, or of another recipe than was confirmed; with
        ``certified_only``, no certified latent.
    """
    from husai.release.card import gate_rows, model_card, verdict_of
    from husai.sae import load_sae, save_sae

    decided, passports = results / DECISION, results / PASSPORT / "passport.json"
    decision, passport = provenance.read_json(decided), provenance.read_json(passports)
    name = passport["representative"]
    summary = next(one for one in passport["saes"] if one["name"] == name)
    source = results / CANDIDATE / name
    config = {"sae": name, "certified_only": certified_only}
    with provenance.job(out / "manifest.json", config=config) as work:
        work.reads(decided, passports, passports.with_suffix(".parquet"))
        work.reads(*sorted(p for p in source.iterdir() if p.is_file()))
        whole = load_sae(source, device)
        latents = read_latents(passports.with_suffix(".parquet"), name, certified_only)
        saes = {"whole": whole}
        if certified_only:
            saes = {"certified only": _certified(whole, latents), **saes}
        described = provenance.read_json(source.parent / "recipe.json")
        confirmed = described["hash"]
        for path, about in ((decided, decision["candidate"]), (passports, passport)):
            if about.get("recipe_hash") != confirmed:
                raise HusaiError(
                    f"{path}: is of recipe {about.get('recipe_hash')}, but {confirmed} was "
                    "confirmed; run the pipeline again"
                )
        written = next(iter(saes.values()))
        record = {
            "schema": "husai.release/1",
            "verdict": verdict_of(results.parent),
            "certified_only": certified_only,
            "removed": whole.d_sae - written.d_sae,
            "sae": {"name": name, "architecture": whole.architecture, "d_sae": written.d_sae},
            **_origin(results, described, passport),
            "policy": decision["policy"],
            "gates": gate_rows(decision),
            "certified_share": summary["certified_share"],
            "passport": {"fdr": passport["fdr"], **summary},
            "measured": _measured(results, described, saes, device),
            "decision": provenance.file_records([decided])[0],
            "evidence": decision["inputs"],
        }
        out.mkdir(parents=True, exist_ok=True)
        if certified_only:
            save_sae(written, out)
        else:
            for file in ("cfg.json", "sae_weights.safetensors"):
                shutil.copyfile(source / file, out / file)
        with provenance.atomic_path(out / "passport.parquet") as temporary:
            latents.to_parquet(temporary, index=False, compression="zstd")
        shutil.copyfile(decided, out / decided.name)
        provenance.write_json(out / RECORD, record)
        provenance.write_text(out / CARD, model_card(provenance.finite(record)))
        files = ["cfg.json", "sae_weights.safetensors", "passport.parquet", decided.name, RECORD]
        write_sums(out, [*files, CARD])
        work.writes(*(out / file for file in (*files, CARD, SUMS)))
    return record


def read_latents(table: Path, name: str, certified_only: bool):
    """The rows of the released SAE as a data frame; those that stay, numbered as in the SAE that is
    written, with ``latent_of_whole`` beside.

    Raises
    ------
    HusaiError
        With ``certified_only``, no latent of this SAE is certified.
    """
    import pandas

    rows = pandas.read_parquet(table)
    rows = rows[rows["sae"] == name].dropna(axis=1, how="all").reset_index(drop=True)
    if certified_only:
        rows = rows[rows["certified"].astype(bool)].reset_index(drop=True)
        if rows.empty:
            raise HusaiError(
                f"{table}: no latent of {name} is certified, so --certified-only leaves no SAE; "
                "export the whole SAE, or add seeds"
            )
        rows.insert(2, "latent_of_whole", rows["latent"])
        rows["latent"] = range(len(rows))
    return rows


def _certified(whole, latents):
    import torch

    from husai.sae.subset import subset

    kept = torch.tensor(latents["latent_of_whole"].to_numpy())
    cut = subset(whole, kept.to(whole.device), float(latents["density"].sum()))
    cut.cfg = {**whole.cfg, "certified_only": True}
    return cut


def _origin(results: Path, described: dict, passport: dict) -> dict[str, Any]:
    """Recipe, hook and model of the release."""
    recipe = described.get("resolved") or described["recipe"]
    subject = recipe["subject"]
    config = provenance.read_json(results / "subjects" / subject / "model/config.json")
    return {
        "recipe": described["id"],
        "recipe_hash": described["hash"],
        "subject": subject,
        "model": str((config.get("reference") or {}).get("model") or subject),
        "hook_name": recipe["hook_name"],
        "held_out_rows": passport["rows"],
    }


def _measured(results: Path, described: dict, saes: dict, device) -> dict[str, dict[str, Any]]:
    """Explained variance, L0 and faithfulness of each SAE on the confirmation's rows and texts."""
    from husai.activations import ActivationStore
    from husai.faithfulness import recovered
    from husai.planning.specs import FaithfulnessSpec, read_spec
    from husai.stability import evaluate_sae
    from husai.subjects import load_subject
    from husai.subjects.rows import held_out_texts

    recipe = described.get("resolved") or described["recipe"]
    subject_dir, hook = results / "subjects" / recipe["subject"], recipe["hook_name"]
    rows = ActivationStore.open(subject_dir / "activations" / hook / "confirmation")
    spliced = sorted((results / CANDIDATE_SPLICED).glob("seed*/faithfulness.json"))
    config = provenance.read_json(spliced[0])["provenance"]["config"] if spliced else {}
    spec = read_spec(FaithfulnessSpec, config)
    subject = load_subject(subject_dir / "model", device)
    tokens, answers = held_out_texts(
        subject, subject_dir / "model", "confirmation", spec.n_texts, spec.text_seed
    )
    faithful = recovered(subject, hook, list(saes.values()), tokens, answers=answers)
    found = {}
    for (name, sae), one in zip(saes.items(), faithful, strict=True):
        figures = evaluate_sae(sae, rows)
        kept = {key: float(figures[key]) for key in ("explained_variance", "l0")}
        found[name] = {**kept, "recovered": one.recovered.to_json()}
    return found
