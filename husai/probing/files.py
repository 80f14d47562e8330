"""Activations of probing rows on disk: ``{probes}/{hook}/{data set}.safetensors`` as the
probe-activation job writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from husai import provenance
from husai.errors import HusaiError, nearest
from husai.probing import datasets
from husai.probing.protocol import ProbeData


def probe_path(probes: str | Path, hook_name: str, name: str, ood: bool = False) -> Path:
    """File of a data set, or of its OOD test set; ``probes`` is the folder above the hooks' or the
    manifest in it.

    Raises
    ------
    HusaiError
        The subject has no activations at this hook (the hooks it has are named), or none of this
        data set.
    """
    root = Path(probes).parent if Path(probes).suffix == ".json" else Path(probes)
    path = root / hook_name / f"{name}{'_OOD' if ood else ''}.safetensors"
    if path.is_file():
        return path
    if path.parent.is_dir():
        raise HusaiError(
            f"{path}: no activations of data set '{name}'; add it to the data sets of the probe "
            "activations and run them again"
        )
    present = sorted(p.name for p in root.iterdir() if p.is_dir()) if root.is_dir() else []
    has = (
        f"it has {', '.join(present)}{nearest(hook_name, present)}"
        if present
        else "it has none yet; run the probe activations first"
    )
    raise HusaiError(f"{root}: no probe activations at hook '{hook_name}'; {has}")


def load_probe_data(
    probes: str | Path, hook_name: str, name: str, max_rows: int | None = None, ood: bool = False
) -> ProbeData:
    """Activations and labels of one data set, the first ``max_rows`` rows of it."""
    from safetensors.torch import load_file

    path = probe_path(probes, hook_name, name, ood)
    try:
        tensors = load_file(path)
    except Exception as error:
        raise HusaiError(
            f"{path}: not a readable safetensors file ({error}); delete it and run the probe "
            "activations again"
        ) from error
    if "x" not in tensors or tensors["x"].ndim != 2 or "y" not in tensors:
        raise HusaiError(
            f"{path}: holds no matrix 'x' (n_rows, d) with labels 'y'; delete it and run the probe "
            "activations again"
        )
    x, y = tensors["x"][:max_rows].float(), tensors["y"][:max_rows].numpy().astype(np.int64)
    if not x.sum().isfinite() and not torch.isfinite(x).all():  # a finite sum is quick proof
        raise HusaiError(
            f"{path}: NaN or infinite activations; run the probe activations again in float32"
        )
    if len(x) != len(y):
        raise HusaiError(
            f"{path}: {len(x)} rows but {len(y)} labels; delete it and run the probe activations "
            "again"
        )
    return ProbeData(name, datasets.family(name), x, y)


def probe_data(
    probes: str | Path, hook_name: str, names: Sequence[str], max_rows: int | None = None
) -> Iterator[ProbeData]:
    """:func:`load_probe_data` of each name, one at a time."""
    for name in names:
        yield load_probe_data(probes, hook_name, name, max_rows)


def activation_hashes(
    probes: str | Path, hook_name: str, names: Sequence[str], ood: bool = False
) -> dict[str, str]:
    """``{data set: SHA-256 of its activation file}``."""
    return {
        name: provenance.sha256_file(probe_path(probes, hook_name, name, ood)) for name in names
    }
