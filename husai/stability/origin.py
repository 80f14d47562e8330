"""Do the seeds of an ensemble have origins of their own? Training keeps rows in their order, and
independent starts have independent orders.

So SAEs that descend from one start, by copying or by a shared initialisation, agree row by row, and
a SAE resembles its own start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from husai.stability.rows import UnitRows, matrix_of, paired_cosines, unit_ensemble
from husai.stability.similarity import PairwiseBest

STEP = 4096
"""Rows compared at once, so that no wide decoder is copied whole in float64."""
ROUNDING = 1e-5
"""Two ways to compute one cosine in float32 differ by less."""


def same_index_matrix(
    decoders: Sequence[torch.Tensor], best: PairwiseBest, alive: Sequence | None = None, device=None
) -> torch.Tensor:
    """Per pair of SAEs, how many rows have their best match at their own index, both ways: ``(n,
    n)`` int64.

    Of independent trainings 1 on average, whatever they have in common (see
    :func:`husai.statistics.coincidence_limit`); of a copy, with noise or trained on, nearly all
    rows. Rows are compared by absolute cosine. A copy with its rows in another order is not seen.

    ``decoders`` are ``(d_sae, d_in)`` in the order in which they were trained, ``best`` is of the
    same decoders and masks ``(d_sae,)``.
    """
    units = unit_ensemble(decoders, alive, device)
    index = [torch.arange(u.n) if u.index is None else u.index.cpu() for u in units]
    found = torch.diag(torch.tensor([u.n for u in units]))
    for i in range(len(units)):
        for j in range(i + 1, len(units)):
            rows_i = torch.isin(index[i], index[j]).nonzero().flatten()
            rows_j = torch.isin(index[j], index[i]).nonzero().flatten()
            cosine = paired_cosines(units[i], units[j], rows_i, rows_j).abs() + ROUNDING
            both = (cosine >= best.best[i][rows_i, j]) & (cosine >= best.best[j][rows_j, i])
            found[i, j] = found[j, i] = int(both.sum())
    return found


def start_trace(
    decoder: torch.Tensor, initial: torch.Tensor, alive: torch.Tensor | None = None
) -> float:
    r"""How far, in standard deviations, a decoder resembles its start row by row more than it would
    with its rows in random order.

    The sum of cosines of rows at one index, ``T = sum_i a_i . b_i``, against its exact mean and
    variance over all orders of the rows (Hoeffding 1951, "A combinatorial central limit theorem");
    nearly normal, so a decoder that does not descend from ``initial`` stays within about 3. Needs
    no product of all rows: the moments follow from ``A^T A`` and ``B^T B``. NaN for fewer than two
    rows. Both decoders are ``(d_sae, d_in)`` in one row order; ``alive (d_sae,)`` are the rows to
    compare.
    """
    a = UnitRows(matrix_of(decoder, "decoder"), alive, "decoder")
    initial = matrix_of(initial, "initial decoder").to(a.device)
    b = UnitRows(initial, alive, "initial decoder")
    n, d = a.n, a.d_in
    if n < 2:
        return math.nan
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    grams = [torch.zeros((d, d), dtype=torch.float64, device=a.device) for _ in range(2)]
    sums = [torch.zeros(d, dtype=torch.float64, device=a.device) for _ in range(2)]
    for k in range(0, n, STEP):
        blocks = [u.block(k, k + STEP).double() for u in (a, b)]
        total += (blocks[0] * blocks[1]).sum()
        for gram, mean, block in zip(grams, sums, blocks, strict=True):
            gram += block.T @ block
            mean += block.sum(0) / n
    (gram_a, gram_b), (mean_a, mean_b) = grams, sums
    expected = n * mean_a @ mean_b
    across = n * (mean_b @ gram_a @ mean_b), n * (mean_a @ gram_b @ mean_a)
    squares = (gram_a * gram_b).sum() - across[0] - across[1] + (n * mean_a @ mean_b) ** 2
    variance = float(squares) / (n - 1)
    return float(total - expected) / math.sqrt(variance) if variance > 0 else math.nan
