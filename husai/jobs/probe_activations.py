"""Activations of the probing data sets, of every token or of the last, at every hook a candidate
may come from (``husai activations --probes``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.progress import Progress, log
from husai.provenance import folder, job


def probe_activations_job(
    spec, model_dir: str | Path, out: str | Path = ".", *, device: str = "auto"
) -> dict[str, Any]:
    """Write ``out/{hook}/{data set}.safetensors`` and ``.../{data set}_OOD.safetensors``; see
    :func:`husai.subjects.probe_rows.write_probes`.

    The manifest counts test rows whose text is in the subject's corpus (``text_overlap_rows``,
    wanted 0).

    Raises
    ------
    HusaiError
        ``spec`` names no data set, or one that is not known.
    """
    import torch

    from husai.compute import resolve_device
    from husai.probing import datasets
    from husai.subjects import load_subject
    from husai.subjects.probe_rows import corpus_hashes, write_probes

    out, model_dir, hooks = folder(out), folder(model_dir), spec.hooks
    ood = datasets.check_names(spec.ood, "probes.ood: data set")
    wanted = dict.fromkeys([*spec.selection, *spec.confirmation, *ood])
    names = datasets.check_names(list(wanted), "probes: data set")
    if not names:
        raise HusaiError("probes: nothing to do; name data sets (selection, confirmation, ood)")
    about = {"datasets": names, "ood": ood, "hooks": hooks}
    with job(out / "manifest.json", config=spec.values(), data_slice=about) as work:
        work.reads(model_dir / "manifest.json")
        subject = load_subject(model_dir, resolve_device(device))
        subject.check_hooks(hooks)
        known, records = corpus_hashes(model_dir), {}
        progress = Progress(len(names) + len(ood), f"{subject.name} probes: data sets")
        for name, is_ood in [(n, False) for n in names] + [(n, True) for n in ood]:
            # The OOD sets are small and are always read whole.
            data = datasets.load_ood(name) if is_ood else datasets.load_dataset(name, spec.max_rows)
            label = f"{name}_OOD" if is_ood else name
            files = {hook: out / hook / f"{label}.safetensors" for hook in hooks}
            records[label] = write_probes(
                subject,
                data,
                files,
                pooling=spec.pooling,
                max_tokens=spec.max_tokens,
                dtype=getattr(torch, spec.dtype),
                known=known,
                is_ood=is_ood,
            )
            work.writes(*files.values())
            progress.update(note=label)
        overlap = sum(record["text_overlap_rows"] for record in records.values())
        work.notes(
            subject=subject.name,
            datasets=records,
            text_overlap_rows=overlap,
            corpus_checked=known is not None,
        )
    if overlap:
        log(
            f"warning: {overlap} test rows occur in the training text of {subject.name}; give "
            "corpus.max_rows the same value as the probes"
        )
    return {"text_overlap_rows": overlap, "datasets": records}
