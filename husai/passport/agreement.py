"""Do matched latents do the same thing? Pearson correlation of each latent with its best match in
every other SAE on held-out rows, all pairs in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from husai.recipe import READ_ONLY
from husai.stability.functional import BATCH_BYTES, batches, pearson

FUNCTIONAL_MATCH = 0.2
"""Correlation of activations from which two latents agree. Latents at cosine 0.7, the bar of the
directions, correlate at 0.63 (firing on 50% of normal rows), 0.30 (1%) and 0.19 (0.1%): a pair
below 0.2 shares a direction and not a behaviour."""


@torch.no_grad()
def matched_agreement(
    saes: Sequence,
    rows,
    pairs: Mapping[tuple[int, int], tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    *,
    device=None,
    batch_size: int | None = None,
) -> dict[tuple[int, int], torch.Tensor]:
    """Pearson r of the activations of matched latents.

    Parameters
    ----------
    saes : sequence of SAE
    rows : Tensor (n, d_in) or activation store
    pairs : mapping
        ``(i, j)``: latents of SAE i, latents of SAE j (int64, of one length), and whether the
        match is mirrored (bool), that is, encoder and decoder point the opposite way. A mirrored
        latent is read as if its encoder had the other sign, like its direction.

    Returns
    -------
    dict
        ``(i, j)``: float64 on the CPU, one r per match; 0 where either latent never changes.
    """
    device = torch.device(device) if device is not None else saes[0].W_dec.device
    index = {pair: (a.to(device), b.to(device)) for pair, (a, b, _) in pairs.items()}
    flipped = {pair: m.nonzero().flatten().to(device) for pair, (_, _, m) in pairs.items()}
    turned = {j for (_, j), where in flipped.items() if where.numel()}
    sums = {
        pair: torch.zeros((5, len(a)), dtype=torch.float64, device=device)
        for pair, (a, _) in index.items()
    }
    n, width = 0, sum(s.W_dec.shape[0] for s in saes)
    for x in batches(rows, batch_size or max(64, BATCH_BYTES // (8 * width)), device):
        n += x.shape[0]
        plain = [s.encode(x).float() for s in saes]
        mirrors = {j: mirrored_code(saes[j], x, plain[j]).T.contiguous() for j in turned}
        codes = [z.T.contiguous() for z in plain]
        for pair, (a, b) in index.items():
            left, right = codes[pair[0]].index_select(0, a), codes[pair[1]].index_select(0, b)
            if flipped[pair].numel():
                where = flipped[pair]
                right[where] = mirrors[pair[1]].index_select(0, b[where])
            for row, product in enumerate((left, right, left * left, right * right, left * right)):
                sums[pair][row] += product.sum(1, dtype=torch.float64)
    return {pair: pearson(n, *total.unbind(0)).cpu() for pair, total in sums.items()}


def mirrored_code(sae, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """What each latent would give with the opposite sign, ``(B, d_sae)``: the same rule on the
    negated pre-activation, under the threshold that the row had."""
    architecture = getattr(sae, "architecture", None)
    if architecture == "abstopk":  # a latent of the opposite sign fires on the same rows
        return -z
    if not hasattr(sae, "pre_activations") or architecture in READ_ONLY:
        return torch.zeros_like(z)
    opposite = -sae.pre_activations(x).float()
    floor = 0.0
    if getattr(sae, "threshold", None) is not None:
        floor = sae.threshold.float()
    elif getattr(sae, "k", None):
        floor = torch.where(z > 0, z, torch.inf).amin(1, keepdim=True)
    return torch.where(opposite >= floor, opposite, 0.0).relu()
