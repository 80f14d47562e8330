"""Mean latents of every story for several SAEs in one pass over stored activations."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from husai.compute import side_by_side
from husai.probing import codes
from husai.progress import Progress
from husai.recipe import READ_ONLY
from husai.sae.architectures import THRESHOLDED, TOP_K
from husai.sae.fold import decoder_norms
from husai.sae.kernels import top_k

CHUNK_VALUES = 1 << 20
"""Pre-activations of a chunk of tokens on a CPU: 4 MB of float32, what a core's cache holds."""


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


def _workspace(saes: Sequence, chunk_tokens: int) -> torch.Tensor:
    """Two flat buffers ``(2, n)`` that hold a chunk of any of the SAEs; fresh ones cost more in
    page faults than the arithmetic.
    """
    return torch.empty(
        2, chunk_tokens * max(sae.d_sae for sae in saes), device=saes[0].device, dtype=saes[0].dtype
    )


def _add_latents(
    sae, x: torch.Tensor, story: torch.Tensor, sums: torch.Tensor, workspace: torch.Tensor
) -> torch.Tensor:
    """Add the latents of rows ``x (B, d)`` to rows ``story (B,)`` of ``sums (n_stories, d_sae)``;
    return how many are active.
    """
    x, shape = x.to(sae.dtype), (len(x), sae.d_sae)
    pre, above = (buffer[: shape[0] * shape[1]].view(shape) for buffer in workspace.to(sae.dtype))
    centred = x - sae.b_dec if sae.apply_b_dec_to_input else x
    if codes.applies(sae, x):
        fired = torch.zeros(sae.d_sae)
        codes.add_codes(sae, torch.mm(centred, sae.W_enc, out=pre), story, sums, fired)
        return fired.sum(dtype=torch.float64)
    if sae.architecture in READ_ONLY:
        pre.copy_(sae.encode(x))
    else:
        torch.addmm(sae.b_enc, centred, sae.W_enc, out=pre)
    if sae.architecture in TOP_K:
        return _add_top_k(sae, pre, story, sums)
    if sae.architecture in THRESHOLDED:
        torch.sub(pre, sae.threshold, out=above).relu_().sign_()
        pre.relu_().mul_(above)
    elif sae.architecture not in READ_ONLY:
        pre.relu_()
    if x.is_cuda:
        stories = torch.arange(len(sums), device=x.device).unsqueeze(1)
        sums.addmm_((stories == story).to(sums.dtype), pre.to(sums.dtype))
    else:
        sums.index_add_(0, story, pre.to(sums.dtype))
    return pre.sign_().abs_().sum(1).sum(dtype=torch.float64)


def _add_top_k(sae, pre: torch.Tensor, story: torch.Tensor, sums: torch.Tensor) -> torch.Tensor:
    """As :func:`_add_latents` from the pre-activations of an SAE that keeps the k largest of a
    row.
    """
    values, latents = top_k(pre, sae.k)
    values = values.relu_()
    sums.view(-1).scatter_add_(
        0, (latents + story.unsqueeze(1) * sae.d_sae).view(-1), values.reshape(-1).to(sums.dtype)
    )
    return values.sign_().sum(dtype=torch.float64)


def mean_latents(
    saes: Sequence,
    pairs: PairActivations,
    *,
    device: str | torch.device = "cpu",
    chunk_tokens: int | None = None,
    progress: bool = False,
) -> tuple[list[torch.Tensor], list[float]]:
    """Mean latents of every story for several SAEs in one pass over the tokens.

    Latents are in units of decoder rows of length one (:func:`husai.sae.fold.decoder_norms`): the
    same function with a latent 300 times as large and its decoder row 300 times as short gives the
    same means, and so the same scores.

    On a CPU each of torch's threads takes a range of whole stories from end to end, which spares
    the threads from waiting for each other at every operation; the result does not depend on how
    many there are beyond rounding.

    Parameters
    ----------
    saes : sequence of SAE
        Each with ``d_in`` equal to the width of ``pairs.tokens``.
    chunk_tokens : int, optional
        Tokens encoded at a time; the result does not depend on it beyond rounding. By default what
        fits a few MB of cache.

    Returns
    -------
    means : list of Tensor ``(n_pairs, 2, d_sae)`` float32
    l0 : list of float
        Mean number of active latents per token.
    """
    offsets, n_tokens, n_stories = pairs.offsets, int(pairs.offsets[-1]), 2 * pairs.n_pairs
    saes = [sae.to(device) for sae in saes]
    if chunk_tokens is None:
        chunk_tokens = max(
            64,
            (CHUNK_VALUES if torch.device(device).type == "cpu" else 64 * CHUNK_VALUES)
            // max(sae.d_sae for sae in saes),
        )
    sums = [torch.zeros(n_stories, sae.d_sae, device=device) for sae in saes]
    n_threads = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    edges = [
        int(torch.searchsorted(offsets, n_tokens * i // n_threads)) for i in range(n_threads)
    ] + [n_stories]
    ranges = [(a, b) for a, b in itertools.pairwise(edges) if a < b]
    bar = Progress(n_tokens, "CE-Bench tokens") if progress else None
    active = sum(
        side_by_side(
            lambda stories: _add_stories(saes, pairs, sums, device, chunk_tokens, bar, *stories),
            ranges,
        )
    )
    counts = offsets.diff().to(device).unsqueeze(1)
    means = [
        total.div_(counts).mul_(decoder_norms(sae).to(total.dtype)).view(pairs.n_pairs, 2, -1)
        for sae, total in zip(saes, sums, strict=True)
    ]
    return means, (active / n_tokens).tolist()


@torch.no_grad()
def _add_stories(
    saes,
    pairs: PairActivations,
    sums,
    device,
    chunk_tokens: int,
    bar,
    first_story: int,
    last_story: int,
) -> torch.Tensor:
    """Fill rows ``first_story:last_story`` of ``sums``; returns active latents per SAE, float64
    ``(n_saes,)``.
    """
    offsets = pairs.offsets
    begin, end = int(offsets[first_story]), int(offsets[last_story])
    workspace = _workspace(saes, min(chunk_tokens, end - begin))
    active = torch.zeros(len(saes), dtype=torch.float64, device=device)
    for start in range(begin, end, chunk_tokens):
        stop = min(start + chunk_tokens, end)
        first = int(torch.searchsorted(offsets, start, right=True)) - 1
        last = int(torch.searchsorted(offsets, stop - 1, right=True)) - 1
        story = torch.bucketize(
            torch.arange(start, stop), offsets[first + 1 : last + 1], right=True
        ).to(device)
        x = pairs.tokens[start:stop].to(device)
        for i, (sae, total) in enumerate(zip(saes, sums, strict=True)):
            active[i] += _add_latents(sae, x, story, total[first : last + 1], workspace)
        if bar:
            bar.update(stop - start)
    return active.cpu()
