"""Mean latents of every story for several SAEs in one pass over stored activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from husai.compute import side_by_side
from husai.progress import Progress
from husai.sae.fold import decoder_norms
from husai.sae.pooled import blocks, mean_of_texts, rows_of


class PairActivations(NamedTuple):
    """Activations of a subject at one hook for every token of ``n_pairs`` story pairs, stories in
    the order A0, B0, A1, B1, ...
    """

    tokens: Any
    """Rows ``(n_tokens, d)`` float32: a tensor, or anything whose ``[start:stop]`` gives one and
    that has a ``shape``.
    """
    offsets: torch.Tensor
    """int64 ``(2 n_pairs + 1,)``: story i is rows ``offsets[i]:offsets[i + 1]``, at least one
    row.
    """
    themes: list[str]
    """What each pair is about, ``n_pairs`` names: CE-Bench's subject, or the probing data set."""
    families: list[str]
    """Group of related themes of each pair, for clustered intervals."""
    pairs_hash: str
    """Identifies the texts; scores compare only within one hash."""

    @property
    def n_pairs(self) -> int:
        """Number of story pairs."""
        return len(self.themes)

    @property
    def counts(self) -> torch.Tensor:
        """Tokens per story, int64 ``(n_pairs, 2)``."""
        return self.offsets.diff().view(-1, 2)


def mean_latents(
    saes: Sequence,
    pairs: PairActivations,
    *,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> tuple[list[torch.Tensor], list[float]]:
    """Mean latents of every story for several SAEs in one pass over the tokens.

    Latents are in units of decoder rows of length one (:func:`husai.sae.fold.decoder_norms`): the
    same function with a latent 300 times as large and its decoder row 300 times as short gives the
    same means, and so the same scores.

    On a CPU each of torch's threads takes a few whole stories from end to end, which spares the
    threads from waiting for each other at every operation; the result does not depend on how many
    there are.

    Parameters
    ----------
    saes : sequence of SAE
        Each with ``d_in`` equal to the width of ``pairs.tokens``.

    Returns
    -------
    means : list of Tensor ``(n_pairs, 2, d_sae)`` float32
    l0 : list of float
        Mean number of active latents per token.
    """
    offsets, width = pairs.offsets, max(sae.d_sae for sae in saes)
    saes = [sae.to(device) for sae in saes]
    means = [torch.empty(len(offsets) - 1, sae.d_sae, device=device) for sae in saes]
    bar = Progress(int(offsets[-1]), "CE-Bench tokens") if progress else None

    @torch.no_grad()
    def fill(stories: tuple[int, int]) -> torch.Tensor:
        """Means of a range of stories; returns how many latents are active, ``(n_saes,)``."""
        first, last = stories
        x = rows_of(pairs.tokens, offsets, first, last, device)
        active = torch.zeros(len(saes), dtype=torch.int64, device=device)
        for i, (sae, out) in enumerate(zip(saes, means, strict=True)):
            code = sae.encode(x)
            out[first:last] = mean_of_texts(code, offsets[first : last + 1])
            active[i] = (code != 0).sum()
        if bar:
            bar.update(len(x))
        return active

    found = blocks(offsets, width, device)
    # Threads share a CPU; a GPU takes one block after the other.
    on_cpu = torch.device(device).type == "cpu"
    active = sum(side_by_side(fill, found) if on_cpu else map(fill, found))
    means = [
        mean.mul_(decoder_norms(sae).to(mean.dtype)).view(pairs.n_pairs, 2, -1)
        for sae, mean in zip(saes, means, strict=True)
    ]
    return means, (active.double() / int(offsets[-1])).tolist()
