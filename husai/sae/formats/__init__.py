"""SAEs on disk and on hubs: one file per trainer whose files are read. SAELens' format is written.

Only these files may import ``sae_lens`` or ``huggingface_hub``, and only when an SAE needs them."""

from __future__ import annotations

from pathlib import Path

import torch

from husai.errors import HusaiError
from husai.sae.architectures import SAE
from husai.sae.formats.dictionary_learning import read_dictionary
from husai.sae.formats.files import one_line, read_config
from husai.sae.formats.gemma_scope import read_gemma_scope
from husai.sae.formats.hub import resolve
from husai.sae.formats.language_model_saes import read_language_model_sae
from husai.sae.formats.old_husai import read_old_husai
from husai.sae.formats.saelens import read_saelens
from husai.sae.formats.saelens_writing import save_sae
from husai.sae.formats.sparsify import read_sparse_coder
from husai.sae_files import GENERIC, sae_folder, settings_of, weights_of

__all__ = ["load_sae", "resolve", "save_sae"]


def load_sae(path: str | Path, device: str | torch.device = "cpu") -> SAE:
    """Read an SAE from a directory or file written by SAELens, dictionary_learning, sparsify,
    Language-Model-SAEs, Gemma Scope or an older HUSAI, or from a hub (:func:`resolve`).

    The format is told by the file names and, inside ``.pt`` files, by the settings beside them;
    ``sae.cfg["format"]`` says which it was. Nothing in a file is ever executed. The SAE reads
    activations in their own units, in float32 (float64 stays).

    Raises
    ------
    HusaiError
        Nothing readable there, a damaged file, a kind of SAE that has no counterpart here, settings
        that are missing, or a pickle that wants to run code.
    """
    path = resolve(path)
    if not path.exists():
        raise HusaiError(f"{path}: no such file or directory; give an SAE directory or a .pt file")
    try:
        sae = _read(path)
    except HusaiError as error:
        raise (error if str(path) in str(error) else HusaiError(f"{path}: {error}")) from None
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise HusaiError(
            f"{path}: settings or tensors do not describe an SAE ({one_line(error)}); copy it "
            "again from its source"
        ) from None
    return sae.to(device)


def _read(path: Path) -> SAE:
    if path.is_file():
        if path.name in GENERIC and (path.name != "ae.pt" or settings_of(path) is not None):
            return _read_folder(sae_folder(path))
        if path.suffix == ".pt":
            return _read_pickled(path)
        if path.suffix == ".npz":
            return read_gemma_scope(path)
        raise HusaiError(
            f"{path}: not an SAE file; give its directory, or a .pt or .npz file with the weights"
        )
    return _read_folder(path)


def _read_folder(folder: Path) -> SAE:
    weights, pickles = weights_of(folder), sorted(folder.glob("*.pt"))
    if weights is None and len(pickles) == 1:
        return _read_pickled(pickles[0])
    if weights is None:
        problem = (
            "no SAE here; a directory needs sae_weights.safetensors, sae.safetensors, ae.pt, "
            "params.npz or one .pt file"
        )
        if (folder / "cfg.json").is_file():
            problem = (
                "cfg.json is there but its weights (sae_weights.safetensors or sae.safetensors) "
                "are not; copy them too"
            )
        elif pickles:
            first = pickles[0].name
            problem = f"holds {len(pickles)} .pt files, starting with {first}; name one of them"
        raise HusaiError(f"{folder}: {problem}")
    if weights.name == "sae.safetensors":
        return read_sparse_coder(folder)
    if weights.name == "params.npz":
        return read_gemma_scope(weights)
    if weights.name == "ae.pt":
        return _read_pickled(weights)
    if weights.name == "sae_weights.safetensors" and not _is_language_model_sae(folder):
        return read_saelens(folder)
    return read_language_model_sae(folder)


def _is_language_model_sae(folder: Path) -> bool:
    """Whether, without SAELens' ``cfg.json``, the settings name an activation function."""
    names = ("cfg.json", "config.json", "hyperparams.json")
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    return first is not None and first.name != "cfg.json" and "act_fn" in read_config(first)


def _read_pickled(path: Path) -> SAE:
    """A ``.pt`` file, by the settings of dictionary_learning where there are some."""
    settings = settings_of(path)
    if settings is not None and (path.name == "ae.pt" or "trainer" in read_config(settings)):
        return read_dictionary(path, settings)
    return read_old_husai(path)
