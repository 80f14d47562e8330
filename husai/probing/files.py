"""Activations of probing rows on disk: ``{probes}/{hook}/{data set}.safetensors``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from husai import provenance
from husai.compute import side_by_side
from husai.errors import HusaiError, nearest
from husai.probing import datasets
from husai.probing.encoders import ProbeData


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
    probes: str | Path,
    hook_name: str,
    name: str,
    pooling: str,
    max_rows: int | None = None,
    ood: bool = False,
) -> ProbeData:
    """Activations and labels of one data set, the first ``max_rows`` rows of it.

    Raises
    ------
    HusaiError
        A file that is missing, damaged, of another layout or another pooling, or activations that
        are not finite.
    """
    from safetensors import safe_open

    path = probe_path(probes, hook_name, name, ood)
    again = "delete it and run the probe activations again"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            stored = (file.metadata() or {}).get("pooling")
    except Exception as error:
        raise HusaiError(f"{path}: not a readable safetensors file ({error}); {again}") from error
    if {"tokens", "offsets", "y"} - tensors.keys() or tensors["tokens"].ndim != 2:
        raise HusaiError(
            f"{path}: holds no matrix 'tokens' (n_tokens, d) with 'offsets' and labels 'y'; {again}"
        )
    tokens, offsets, y = (tensors[key] for key in ("tokens", "offsets", "y"))
    if len(offsets) != len(y) + 1 or int(offsets[-1]) != len(tokens) or offsets.diff().min() < 1:
        raise HusaiError(
            f"{path}: {len(tokens)} tokens and {len(y)} labels do not fit its offsets; {again}"
        )
    if stored != pooling:
        raise HusaiError(
            f"{path}: holds tokens for pooling '{stored}', but external.probing.pooling is "
            f"'{pooling}'; run the probe activations again"
        )
    if max_rows is not None:
        offsets, y = offsets[: max_rows + 1], y[:max_rows]
        tokens = tokens[: int(offsets[-1])]
    if not tokens.sum(dtype=torch.float64).isfinite():  # anything not finite makes it so
        raise HusaiError(
            f"{path}: NaN or infinite activations; run the probe activations again in float32"
        )
    return ProbeData(name, datasets.family(name), tokens, offsets, y.numpy().astype(np.int64))


def save_probe_data(
    path: Path, tokens: torch.Tensor, offsets: torch.Tensor, y: np.ndarray, pooling: str
) -> None:
    """Write the activations of a data set at one hook: ``tokens (n_tokens, d)``, int64
    ``offsets (n_rows + 1,)`` and labels 0/1 ``y (n_rows,)``; see :class:`ProbeData`.
    """
    from safetensors.torch import save_file

    content = {"tokens": tokens.contiguous(), "offsets": offsets, "y": torch.from_numpy(y)}
    with provenance.atomic_path(path) as temporary:
        save_file(content, temporary, metadata={"pooling": pooling})


def probe_data(
    probes: str | Path,
    hook_name: str,
    names: Sequence[str],
    pooling: str,
    max_rows: int | None = None,
) -> Iterator[ProbeData]:
    """:func:`load_probe_data` of each name, one at a time."""
    for name in names:
        yield load_probe_data(probes, hook_name, name, pooling, max_rows)


def activation_hashes(probes: str | Path, hook_name: str, names: Sequence[str]) -> dict[str, str]:
    """``{data set: SHA-256 of its activation file}``; several at a time, as they are large."""
    paths = [probe_path(probes, hook_name, name) for name in names]
    return dict(zip(names, side_by_side(provenance.sha256_file, paths), strict=True))
