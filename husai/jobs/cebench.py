"""Jobs of the CE-Bench stage: activations of story pairs, scores of SAEs, and a recipe's evidence
against its frozen control.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from husai import provenance
from husai.cebench.evidence import recipe_metrics, score_fields, with_baseline
from husai.cebench.pairs import split_pairs
from husai.cebench.scores import score_saes
from husai.cebench.store import SPLITS, load_pairs, pairs_file, save_pairs
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.progress import Progress
from husai.sae_files import sae_files


def pair_activations_job(
    spec: dict,
    model_dir: str | Path,
    hook_names: Sequence[str] | None,
    out: str | Path,
    *,
    device: str = "auto",
) -> Path:
    """Write the activations of all story pairs, once for all SAEs.

    Parameters
    ----------
    spec : dict
        CE-Bench section of the configuration: see :func:`husai.cebench.pairs.split_pairs`;
        ``max_tokens`` limits what is read of a story.
    model_dir : path
        Folder of the subject, ``results/subjects/{subject}/model``, or its ``manifest.json``.
    hook_names : sequence of str or None
        None: ``spec["hooks"]``.
    out : path
        Manifest to write, ``results/subjects/{subject}/pairs/manifest.json``;
        ``{hook}.safetensors`` and ``pairs.json`` (themes and source rows) go beside it.

    Returns
    -------
    Path
        The manifest.
    """
    from husai.compute import resolve_device
    from husai.subjects import load_subject

    model_dir, out = _folder(model_dir), _folder(out) / "manifest.json"
    with provenance.job(
        out, config=spec, seeds=[spec.get("seed", 0)], data_slice=spec.get("source")
    ) as work:
        subject = load_subject(model_dir, resolve_device(device))
        hooks = subject.check_hooks(list(dict.fromkeys(hook_names or spec.get("hooks") or ())))
        if not hooks:
            raise HusaiError("CE-Bench: no hook to read the story pairs at; name one with --hook")
        pairs = {split: split_pairs(spec, split) for split in SPLITS}
        texts = [
            story for split in pairs.values() for p in split for story in (p.story_a, p.story_b)
        ]
        found, counts = story_activations(subject, texts, hooks, spec.get("max_tokens"))
        for hook in hooks:
            path = out.parent / f"{hook}.safetensors"
            save_pairs(path, found[hook], counts, pairs, subject.name, hook)
            work.writes(path)
        listing = out.parent / "pairs.json"
        rows = {
            split: [{"theme": p.theme, "family": p.family, "rows": p.rows} for p in drawn]
            for split, drawn in pairs.items()
        }
        provenance.write_json(listing, rows)
        work.writes(listing)
        work.reads(
            *sorted(
                p
                for p in model_dir.iterdir()
                if p.name in ("config.json", "model.safetensors", "manifest.json")
            )
        )
    return out


def story_activations(
    subject, texts: Sequence[str], hook_names: Sequence[str], max_tokens: int | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Activations of every token of every text, ``{hook: (n_tokens, d) float32}``, and tokens per
    text, int64 ``(n_texts,)``.
    """
    bar = Progress(len(texts), "stories")
    found = subject.activations(
        list(texts),
        list(hook_names),
        positions="all",
        batch_size=16,
        max_tokens=max_tokens,
        progress=bar.update,
    )
    counts = torch.tensor([len(rows) for rows in found[hook_names[0]]])
    return {hook: torch.cat(found.pop(hook)) for hook in hook_names}, counts


def cebench_job(
    spec: dict,
    sae_dir: str | Path,
    pairs_path: str | Path,
    out: str | Path,
    frozen: str | Path | None = None,
    *,
    device: str = "auto",
) -> dict:
    """Score one SAE and write its record, ``results/external/{recipe}/seed{seed}/cebench.json``;
    see :func:`cebench_jobs`.

    Parameters
    ----------
    spec : dict
        ``split`` (default ``selection``); for an SAE that this pipeline did not train also
        ``recipe``, ``seed``, ``subject`` and ``hook_name``.
    sae_dir : path
        ``results/saes/{subject}/{recipe}/seed{seed}``, or any checkpoint that ``load_sae`` reads.
    pairs_path : path
        Pairs file, or its folder or manifest.
    frozen : path, optional
        Record of the frozen-decoder control on the same pairs; adds the deltas.
    """
    return cebench_jobs(spec, [(sae_dir, out)], pairs_path, frozen, device=device)[0]


