"""Where training starts: units, centres and weights, from the data and a seed alone, never from a
member's companions.

Rows are trained in normalised units: multiplied by one constant so that the mean squared distance
to the centre equals the width (Anthropic, April 2024 update; expected squared norm d). Learning
rates, sparsity coefficients, thresholds and the gradient clip then mean the same on every subject.
The constant is folded into the weights on export, which is exact: every activation here is
positively homogeneous."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from husai.activations import Rows
from husai.errors import HusaiError
from husai.recipe import FIXED_K, Recipe
from husai.sae.kernels import top_k

JUMPRELU_INITIAL_THRESHOLD = 0.01
"""Lowest at the start; at 0 a latent would be a plain ReLU."""
INITIAL_L0_FACTOR = 2.0
"""Latents start twice as active as they are to end: the penalty thins out what fires, and wakes
nothing."""
SAMPLE_ROWS = 4096
"""Rows from which scale and centre are measured: a mean of so many is known to 2% of a
deviation."""
INITIAL_ROWS = 2048
"""Of these, rows on which the first code and its reconstruction are measured."""
WHITENING_ROWS = 32768
"""Rows behind a covariance: 16 for each direction of a width of 2048, so that no variance of the
sample is off by more than about half."""
WHITENING_FLOOR = 1.0e-4
"""Added to each variance, in units of their mean: what float32 rows resolve is below it."""


class Units(NamedTuple):
    """Scales and centres of one data set on the CPU, and the rows they were measured on."""

    scale_in: float
    """Factor from raw to normalised input."""
    scale_out: float
    """Factor from raw to normalised target."""
    centre_in: torch.Tensor
    """Centre of the raw input (d_in,); fixed for a transcoder, the start of ``b_dec`` otherwise."""
    centre_out: torch.Tensor
    """Start of ``b_dec`` in raw units (d_out,)."""
    sample_in: torch.Tensor
    """Some centred input rows in normalised units (n, d_in), float32."""
    sample_out: torch.Tensor
    """The centred targets of these rows in normalised units (n, d_out), float32."""
    whitening: torch.Tensor | None = None
    """What normalises centred rows in place of a scale, float64 (d_in, d_in)."""


def row_sample(source: Rows, n_rows: int | None = None, count: int = SAMPLE_ROWS) -> torch.Tensor:
    """About ``count`` rows spread evenly over the first ``n_rows``: float64 (n, d) on the CPU."""
    total = len(source) if n_rows is None else min(n_rows, len(source))
    if total <= count:
        rows = source[:total] if isinstance(source, torch.Tensor) else source.rows(0, total)
    elif isinstance(source, torch.Tensor):
        rows = source[torch.linspace(0, total - 1, count).long().to(source.device)]
    else:
        block = max(1, count // 64)
        starts = torch.linspace(0, total - block, 64).long().tolist()
        rows = torch.cat([source.rows(s, s + block) for s in starts])
    return rows.to(device="cpu", dtype=torch.float64)


def geometric_median(rows: torch.Tensor, tolerance: float = 1e-6, limit: int = 200) -> torch.Tensor:
    """Point (d,) nearest in sum to ``rows`` (n, d), by Weiszfeld's iteration from the mean."""
    centre = rows.mean(0)
    for _ in range(limit):
        distance = torch.linalg.vector_norm(rows - centre, dim=1)
        weight = 1.0 / distance.clamp_min(1e-12 + 1e-9 * float(distance.mean()))
        update = (weight @ rows) / weight.sum()
        moved = float(torch.linalg.vector_norm(update - centre))
        centre = update
        if moved <= tolerance * float(distance.mean()):
            break
    return centre


def measure_units(recipe: Recipe, data: Rows, target: Rows | None = None) -> Units:
    """Scales and centres from an even sample of the training rows (of the token budget).

    Raises
    ------
    HusaiError
        The sample holds NaN or infinite values, or all its rows are equal.
    """
    if recipe.whitening:
        return _whitened(recipe, row_sample(data, recipe.n_rows, WHITENING_ROWS))
    own = other = _unit(recipe, row_sample(data, recipe.n_rows), "the activations")
    if target is not None:
        other = _unit(recipe, row_sample(target, recipe.n_rows), "the target")
    return Units(*(part for pair in zip(own, other, strict=True) for part in pair))


