"""SAEs on hubs: ``saelens:RELEASE/SAE_ID`` and ``hf:REPO[/FOLDER][@REVISION]``. SAELens' own
loaders and the Hugging Face client do the work; what they bring is read as any other folder is."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.sae.formats.files import one_line
from husai.sae.formats.saelens_classes import saelens
from husai.sae_files import FACTORS, SETTINGS, WEIGHTS, is_remote

NEAREST = 3
"""How many known names an error offers."""


def resolve(spec: str | Path) -> Path:
    """The local path of an SAE: of one on a hub, after downloading what it needs; any other path
    as it is.

    ``hf:REPO[/FOLDER][@REVISION]`` is the folder in the hub's cache. ``saelens:RELEASE/SAE_ID`` is
    converted by SAELens once and kept beside that cache, in SAELens' format.

    Raises
    ------
    HusaiError
        The hub is away and the SAE is not in its cache; a release, an SAE, a repository or a folder
        that does not exist (the nearest known names are given); SAELens or the client is missing.
    """
    if not is_remote(spec):
        return Path(spec)
    kind, _, name = str(spec).partition(":")
    return _from_hub(str(spec), name) if kind == "hf" else _from_saelens(str(spec), name)


def _from_hub(spec: str, name: str) -> Path:
    name, _, revision = name.partition("@")
    owner, _, rest = name.partition("/")
    repository, _, folder = rest.partition("/")
    folder = folder.strip("/")
    if not owner or not repository:
        raise HusaiError(f"{spec}: name a repository as hf:OWNER/REPO[/FOLDER][@REVISION]")
    client = _client(spec)
    wanted = [f"{folder}/{n}" if folder else n for n in (*SETTINGS, *WEIGHTS, *FACTORS)]
    wanted += [folder, *_settings_above(folder)] if folder.endswith((".pt", ".npz")) else []
    try:
        snapshot = client.snapshot_download(
            f"{owner}/{repository}", revision=revision or None, allow_patterns=wanted
        )
    except Exception as error:  # the client raises errors of its own, of requests and of the system
        raise _failure(spec, error) from None
    path = Path(snapshot, folder)
    if not path.exists():
        raise HusaiError(
            f"{spec}: the repository has no SAE at '{folder}'; name the folder with its settings "
            "and weights"
        )
    return path


def _settings_above(file: str) -> list[str]:
    """Where the settings of a lone file in a repository may be."""
    folder = Path(file).parent
    folders = [folder, folder.parent] if folder.name == "checkpoints" else [folder]
    return [(f / name).as_posix() for f in folders for name in SETTINGS]


def _from_saelens(spec: str, name: str) -> Path:
    release, _, sae_id = name.partition("/")
    if not release or not sae_id:
        raise HusaiError(f"{spec}: name an SAE as saelens:RELEASE/SAE_ID")
    library = saelens()
    _check_known(spec, release, sae_id)
    kept = Path(_client(spec).constants.HF_HOME, "husai-saes")  # beside the cache of the hub
    folder = kept / release / sae_id / f"sae_lens-{library.__version__}"
    if not folder.is_dir():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                sae = library.SAE.from_pretrained(release, sae_id, device="cpu")
            except Exception as error:  # SAELens raises what its many loaders happen to raise
                raise _failure(spec, error) from None
        _save(sae, folder)
    return folder


def _save(sae: Any, folder: Path) -> None:
    """Save in SAELens' format, in one move."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        sae.save_model(temporary)
        os.replace(temporary, folder)
    except OSError as error:
        if not folder.is_dir():  # another process may have been faster
            raise HusaiError(
                f"{folder}: cannot be written ({error.strerror or error}); free space or set "
                "HF_HOME to another folder"
            ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_known(spec: str, release: str, sae_id: str) -> None:
    """Refuse a release or an SAE that SAELens does not list, naming the nearest ones."""
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    if release not in known:
        raise HusaiError(f"{spec}: SAELens knows no release '{release}'{_nearest(release, known)}")
    saes = known[release].saes_map
    if sae_id not in saes:
        raise HusaiError(
            f"{spec}: release '{release}' has no SAE '{sae_id}'{_nearest(sae_id, saes)}"
        )


def _nearest(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=NEAREST, cutoff=0.0)
    return f"; the nearest are {', '.join(close)}" if close else ""


def _client(spec: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise HusaiError(
            f"{spec}: needs huggingface_hub, which is not installed; pip install 'husai[formats]'"
        ) from None
    return huggingface_hub


def _failure(spec: str, error: Exception) -> HusaiError:
    """One line for whatever a download raised."""
    kind = type(error).__name__
    if kind in ("RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError"):
        return HusaiError(f"{spec}: not on the hub ({one_line(error)}); check its name")
    if kind == "LocalEntryNotFoundError" or isinstance(error, (OSError, TimeoutError)):
        return HusaiError(
            f"{spec}: not in the local cache, and the hub cannot be reached "
            f"({one_line(error)}); go online once, or copy its files here and give their path"
        )
    return HusaiError(f"{spec}: cannot be loaded ({kind}: {one_line(error)})")
