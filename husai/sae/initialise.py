"""Where training starts: units, centres and weights, from the data and a seed alone, never from a member's companions.

Rows are trained in normalised units: multiplied by one constant so that the mean squared distance to the centre equals the width (Anthropic,
April 2024 update; expected squared norm d). Learning rates, sparsity coefficients, thresholds and the gradient clip then mean the same on
every subject. The constant is folded into the weights on export, which is exact: every activation here is positively homogeneous.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.sae.recipe import Recipe

JUMPRELU_INITIAL_THRESHOLD = 0.01
INITIAL_L0_FACTOR = 2.0
SAMPLE_ROWS = 4096
Rows = torch.Tensor | ActivationStore


class Units(NamedTuple):
    """Scales and centres of one data set, in float64 on the CPU."""

    scale_in: float
    """Factor from raw to normalised input."""
    scale_out: float
    """Factor from raw to normalised target."""
    centre_in: torch.Tensor
    """Centre of the raw input (d_in,); fixed for a transcoder, the start of ``b_dec`` otherwise."""
    centre_out: torch.Tensor
    """Start of ``b_dec`` in raw units (d_out,)."""


def row_sample(source: Rows, n_rows: int | None = None, count: int = SAMPLE_ROWS) -> torch.Tensor:
    """About ``count`` rows spread evenly over the first ``n_rows`` of ``source``: float64 (n, d) on the CPU."""
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
    """Point (d,) with the least sum of distances to ``rows`` (n, d), by Weiszfeld's iteration from the mean."""
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
    scale_in, centre_in = _unit(recipe, row_sample(data, recipe.n_rows), "the activations")
    if target is None:
        return Units(scale_in, scale_in, centre_in, centre_in)
    scale_out, centre_out = _unit(recipe, row_sample(target, recipe.n_rows), "the target")
    return Units(scale_in, scale_out, centre_in, centre_out)


def _unit(recipe: Recipe, rows: torch.Tensor, what: str) -> tuple[float, torch.Tensor]:
    if not torch.isfinite(rows).all():
        raise HusaiError(f"{what} of {recipe.subject} {recipe.hook_name} hold NaN or infinite values; collect them again")
    mean = rows.mean(0)
    spread = float((rows - mean).square().mean())
    if spread <= 1e-12 * float(rows.square().mean()):
        raise HusaiError(f"{what} of {recipe.subject} {recipe.hook_name} do not vary: every sampled row is the same; check the hook")
    centre = {"geometric_median": geometric_median, "mean": lambda r: r.mean(0), "zero": lambda r: torch.zeros_like(r[0])}
    return spread**-0.5, centre[recipe.b_dec_init](rows)


def member_generator(seed: int, purpose: str) -> torch.Generator:
    """CPU generator for one member and one purpose; mixing the two by SHA-256 keeps neighbouring seeds and other users of a seed apart."""
    digest = hashlib.sha256(f"husai/{purpose}/{int(seed)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def initial_decoder(recipe: Recipe, seed: int, d_in: int, d_out: int | None = None) -> torch.Tensor:
    """Untrained decoder of one seed: isotropic unit rows, float32 (d_sae, d_out), the same whatever the companions, device or data.

    ``d_out`` is ``d_in`` unless given (transcoders).
    """
    generator = member_generator(seed, "decoder")
    rows = torch.randn(recipe.d_sae, d_in if d_out is None else d_out, generator=generator, dtype=torch.float64)
    return (rows / rows.norm(dim=1, keepdim=True)).float()


def initial_parameters(
    recipe: Recipe, seed: int, units: Units, dtype: torch.dtype = torch.float32, sample: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """Parameters of one member before the first step, in normalised units, without the member axis (see ``gradients``).

    The encoder starts as the decoder's transpose (Gao et al. 2406.04093, appendix A.1); a transcoder, whose spaces differ, draws its own.
    ReLU and JumpReLU recipes with an ``l0_target`` start near it: the bias (ReLU) or the threshold (JumpReLU) of each latent is set so that
    it fires on ``INITIAL_L0_FACTOR * l0_target / d_sae`` of the rows of ``sample`` (Anthropic, January 2025 update, does so for biases).
    From a dense start Adam would need thousands of steps to move them there.
    """
    d_in, d_out = units.centre_in.numel(), units.centre_out.numel()
    W_dec = initial_decoder(recipe, seed, d_in, d_out)
    W_enc, b_dec = W_dec.clone(), units.centre_out * units.scale_out
    if recipe.architecture == "transcoder":
        rows = torch.randn(recipe.d_sae, d_in, generator=member_generator(seed, "encoder"), dtype=torch.float64)
        W_enc = (rows / rows.norm(dim=1, keepdim=True)).float()
    found = {"W_enc": W_enc, "b_enc": torch.zeros(recipe.d_sae), "W_dec": W_dec, "b_dec": b_dec}
    if recipe.architecture == "jumprelu":
        found["threshold"] = torch.full((recipe.d_sae,), JUMPRELU_INITIAL_THRESHOLD)
    if recipe.architecture in ("relu", "jumprelu") and recipe.l0_target is not None and sample is not None:
        level = _firing_level(recipe, (sample * units.scale_in - b_dec).float() @ W_enc.t())
        found |= {"threshold": level} if recipe.architecture == "jumprelu" else {"b_enc": -level}
    return {name: value.to(dtype) for name, value in found.items()}


def _firing_level(recipe: Recipe, pre: torch.Tensor) -> torch.Tensor:
    """Level (d_sae,) that each column of ``pre`` (n, d_sae) exceeds on the share of rows wanted at the start; not below 0.01."""
    share = min(0.5, INITIAL_L0_FACTOR * recipe.l0_target / recipe.d_sae)
    count = max(1, round(share * pre.shape[0]))
    return pre.topk(count, dim=0).values[-1].clamp_(min=JUMPRELU_INITIAL_THRESHOLD)