def _unit(recipe: Recipe, rows: torch.Tensor, what: str):
    """Scale, centre (d,) and normalised sample (n, d) of ``rows``."""
    if not torch.isfinite(rows).all():
        raise HusaiError(
            f"{what} of {recipe.subject} {recipe.hook_name} hold NaN or infinite values; collect "
            "them again"
        )
    mean = rows.mean(0)
    spread = float((rows - mean).square().mean())
    if spread <= 1e-12 * float(rows.square().mean()):
        raise HusaiError(
            f"{what} of {recipe.subject} {recipe.hook_name} do not vary: every sampled row is the "
            "same; check the hook"
        )
    centre = {
        "geometric_median": geometric_median,
        "mean": lambda r: r.mean(0),
        "zero": lambda r: torch.zeros_like(r[0]),
    }
    at, scale = centre[recipe.b_dec_init](rows), spread**-0.5
    return scale, at, ((rows - at) * scale)[:: max(1, len(rows) // INITIAL_ROWS)].float()


def _whitened(recipe: Recipe, rows: torch.Tensor) -> Units:
    """Units in which rows are PCA-whitened (Saraswatula and Klindt 2511.13981): principal
    components scaled to variance one, and ``b_dec``, which starts at 0, counts from the centre.

    The loss is that of whitened rows too. Directions of hardly any variance stay small
    (``WHITENING_FLOOR``): what they hold is rounding, and noise of the sample.
    """
    _, centre, _ = _unit(recipe, rows, "the activations")
    variances, directions = torch.linalg.eigh(torch.cov(rows.t(), correction=0))
    floor = WHITENING_FLOOR * variances.mean()
    whitening = directions / (variances.clamp_min(0.0) + floor).sqrt()
    sample = (rows - centre)[:: max(1, len(rows) // INITIAL_ROWS)] @ whitening
    start = torch.zeros_like(centre)
    return Units(1.0, 1.0, centre, start, sample.float(), sample.float(), whitening)


def member_generator(seed: int, purpose: str) -> torch.Generator:
    """CPU generator for one member and one purpose; mixing the two by SHA-256 keeps neighbouring
    seeds and other users of a seed apart.
    """
    digest = hashlib.sha256(f"husai/{purpose}/{int(seed)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def initial_decoder(recipe: Recipe, seed: int, d_in: int, d_out: int | None = None) -> torch.Tensor:
    """Untrained decoder of one seed: isotropic unit rows, float32 (d_sae, d_out), the same whatever
    the companions, device or data.

    ``d_out`` is ``d_in`` unless given (transcoders).
    """
    return _unit_rows(seed, "decoder", recipe.d_sae, d_in if d_out is None else d_out)


def _unit_rows(seed: int, purpose: str, n: int, d: int) -> torch.Tensor:
    generator = member_generator(seed, purpose)
    rows = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (rows / rows.norm(dim=1, keepdim=True)).float()


def initial_parameters(
    recipe: Recipe, seed: int, units: Units, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Parameters of one member before the first step, in normalised units, without the member axis
    (see ``gradients``).

    The encoder starts as a multiple of the decoder's transpose (Gao et al. 2406.04093, appendix
    A.1); a transcoder, whose spaces differ, draws its own. The multiple is the least-squares one
    for the first reconstructions, between 0.1 and 1: unit rows overshoot by the number of active
    latents, and undoing that takes Adam hundreds of steps. An aligned recipe starts, and stays, at
    the multiple 1.

    ReLU and JumpReLU recipes with an ``l0_target`` start near it: the bias (ReLU) or the threshold
    (JumpReLU) of each latent is set so that it fires on ``INITIAL_L0_FACTOR * l0_target / d_sae``
    of the sampled rows (Anthropic, January 2025 update, does so for biases)."""
    d_in, d_out = units.centre_in.numel(), units.centre_out.numel()
    W_dec = initial_decoder(recipe, seed, d_in, d_out)
    W_enc = W_dec.clone()
    if recipe.architecture == "transcoder":
        W_enc = _unit_rows(seed, "encoder", recipe.d_sae, d_in)
    pre = units.sample_in @ W_enc.t()
    level, z = _initial_code(recipe, pre)
    first = z @ W_dec
    fit = (first * units.sample_out).sum() / first.square().sum().clamp_min(1e-12)
    factor = 1.0 if recipe.aligned else float(fit.clamp(0.1, 1.0))
    b_enc = -level * factor if recipe.architecture == "relu" else torch.zeros(recipe.d_sae)
    b_dec = units.centre_out * units.scale_out
    found = {"W_enc": W_enc * factor, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}
    if recipe.architecture == "jumprelu":
        found["threshold"] = (level * factor).clamp_(min=JUMPRELU_INITIAL_THRESHOLD)
    return {name: value.to(dtype) for name, value in found.items()}


def _initial_code(recipe: Recipe, pre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Level (d_sae,) below which a latent is off, 0 without an L0 target, and the code (n, d_sae)
    of pre-activations ``pre``.
    """
    level = torch.zeros(recipe.d_sae)
    if recipe.architecture in FIXED_K:
        values, columns = top_k(pre, recipe.k)
        return level, torch.zeros_like(pre).scatter_(1, columns, values.relu())
    if recipe.l0_target is not None:
        share = min(0.5, INITIAL_L0_FACTOR * recipe.l0_target / recipe.d_sae)
        level = pre.topk(max(1, round(share * pre.shape[0])), dim=0).values[-1].clamp_(min=0.0)
    return level, (pre - level).relu() if recipe.architecture == "relu" else pre * (pre > level)
