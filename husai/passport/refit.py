"""Encoder and biases of an SAE fitted to rows again, its decoder held: the last step of a consensus
SAE."""

from __future__ import annotations

import torch

from husai.activations import ActivationStore, BatchReader
from husai.errors import HusaiError
from husai.sae.architectures import SAE, THRESHOLDED, TOP_K
from husai.sae.threshold import batch_top_k_threshold

STEPS = 500
BATCH = 1024
"""Steps, and rows of each: few, as the encoder starts near its end (see LEARNING_RATE)."""
LEARNING_RATE = 1e-3
"""Of Adam, decaying linearly to 0. The encoder starts as a mean of trained encoders, so it has only
to turn a little."""
CONTROL = 0.2
"""How strongly the sparsity penalty of a ReLU SAE answers an L0 off its aim, per step and relative
error: fast enough to settle in a third of the steps, slow enough not to swing."""
FIRST_PENALTY = 0.03
"""Penalty on a ReLU code relative to the squared error, both in units of the rows' variance, from
which the control starts."""
LEAST_PENALTY = 1e-3
"""Below, it has no effect; a lower value would take too long to come back from."""
SCALE_ROWS = 8192


def refit(
    sae: SAE,
    rows: torch.Tensor | ActivationStore,
    *,
    l0: float,
    steps: int = STEPS,
    seed: int = 0,
) -> SAE:
    """Fit ``W_enc``, ``b_enc``, ``b_dec`` (and the threshold) of ``sae`` by Adam on the squared
    error.

    The code is held at ``l0`` active latents per row: TopK by its k, BatchTopK and JumpReLU by the
    largest ``l0`` per row of each batch and then one threshold for all latents (Bussmann et al.
    2412.06410), ReLU by a penalty on the code that is raised while L0 is above its aim and lowered
    while it is below, and what is left above it by a shift of all biases.

    Parameters
    ----------
    sae : SAE
        Decoder rows of norm 1, ``d_in`` = ``d_out``; not changed.
    rows : Tensor (n, d_in) or ActivationStore
        Training rows.
    l0 : float
        Active latents per row to aim at, at most ``d_sae``.
    steps, seed : int
        Steps of 1024 rows, and the order in which they are read.

    Raises
    ------
    HusaiError
        Fewer than 1024 rows, or weights that become infinite.
    """
    if len(rows) < BATCH:
        raise HusaiError(f"consensus: {len(rows)} training rows; at least {BATCH} are needed")
    check = first_rows(rows, SCALE_ROWS)
    scale = float((check - check.mean(0)).square().mean().sqrt()) or 1.0
    parts = [sae.W_enc, sae.b_enc / scale, sae.b_dec / scale]
    parts = [p.detach().float().clone().requires_grad_() for p in parts]
    if l0 < 1 or l0 > sae.d_sae:
        raise HusaiError(f"consensus: L0 {l0:.2f} must lie between 1 and {sae.d_sae} latents")
    if steps:
        reader = BatchReader(rows, BATCH, seed, device=sae.device, dtype=torch.float32)
        _train(sae, parts, reader, scale, l0, steps)
    W_enc, b_enc, b_dec = (p.detach() for p in parts)
    if not all(bool(torch.isfinite(p).all()) for p in (W_enc, b_enc, b_dec)):
        raise HusaiError("consensus: the refit diverged; give rows of the hook the SAEs belong to")
    k = max(1, round(l0)) if sae.architecture in TOP_K else sae.k
    weights = (W_enc.contiguous(), sae.W_dec, b_enc * scale, b_dec * scale)
    centred = {"apply_b_dec_to_input": sae.apply_b_dec_to_input}
    found = SAE(sae.architecture, *weights, sae.threshold, k, sae.cfg, **centred)
    if sae.architecture not in TOP_K:
        level = batch_top_k_threshold(found, check, l0)
        if sae.architecture in THRESHOLDED:
            found.threshold = torch.full_like(found.b_enc, level)
        else:
            found.b_enc = found.b_enc - level
    return found


def first_rows(rows: torch.Tensor | ActivationStore, count: int) -> torch.Tensor:
    """The first ``count`` rows ``(n, d_in)``, or all where there are fewer."""
    is_store = isinstance(rows, ActivationStore)
    return rows.tensor(min(count, len(rows))) if is_store else rows[:count]


def _train(sae: SAE, parts, reader, scale: float, l0: float, steps: int) -> None:
    """Adam on the parts in place, in units in which the rows have variance 1 per dimension."""
    W_enc, b_enc, b_dec = parts
    W_dec = sae.W_dec.detach().float()
    optimiser = torch.optim.Adam(parts, lr=LEARNING_RATE)
    penalty = torch.tensor(FIRST_PENALTY, device=W_enc.device)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        x = next(reader) / scale
        pre = (x - b_dec if sae.apply_b_dec_to_input else x) @ W_enc + b_enc
        code = _selected(pre, sae.architecture, l0)
        loss = (x - code @ W_dec - b_dec).square().sum(1).mean()
        if sae.architecture == "relu":
            loss = loss + penalty * code.sum(1).mean()
            active = (code.detach() > 0).sum(1).double().mean()
            change = torch.exp(CONTROL * (active / l0 - 1).clamp(-1, 1)).float()
            penalty = (penalty * change).clamp_min(LEAST_PENALTY)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _selected(pre: torch.Tensor, architecture: str, l0: float) -> torch.Tensor:
    """The code of a batch: what the architecture keeps at ``l0`` active latents per row."""
    code = pre.relu()
    if architecture == "relu":
        return code
    if architecture in TOP_K:
        kept = code.detach().topk(max(1, round(l0)), dim=1).indices
        return torch.zeros_like(code).scatter(1, kept, code.gather(1, kept))
    count = min(code.numel(), max(1, round(l0 * len(code))))
    least = code.detach().flatten().topk(count).values[-1]
    return torch.where(code >= least, code, 0.0)
