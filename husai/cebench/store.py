"""Activations of story pairs on disk: one safetensors file per hook, both splits, read in slices so
that memory stays flat.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from husai import provenance
from husai.cebench.means import PairActivations
from husai.cebench.pairs import Pair, pairs_hash
from husai.errors import HusaiError, nearest

SCHEMA = "husai.pairs/1"
# Order of the splits in a file.
SPLITS = ("selection", "confirmation")


class StoredRows:
    """Rows ``start:stop`` of the tensor ``tokens`` of an open safetensors file; slicing reads only
    what is asked for.
    """

    def __init__(self, path: Path, start: int, stop: int):
        self._tokens = _open(path).get_slice("tokens")
        self._start = start
        self.shape = (stop - start, self._tokens.get_shape()[1])

    def __getitem__(self, rows: slice) -> torch.Tensor:
        start, stop, _ = rows.indices(self.shape[0])
        return self._tokens[self._start + start : self._start + stop]


def save_pairs(
    path: str | Path,
    tokens: torch.Tensor,
    counts: torch.Tensor,
    pairs: dict[str, Sequence[Pair]],
    subject: str,
    hook_name: str,
) -> None:
    """Write the activations of the pairs of every split.

    Parameters
    ----------
    tokens : Tensor (n_tokens, d) float32
        Tokens of all stories in the order split, pair, story A then B.
    counts : Tensor (n_stories,) int64
        Tokens per story.
    pairs : dict
        ``{split: pairs}`` in the order of ``SPLITS``.

    Raises
    ------
    HusaiError
        Counts that do not fit the tokens or the pairs, a story without tokens, or values that are
        not finite.
    """
    from safetensors.torch import save_file

    n_stories = 2 * sum(len(p) for p in pairs.values())
    if len(counts) != n_stories or int(counts.sum()) != len(tokens) or bool((counts < 1).any()):
        raise HusaiError(
            f"{path}: {len(tokens)} tokens and {len(counts)} token counts do not fit {n_stories} "
            "stories of at least one token each"
        )
    # Anything not finite makes the sum so.
    if not torch.isfinite(tokens.sum(dtype=torch.float64)):
        raise HusaiError(
            f"{path}: activations of {subject} at {hook_name} are not finite; check the subject's "
            "weights"
        )
    every = [p for split in pairs.values() for p in split]
    families = {p.theme: p.family for p in every}
    themes = list(families)
    header = {
        "schema": SCHEMA,
        "subject": subject,
        "hook_name": hook_name,
        "themes": themes,
        "families": list(families.values()),
        "splits": {
            split: {"n_pairs": len(found), "pairs_hash": pairs_hash(found)}
            for split, found in pairs.items()
        },
    }
    tensors = {
        "tokens": tokens.float().contiguous(),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.int64), counts.long().cumsum(0)]),
        "theme": torch.tensor([themes.index(p.theme) for p in every], dtype=torch.int64),
    }
    with provenance.atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"husai": json.dumps(header)})


def load_pairs(
    path: str | Path, split: str = "selection", hook_name: str | None = None
) -> PairActivations:
    """Open the pairs of one split; tokens stay on disk until they are sliced.

    Parameters
    ----------
    path : path
        A pairs file, or the folder (or its ``manifest.json``) that holds ``{hook}.safetensors``;
        then ``hook_name`` chooses.

    Raises
    ------
    HusaiError
        No such file, hook or split, a damaged file, or a file of another hook.
    """
    path = pairs_file(path, hook_name)
    handle = _open(path)
    try:
        header = json.loads(handle.metadata()["husai"])
        offsets, theme = handle.get_tensor("offsets"), handle.get_tensor("theme")
    except Exception as error:
        raise HusaiError(
            f"{path}: not a file of pair activations ({type(error).__name__}); compute the pair "
            "activations again"
        ) from error
    if hook_name and header["hook_name"] != hook_name:
        raise HusaiError(
            f"{path}: holds activations at {header['hook_name']}, not at {hook_name}; name the "
            "pairs file of that hook"
        )
    if split not in header["splits"]:
        raise HusaiError(
            f"{path}: has no split '{split}', only {', '.join(header['splits'])}; compute the "
            "pair activations again"
        )
    before = itertools.takewhile(lambda name: name != split, header["splits"])
    first = sum(header["splits"][name]["n_pairs"] for name in before)
    last = first + header["splits"][split]["n_pairs"]
    window = offsets[2 * first : 2 * last + 1]
    index = theme[first:last].tolist()
    return PairActivations(
        StoredRows(path, int(window[0]), int(window[-1])),
        window - window[0],
        [header["themes"][i] for i in index],
        [header["families"][i] for i in index],
        header["splits"][split]["pairs_hash"],
    )


def pairs_file(path: str | Path, hook_name: str | None) -> Path:
    """The pairs file that ``path`` names: itself, or ``{hook_name}.safetensors`` in its folder.

    Raises
    ------
    HusaiError
        The folder has no file of this hook, or no hook is given and it does not hold exactly one.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return path
    folder = path if path.is_dir() else path.parent
    found = sorted(p.name.removesuffix(".safetensors") for p in folder.glob("*.safetensors"))
    if hook_name is None and len(found) == 1:
        hook_name = found[0]
    if hook_name not in found:
        hint = (
            f"it has {', '.join(found)}{nearest(hook_name or '', found)}"
            if found
            else "it has none; compute the pair activations first"
        )
        raise HusaiError(f"{folder}: no pair activations at hook '{hook_name}'; {hint}")
    return folder / f"{hook_name}.safetensors"


def _open(path: Path):
    from safetensors import safe_open

    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; compute the pair activations first") from None
    except Exception as error:
        raise HusaiError(
            f"{path}: damaged ({type(error).__name__}: {error}); compute the pair activations again"
        ) from error
