"""Each latent's best match in another SAE, and which SAEs are no independent trainings of each
other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import NamedTuple

import torch

from husai.stability.origin import same_index_matrix
from husai.stability.rows import UnitRows, paired_cosines
from husai.stability.similarity import CPU_BLOCK, CUDA_BLOCK, FEATURE_MATCH, PairwiseBest
from husai.statistics import coincidence_limit
from husai.statistics.ensemble import CLONE

IDENTICAL = 1.0 - 1e-6
"""|cosine| of encoder and of decoder from which two latents are the same numbers: independent
trainings meet this closely in no latent at all (float32 rounds to 1e-7)."""
COPIED = 0.9
"""Share of identical latents from which a pair is a copy. A copy with some latents replaced has
nearly all; planted dictionaries without noise share up to three quarters exactly
(:func:`husai.stability.planted_decoders` in the known answers)."""


class Candidates(NamedTuple):
    """Latents of A against those of B; every tensor is ``(n_a,)``, counted among living latents."""

    index: torch.Tensor
    """Number of the best match in B by |decoder cosine|, int64."""
    decoder: torch.Tensor
    """Signed decoder cosine of that match, float64."""
    encoder: torch.Tensor
    """Signed encoder cosine, float64."""
    mutual: torch.Tensor
    """True where A's latent is in turn the best match of its match."""

    @property
    def matched(self) -> torch.Tensor:
        """Mutual best match with |cosine| above 0.7 on decoder and encoder: ``(n_a,)`` bool."""
        return (
            self.mutual
            & (self.decoder.abs() > FEATURE_MATCH)
            & (self.encoder.abs() > FEATURE_MATCH)
        )


def best_matches(
    a: UnitRows, b: UnitRows
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Highest |cosine| and where it lies, for each row of A in B and for each row of B in A.

    The same blocks as :func:`husai.stability.similarity.best_cosines`, which needs no positions
    and is faster for that. Returns ``((value_a, index_a), (value_b, index_b))`` on the computing
    device.
    """
    rows, cols = CUDA_BLOCK if a.device.type == "cuda" else CPU_BLOCK
    found = [
        (
            torch.full((unit.n,), -1.0, dtype=a.dtype, device=a.device),
            torch.zeros(unit.n, dtype=torch.int64, device=a.device),
        )
        for unit in (a, b)
    ]
    for i in range(0, a.n, rows):
        left = a.block(i, i + rows)
        for j in range(0, b.n, cols):
            cosines = (left @ b.block(j, j + cols).T).abs_()
            _raise(found[0], slice(i, i + rows), cosines.max(1), j)
            _raise(found[1], slice(j, j + cols), cosines.max(0), i)
    return tuple((value.clamp_(max=1.0), index) for value, index in found)


def _raise(best, where: slice, block, offset: int) -> None:
    """Take over the maxima of a block where they are higher; an equal one found earlier stays."""
    value, index = best[0][where], best[1][where]
    higher = block.values > value
    value.copy_(torch.where(higher, block.values, value))
    index.copy_(torch.where(higher, block.indices + offset, index))


class Matching(NamedTuple):
    """All ordered pairs of an ensemble of n SAEs."""

    candidates: dict[tuple[int, int], Candidates]
    """``(i, j)``, i != j: latents of SAE i against those of SAE j."""
    best: list[torch.Tensor]
    """Per SAE ``(n_living, n)`` float64: |decoder cosine| of the best match; NaN in its own
    column."""
    pwmcc: torch.Tensor
    """``(n, n)`` float64, see :func:`husai.stability.pwmcc`."""


def match_all(
    decoders: Sequence[UnitRows],
    encoders: Sequence[UnitRows],
    pairs: Iterable[tuple[int, int]] | None = None,
) -> Matching:
    """Best matches of both directions of every pair; each pair of dictionaries is multiplied once.

    ``decoders`` and ``encoders`` are the living rows of each SAE, features as rows, in one order;
    ``pairs`` are those wanted (i < j), all by default. What was not wanted stays NaN.
    """
    n = len(decoders)
    wanted = combinations(range(n), 2) if pairs is None else pairs
    best = [torch.full((d.n, n), torch.nan, dtype=torch.float64) for d in decoders]
    pwmcc, found = torch.full((n, n), torch.nan, dtype=torch.float64), {}
    pwmcc.fill_diagonal_(1.0)
    for i, j in wanted:
        (value_i, index_i), (value_j, index_j) = best_matches(decoders[i], decoders[j])
        best[i][:, j], best[j][:, i] = value_i.double().cpu(), value_j.double().cpu()
        pwmcc[i, j] = pwmcc[j, i] = (best[i][:, j].mean() + best[j][:, i].mean()) / 2
        for a, b, forth, back in ((i, j, index_i, index_j), (j, i, index_j, index_i)):
            here = torch.arange(len(forth), device=forth.device)
            cosines = [
                paired_cosines(rows[a], rows[b], here, forth) for rows in (decoders, encoders)
            ]
            found[a, b] = Candidates(forth.cpu(), *cosines, (back[forth] == here).cpu())
    return Matching(found, best, pwmcc)


class Kin(NamedTuple):
    """Two SAEs that are no independent trainings."""

    a: int
    b: int
    reason: str


def kin(matching: Matching, decoders: Sequence[torch.Tensor], alive: Sequence) -> list[Kin]:
    """Pairs that descend from one another or from one start: equal decoders, identical latents, or
    rows that agree index by index (:mod:`husai.stability.origin`).

    ``decoders`` are ``(d_sae, d_in)`` per SAE, ``alive`` the bool masks ``(d_sae,)`` of the latents
    that were matched. A copy with noise *and* in another order looks like a reproduction and is not
    seen.
    """
    n = len(decoders)
    same = same_index_matrix(decoders, PairwiseBest(matching.pwmcc, matching.best), alive)
    limit, found = coincidence_limit(n), []
    for i, j in combinations(range(n), 2):
        one = matching.candidates[i, j]
        identical = one.mutual & (one.decoder.abs() > IDENTICAL) & (one.encoder.abs() > IDENTICAL)
        share = float(identical.double().mean())
        if float(matching.pwmcc[i, j]) >= CLONE:
            reason = "the same decoder up to order and sign of rows"
        elif share > COPIED:
            reason = f"{share:.0%} of the latents are identical"
        elif int(same[i, j]) >= limit:
            reason = (
                f"{int(same[i, j])} latents match at their own index, as in copies and in "
                "trainings from one start"
            )
        else:
            continue
        found.append(Kin(i, j, reason))
    return found


def origins(n: int, pairs: Sequence[Kin]) -> list[int]:
    """For each SAE the first one it descends from by any chain of ``pairs``; independent SAEs have
    different origins."""
    origin = list(range(n))
    for pair in sorted(pairs, key=lambda p: (p.a, p.b)):
        old, new = max(origin[pair.a], origin[pair.b]), min(origin[pair.a], origin[pair.b])
        origin = [new if o == old else o for o in origin]
    return origin
