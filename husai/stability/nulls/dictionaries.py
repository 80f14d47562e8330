"""Random, untrained and frozen dictionaries, their PWMCC, and the worst of several nulls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from husai.errors import HusaiError, nearest
from husai.stability.rows import matrix_of
from husai.stability.similarity import pairwise

KINDS = ("gaussian", "init", "covariance", "frozen")
FIRST_SEED = 1000


class NullResult(NamedTuple):
    """PWMCC of unrelated dictionaries."""

    mean: float
    """Mean over pairs."""
    std: float
    """Standard deviation over pairs (ddof 1); 0 for a single pair."""
    pairs: tuple[float, ...]
    """Every pair, in the order (0,1), (0,2), ..., (1,2), ..."""
    kind: str = "gaussian"
    draws: tuple[float, ...] = ()
    """Further draws where the pairs do not give the mean well enough; the mean is then theirs."""

    def __float__(self) -> float:
        """The mean."""
        return self.mean


def null_of(matrix: torch.Tensor, kind: str) -> NullResult:
    """The null whose pairs are those of a PWMCC matrix ``(n, n)``."""
    upper = matrix[torch.triu(torch.ones_like(matrix), 1).bool()]
    spread = float(upper.std()) if len(upper) > 1 else 0.0
    return NullResult(float(upper.mean()), spread, tuple(upper.tolist()), kind)


def gaussian_decoder(d_in: int, d_sae: int, seed: int) -> torch.Tensor:
    """Random decoder ``(d_sae, d_in)`` float32: ``torch.randn((d_in, d_sae))`` from a CPU
    generator, columns are features.
    """
    return torch.randn((d_in, d_sae), generator=torch.Generator().manual_seed(int(seed))).T


def _square_root(covariance: torch.Tensor) -> torch.Tensor:
    """Symmetric square root, float64; eigenvalues below zero by rounding count as zero."""
    covariance = matrix_of(covariance, "covariance").cpu().double()
    if covariance.shape[0] != covariance.shape[1]:
        raise HusaiError(f"covariance: expected shape (d_in, d_in), got {tuple(covariance.shape)}")
    if not torch.isfinite(covariance).all():
        raise HusaiError(
            "covariance: holds NaN or infinite values; check the activations it was computed from"
        )
    values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    if float(values.max()) <= 0:
        raise HusaiError(
            "covariance: the activations do not vary, so no direction can be drawn from them"
        )
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def null_decoders(
    kind: str,
    d_in: int,
    sizes: Sequence[int],
    seeds: Sequence[int],
    covariance: torch.Tensor | None = None,
):
    """Random decoders ``(size, d_in)``, float32 on the CPU, one per size and seed: ``gaussian``, or
    with ``covariance`` rows drawn, from the same numbers, from ``N(0, covariance)``, which is
    ``(d_in, d_in)`` and that of the activations.

    Raises
    ------
    HusaiError
        The covariance is missing, of another width, not square or not finite, or that of
        activations that do not vary.
    """
    if kind == "gaussian":
        return [gaussian_decoder(d_in, n, s) for n, s in zip(sizes, seeds, strict=True)]
    if covariance is None:
        raise HusaiError(
            "null 'covariance' needs the activation covariance (d_in, d_in); pass covariance= or "
            "use gaussian"
        )
    if covariance.shape[0] != d_in:
        raise HusaiError(f"covariance {tuple(covariance.shape)} does not fit d_in = {d_in}")
    root = _square_root(covariance).float()
    return [(root @ gaussian_decoder(d_in, n, s).T).T for n, s in zip(sizes, seeds, strict=True)]


def null_pwmcc(
    d_in: int,
    d_sae: int,
    n_seeds: int,
    kind: str = "gaussian",
    *,
    covariance: torch.Tensor | None = None,
    decoders: Sequence[torch.Tensor] | torch.Tensor | None = None,
    seeds: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    alive: Sequence | None = None,
    device=None,
) -> NullResult:
    """PWMCC of ``n_seeds`` dictionaries that share nothing but how they were made.

    Parameters
    ----------
    d_in, d_sae, n_seeds : int
        Shape and number of the dictionaries to compare with; two seeds or more.
    kind : str
        ``gaussian``: normal decoders. ``covariance``: directions from ``covariance``. ``init``,
        ``frozen``: the ``decoders`` given, i.e. the recipe's untrained initialisations, or SAEs
        trained with a frozen decoder.
    covariance : Tensor (d_in, d_in)
        Of the activations; for ``covariance``.
    decoders : sequence of Tensor (d_sae, d_in)
        For ``init`` and ``frozen``.
    seeds : sequence of int
        Generator seeds; by default 1000, 1001, ...
    sizes : sequence of int
        Rows of each dictionary, where they differ from ``d_sae``.
    alive : sequence of BoolTensor or None
        Living latents of ``decoders``.

    Raises
    ------
    HusaiError
        An unknown ``kind``, fewer than two seeds, seeds or decoders of another number, decoders
        missing or of another width, or a covariance that :func:`null_decoders` refuses.

    Notes
    -----
    A ``gaussian`` decoder is ``torch.randn((d_in, d_sae))`` from a CPU generator with
    that seed, its columns the features: see :func:`gaussian_decoder`. The arguments are ``d_in``
    first, decoders ``(d_sae, d_in)``.

    Examples
    --------
    >>> found = null_pwmcc(128, 1024, 5)  # generator seeds 1000 to 1004
    >>> round(found.mean, 6), len(found.pairs)
    (0.298829, 10)
    >>> found = null_pwmcc(d_in=128, d_sae=128, n_seeds=3, seeds=[100042, 100123, 100456])
    >>> [round(value, 6) for value in found.pairs]
    [0.250826, 0.249968, 0.242967]
    """
    if kind not in KINDS:
        raise HusaiError(f"null '{kind}' is not one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    if n_seeds < 2:
        raise HusaiError(f"a null needs at least two seeds, got {n_seeds}")
    random = kind in ("gaussian", "covariance")
    if random and seeds is None:
        seeds = range(FIRST_SEED, FIRST_SEED + n_seeds)
    if not random and decoders is None:
        raise HusaiError(
            f"null '{kind}' needs decoders= (untrained initialisations, or SAEs with a frozen "
            "decoder)"
        )
    drawn = list(seeds if random else decoders)
    if len(drawn) != n_seeds:
        what = "seeds" if random else "decoders"
        raise HusaiError(f"null '{kind}': {len(drawn)} {what} were given for n_seeds = {n_seeds}")
    if random:
        drawn = null_decoders(kind, d_in, sizes or [d_sae] * n_seeds, drawn, covariance)
        alive = None
    else:
        for i, decoder in enumerate(drawn):
            if decoder.ndim != 2 or decoder.shape[1] != d_in:
                raise HusaiError(
                    f"null '{kind}': decoder {i} {tuple(decoder.shape)} does not fit (d_sae, "
                    f"d_in) = ({d_sae}, {d_in})"
                )
    names = [f"{kind} null {i}" for i in range(len(drawn))]
    return null_of(pairwise(drawn, alive, device, names), kind)


def worst_null(nulls: Iterable[NullResult]) -> NullResult:
    """The null that is hardest to beat: the one with the highest mean.

    Raises
    ------
    HusaiError
        There is no null at all.
    """
    nulls = list(nulls)
    if not nulls:
        raise HusaiError("no null was measured; at least the gaussian one is needed")
    return max(nulls, key=lambda r: r.mean)
