"""Where the files of an SAE are, whatever trainer wrote them: what a path stands for, which files
reading it reads, and the seed it declares.

The workflow asks whenever it is planned, so: standard library only, and no file of weights is
opened. What is in the files is the business of :mod:`husai.sae.formats`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

SETTINGS = ("cfg.json", "config.json", "hyperparams.json")
"""SAELens and sparsify write the first, dictionary_learning and Language-Model-SAEs the second, and
Llama Scope the third.
"""
WEIGHTS = (
    "sae_weights.safetensors",
    "sae.safetensors",
    "ae.pt",
    "params.npz",
    "sae_weights.pt",
    "checkpoints/pruned.safetensors",
    "checkpoints/pruned.pt",
    "checkpoints/final.safetensors",
    "checkpoints/final.pt",
)
"""SAELens and Language-Model-SAEs, sparsify, dictionary_learning, Gemma Scope, and the other places
of Language-Model-SAEs; the first that is there counts.
"""
FACTORS = ("activation_scaler.json", "activation_whitening.safetensors")
"""What SAELens multiplies activations by before they reach an SAE in training, saved beside it."""
REMOTE = ("saelens:", "hf:")
"""An SAE named by a release of SAELens, or by a repository of the Hugging Face hub."""
GENERIC = (*(w for w in WEIGHTS if "/" not in w), *SETTINGS)
LARGEST_SEED = 2**31
"""Seeds are below: NumPy's and scikit-learn's generators take 32 bits."""


def listed(path: str | Sequence[str]) -> list[str]:
    """One path or several, as a list."""
    return [path] if isinstance(path, (str, Path)) else list(path)


def expand(path: str | Sequence[str]) -> list[Path]:
    """The SAEs behind a path or a list of paths: a folder with ``seed*/`` in it stands for
    those, and one of these without an SAE of its own for the one SAE in a folder below it.
    """
    found: list[Path] = []
    for one in map(Path, listed(path)):
        seeds = [p for p in one.glob("seed*") if p.is_dir()] if one.is_dir() else []
        ordered = sorted(seeds, key=lambda p: (len(p.name), p.name))
        found += [_only_one(p) for p in ordered] or [one]
    return found


def _only_one(folder: Path) -> Path:
    """``folder``, or the only folder in it that holds an SAE: of trainers that make one for each
    hook (sparsify) or trainer (dictionary_learning).
    """
    if weights_of(folder) or next(folder.glob("*.pt"), None):
        return folder
    below = [p for p in folder.iterdir() if p.is_dir() and weights_of(p)]
    return below[0] if len(below) == 1 else folder


def default_name(path: str | Sequence[str]) -> str:
    """A name from the first path: that of the folder, or of the file without its ending."""
    one = sae_folder(Path(next(iter(listed(path)), "")))
    name = one.stem if one.suffix in (".pt", ".pth", ".ckpt", ".bin") else one.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")


def sae_folder(path: Path) -> Path:
    """The folder of an SAE that is named by a file of a known name; else ``path`` itself."""
    return path.parent if path.name in GENERIC else path


def is_remote(path: str | Path) -> bool:
    """Whether ``path`` names an SAE on a hub rather than files."""
    return str(path).startswith(REMOTE)


def weights_of(folder: Path) -> Path | None:
    """The file with the weights of the SAE in ``folder``; None when none has a known name."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def settings_of(path: Path) -> Path | None:
    """The settings of a lone file of weights: beside it, or above the folder ``checkpoints`` it is
    in; None when there are none.
    """
    folders = [path.parent, *([path.parent.parent] if path.parent.name == "checkpoints" else [])]
    found = (f / name for f in folders for name in SETTINGS if (f / name).is_file())
    return next(found, None)


def sae_files(path: str | Path) -> list[Path]:
    """The files that reading an SAE reads: settings, weights and factors of a folder, or a lone
    file and its settings. None of an SAE on a hub.
    """
    if is_remote(path):
        return []
    path = Path(path)
    folder = sae_folder(path)
    if not folder.is_dir():
        settings = settings_of(path) if path.suffix == ".pt" else None
        return [path] if settings is None else [settings, path]
    named = [folder / name for name in SETTINGS if (folder / name).is_file()]
    weights = weights_of(folder)
    if weights is not None:
        return [*named, weights, *(folder / name for name in FACTORS if (folder / name).is_file())]
    return [*named, *sorted(folder.glob("*.pt"))] or [path]


def declared_seed(path: Path) -> int | None:
    """The seed that an SAE's settings, or else its name (``seed42``, ``sae_seed42.pt``), say; None
    when neither does.
    """
    folder = sae_folder(path)
    for file in (folder / name for name in SETTINGS if folder.is_dir()):
        try:
            value = json.loads(file.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            continue
        if not isinstance(value, dict):
            continue
        for block in (value.get("metadata"), value.get("trainer"), value):
            seed = usable_seed(block.get("seed")) if isinstance(block, dict) else None
            if seed is not None:
                return seed
    found = re.search(r"seed(\d+)$", folder.stem if folder.suffix else folder.name)
    return usable_seed(int(found.group(1))) if found else None


def usable_seed(value: object) -> int | None:
    """``value`` when it is a seed: a whole number, not negative and not too large; None for
    anything else (NaN, a boolean, text).
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not 0 <= value < LARGEST_SEED or value != int(value):
        return None
    return int(value)
