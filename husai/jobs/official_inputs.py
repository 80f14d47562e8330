"""What SAEBench's own sparse probing needs of one of our SAEs (``husai official --saes``): its
activation cache, its command, and our figures on the same activations to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from husai import provenance
from husai.errors import HusaiError
from husai.jobs.measured import identified, seed_directories
from husai.progress import Progress
from husai.provenance import folder

KS = (1, 2, 5, 16)
"""Numbers of latents of a probe; SAEBench's own default is 1, 2, 5."""
MAX_TOKENS = 1024
"""Tokens that sae-probes reads of a row, at most the subject's context."""


def saebench_inputs(
    saes: str | Path,
    seed: int,
    out: str | Path,
    *,
    names: Sequence[str] = (),
    ks: Sequence[int] = KS,
    model_dir: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Fill ``out/cache`` with the last-token activations of whole data sets, probe the SAE on them
    into ``out/ours.json``, and say how SAEBench is run on the same: ``command`` and ``ours``,
    options of :func:`husai.official.run.official_job`.

    By default the data sets are those of the configuration that the subject's probes were stored
    for, and ``model_dir`` is that of the SAE's own subject.

    Raises
    ------
    HusaiError
        No such seed or data set; a subject without text, or of another width than the SAE.
    """
    from husai.compute import resolve_device
    from husai.official import preflight
    from husai.official.engine import fill_cache
    from husai.planning.specs import ProbingSpec
    from husai.probing import datasets
    from husai.probing.baselines import dense_probe
    from husai.probing.encoders import ProbeData
    from husai.probing.protocol import probe_datasets
    from husai.probing.splits import PROBE_SEED
    from husai.subjects import load_subject

    seeds, directories = seed_directories(folder(saes))
    if seed not in seeds:
        raise HusaiError(f"--seed: {seed} is not among the seeds {seeds} of {saes}")
    sae_dir, where, out = directories[seeds.index(seed)], resolve_device(device), Path(out)
    measured = identified(sae_dir, ProbingSpec(datasets=[]), where)
    name = measured.subject
    subject_dir = folder(model_dir or Path("results/subjects") / name / "model")
    subject = load_subject(subject_dir, where)
    wanted = datasets.check_names(list(names) or _stored(subject_dir), "--datasets: data set")
    rows = []
    progress = Progress(len(wanted), "official: data sets")
    for dataset in map(datasets.load_dataset, wanted):
        x = subject.activations(
            dataset.prompts, [measured.hook_name], "last", max_tokens=MAX_TOKENS
        )[measured.hook_name]
        fill_cache(dataset.name, x, out / "cache", measured.hook_name, name)
        data = ProbeData(dataset.name, dataset.family, x, torch.arange(len(x) + 1), dataset.y)
        dense = dense_probe(data).auc
        for found in probe_datasets(measured.sae, [data], ks, device=where):
            rows.append(
                {"dataset": found.dataset, "k": found.k, "auc": found.auc, "dense_auc": dense}
            )
        progress.update(note=dataset.name)
    provenance.write_json(out / "ours.json", {"sae": str(sae_dir), "per_dataset": rows})
    command = [
        *("python", str(Path(preflight.__file__).with_name("saebench_program.py"))),
        *("--sae", str(sae_dir)),
        *("--model_name", name),
        *("--hook_name", measured.hook_name),
        *("--cache", str(out / "cache")),
        *("--datasets", *wanted),
        *("--ks", *map(str, ks)),
        *("--random_seed", str(PROBE_SEED)),
        *("--output_folder", str(out / "saebench")),
    ]
    return {"command": command, "ours": str(out / "ours.json")}


def _stored(subject_dir: Path) -> list[str]:
    """Data sets that the subject's probe activations hold, without those out of domain."""
    manifest = subject_dir.parent / "probes/manifest.json"
    if not manifest.is_file():
        raise HusaiError(f"--datasets: name some, as {manifest} is not there to say which")
    return list(provenance.read_json(manifest)["data_slice"]["datasets"])
