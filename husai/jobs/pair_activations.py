"""Activations of every token of the story pairs, for all SAEs (``husai activations --pairs``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from husai import provenance
from husai.progress import Progress
from husai.provenance import folder


def pair_activations_job(
    spec, model_dir: str | Path, out: str | Path, *, device: str = "auto"
) -> Path:
    """Write the activations of all story pairs, ``{hook}.safetensors``, and ``pairs.json`` (themes
    and source rows) beside the manifest ``out``, which is returned.
    """
    from husai.cebench.pairs import split_pairs
    from husai.cebench.store import SPLITS, save_pairs
    from husai.compute import resolve_device
    from husai.subjects import load_subject

    model_dir, out = folder(model_dir), folder(out) / "manifest.json"
    with provenance.job(out, config=spec.values(), seeds=[0], data_slice=spec.source) as work:
        subject = load_subject(model_dir, resolve_device(device))
        hooks = subject.check_hooks(list(dict.fromkeys(spec.hooks)))
        pairs = {split: split_pairs(spec.values(), split) for split in SPLITS}
        texts = [
            story for split in pairs.values() for p in split for story in (p.story_a, p.story_b)
        ]
        found, counts = story_activations(subject, texts, hooks, spec.max_tokens)
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
        parts = ("config.json", "model.safetensors", "manifest.json")
        work.reads(*sorted(p for p in model_dir.iterdir() if p.name in parts))
    return out


def story_activations(
    subject, texts: Sequence[str], hook_names: Sequence[str], max_tokens: int | None = None
) -> tuple[dict, object]:
    """Activations of every token of every text, ``{hook: (n_tokens, d) float32}``, and tokens per
    text, int64 ``(n_texts,)``.
    """
    import torch

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