def cebench_jobs(
    spec: dict,
    work_list: Sequence[tuple],
    pairs_path: str | Path,
    frozen: str | Path | None = None,
    *,
    device: str = "auto",
) -> list[dict]:
    """Score several SAEs of one hook in one pass over the activations; ``work_list`` holds
    ``(sae_dir, out)``.
    """
    from husai.compute import resolve_device
    from husai.sae import load_sae, resolve

    where = resolve_device(device)
    work_list = [(resolve(sae_dir), out) for sae_dir, out in work_list]
    saes = [load_sae(sae_dir, device=where) for sae_dir, _ in work_list]
    names = [
        identity(sae_dir, sae, spec) for (sae_dir, _), sae in zip(work_list, saes, strict=True)
    ]
    hooks = {name["hook_name"] for name in names}
    if len(hooks) > 1:
        raise HusaiError(
            f"CE-Bench: SAEs of different hooks ({', '.join(sorted(map(str, hooks)))}) cannot be "
            "scored in one pass; group them by hook"
        )
    hook = hooks.pop()
    pairs = load_pairs(pairs_path, spec.get("split", "selection"), hook)
    results = score_saes(saes, pairs, device=where, progress=True)
    control = provenance.read_json(frozen) if frozen else None
    records = []
    for (sae_dir, out), name, result in zip(work_list, names, results, strict=True):
        seeds = [] if name["seed"] is None else [name["seed"]]
        manifest = Path(out).with_name(Path(out).stem + ".manifest.json")
        with provenance.job(
            manifest,
            config=spec,
            seeds=seeds,
            data_slice={"split": spec.get("split", "selection"), "n_pairs": pairs.n_pairs},
        ) as work:
            inputs = [
                *sae_files(sae_dir),
                pairs_file(pairs_path, hook),
                *([Path(frozen)] if frozen else []),
            ]
            fields = score_fields(result, pairs)
            record = new_record(
                "cebench",
                name["subject"],
                name["recipe"],
                name["recipe_hash"],
                fields.pop("metrics"),
                inputs,
                spec,
                seeds,
                seed=name["seed"],
                hook_name=hook,
                split=spec.get("split", "selection"),
                sae_meta=name["sae_meta"],
                **fields,
            )
            if control:
                record = with_baseline(record, control)
            provenance.write_json(out, record)
            work.reads(*inputs)
            work.writes(out)
        records.append(record)
    return records


def recipe_job(
    record_paths: Sequence[str | Path],
    frozen_paths: Sequence[str | Path],
    out: str | Path,
    spec: dict | None = None,
) -> dict:
    """Evidence of one recipe over its seeds against its frozen-decoder control, from records of
    single SAEs on the same pairs.
    """
    records, frozen = (
        [provenance.read_json(p) for p in paths] for paths in (record_paths, frozen_paths)
    )
    hashes = {r["recipe_hash"] for r in records}
    if len(hashes) != 1:
        raise HusaiError(
            f"CE-Bench: {len(records)} records hold {len(hashes)} recipes; give the records of "
            "one recipe"
        )
    first, seeds = records[0], [r["seed"] for r in records]
    record = new_record(
        "cebench",
        first["subject"],
        first["recipe"],
        first["recipe_hash"],
        recipe_metrics(records, frozen),
        [*record_paths, *frozen_paths],
        spec,
        seeds,
        split=first["split"],
        d_sae=first["d_sae"],
        pairs_hash=first["pairs_hash"],
    )
    provenance.write_json(out, record)
    return record


def identity(sae_dir: Path, sae, spec: dict) -> dict:
    """Subject, recipe, its hash, seed and hook of an SAE: from ``recipe.json`` beside its seeds,
    else from ``spec`` and its metadata.
    """
    beside = sae_dir.parent / "recipe.json"
    described = provenance.read_json(beside) if beside.is_file() else {}
    fields = described.get("resolved") or described.get("recipe") or {}
    seed = sae_dir.name.removeprefix("seed")
    found = {
        "subject": spec.get("subject", fields.get("subject", sae.cfg.get("subject", "unknown"))),
        "recipe": spec.get("recipe", described.get("id", sae_dir.name)),
        "recipe_hash": described.get("hash")
        or provenance.hash_json([provenance.sha256_file(p) for p in sae_files(sae_dir)])[:16],
        "seed": int(seed) if described and seed.isdigit() else spec.get("seed"),
        "hook_name": fields.get("hook_name") or spec.get("hook_name") or sae.cfg.get("hook_name"),
        "sae_meta": {
            "architecture": sae.architecture,
            "d_model": sae.d_in,
            "d_sae": sae.d_sae,
            "k": sae.k,
        },
    }
    return found


def _folder(path: str | Path) -> Path:
    """A folder named by itself or by the manifest in it."""
    path = Path(path)
    return path.parent if path.suffix == ".json" else path
