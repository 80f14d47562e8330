"""The stability of one ensemble: evaluate, match, compare, and correct for every null."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from husai.errors import HusaiError
from husai.stability.assignment import Match, hungarian, shared_from_match
from husai.stability.functional import agreement_matrix
from husai.stability.nulls import NullResult, null_pwmcc
from husai.stability.nulls.draws import agreement_null, crowding_null, random_null
from husai.stability.origin import same_index_matrix, start_trace
from husai.stability.quality import per_seed_quality, profile, weighted_agreement
from husai.stability.report import StabilityReport
from husai.stability.rows import SMALLEST_NORM
from husai.stability.similarity import (
    PairwiseBest,
    movement,
    pairwise,
    pairwise_best,
    reappearance_matrix,
    sigma_from_best,
)
from husai.stability.subspace import (
    activation_covariance,
    default_ranks,
    effective_rank,
    overlaps_of_directions,
    participation_ratio,
    principal_directions,
)
from husai.stability.twins import twins_of
from husai.statistics.ensemble import CLONE


class Comparison(NamedTuple):
    """Every pairwise weight-space measure of an ensemble; matrices ``(n, n)`` float64."""

    best: PairwiseBest
    pw_mcc: torch.Tensor
    shared: torch.Tensor
    matches: dict[tuple[int, int], Match]
    same_index: torch.Tensor
    """Rows that match best at their own index, int64."""


def compare_weights(decoders, encoders, alive=None, device=None, names=None) -> Comparison:
    """PWMCC, PW-MCC and shared fraction of all pairs.

    ``decoders`` and ``encoders`` hold one ``(d_sae, d)`` tensor per SAE, features as rows;
    ``alive`` one mask each, or None."""
    best = pairwise_best(decoders, alive, device, names)
    n = len(decoders)
    alive = alive if alive is not None else [None] * n
    signed, shared = torch.eye(n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    matches = {}
    for i in range(n):
        for j in range(i + 1, n):
            match = matches[i, j] = hungarian(decoders[i], decoders[j], alive[i], alive[j], device)
            signed[i, j] = signed[j, i] = float(match.cosine.mean())
            shared[i, j] = shared[j, i] = shared_from_match(match, encoders[i], encoders[j])
    same_index = same_index_matrix(decoders, best, alive, device)
    return Comparison(best, signed, shared, matches, same_index)


def measure_stability(
    saes: Sequence,
    held_out,
    *,
    seeds: Sequence[int],
    initial_decoders: Sequence[torch.Tensor] | torch.Tensor | None = None,
    frozen: Sequence | None = None,
    covariance: torch.Tensor | None = None,
    target=None,
    ranks: Sequence[int] | None = None,
    device=None,
) -> StabilityReport:
    """Everything one evidence record says about an ensemble.

    Parameters
    ----------
    saes : sequence of SAE
        One per seed; see :class:`husai.sae.SAE`.
    held_out : Tensor (n, d_in) or activation store
        Rows the SAEs were not trained on; decide which latents are dead.
    seeds : sequence of int
        The seed of each SAE, all different.
    initial_decoders : sequence of Tensor (d_sae, d_out)
        Untrained decoders of the same seeds, for the ``init`` null and for movement.
    frozen : sequence of SAE
        SAEs of the same recipe trained with a frozen decoder, two or more, for the ``frozen`` null.
    covariance : Tensor (d_out, d_out)
        Of the activations the decoders write; by default computed from ``held_out`` (``target`` for
        a transcoder).
    target : Tensor (n, d_out) or activation store
        What a transcoder reconstructs.
    ranks : sequence of int
        Ranks for the subspace overlap; 8, 16, ... d by default.

    Raises
    ------
    HusaiError
        Fewer than two SAEs, repeated seeds, an SAE with every latent dead, weights that are NaN or
        of another width.
    """
    seeds = [int(s) for s in seeds]
    names = [f"seed {s}" for s in seeds]
    _check_ensemble(saes, seeds, initial_decoders)
    saes = [in_float32(s) for s in saes]
    decoders, encoders = [s.W_dec.detach() for s in saes], [s.W_enc.detach().T for s in saes]
    pointing = [pointing_rows(d) for d in decoders]
    profiles = [profile(s, held_out, target) for s in saes]
    alive = [q.alive & p for q, p in zip(profiles, pointing, strict=True)]
    living = compare_weights(decoders, encoders, alive, device, names)
    everything = living
    if not all(bool(a.all()) for a in alive):
        everything = compare_weights(decoders, encoders, pointing, device, names)
    written = held_out if target is None else target
    covariance = activation_covariance(written) if covariance is None else covariance
    controls = [profile(s, held_out, target, latents=False) for s in frozen or ()]
    masks = (alive, pointing)
    nulls, nulls_all = _nulls(
        decoders, initial_decoders, frozen, controls, covariance, masks, device
    )
    twins = [twins_of(d, a, device) for d, a in zip(decoders, alive, strict=True)]
    spectrum = torch.linalg.eigvalsh(covariance.cpu().double()).clamp_min(0)
    directions = [
        principal_directions(torch.nn.functional.normalize(d[a.to(d.device)], dim=1), name)
        for d, a, name in zip(decoders, alive, names, strict=True)
    ]
    further = {}
    if initial_decoders is not None:
        further |= _starts(decoders, list(initial_decoders), alive, pointing, device)
    l0 = [q.l0 for q in profiles]
    if target is None:
        further["weighted"] = weighted_agreement(living, encoders, profiles, alive, twins)
        further["activation_null"] = agreement_null(saes, held_out, l0, covariance, device)
    return StabilityReport(
        seeds=seeds,
        d_in=decoders[0].shape[1],
        d_sae=[d.shape[0] for d in decoders],
        pwmcc=living.best.matrix,
        pwmcc_all=everything.best.matrix,
        pw_mcc=living.pw_mcc,
        shared=living.shared,
        shared_all=everything.shared,
        reappearance=reappearance_matrix(living.best.best),
        sigma=sigma_from_best(living.best.best),
        subspace=_subspace(directions, ranks),
        nulls=nulls,
        nulls_all=nulls_all,
        activation_r=agreement_matrix(saes, held_out, living.matches, device=device),
        explained_variance=[q.explained_variance for q in profiles],
        l0=l0,
        dead_fraction=[1.0 - float(q.alive.sum()) / len(q.alive) for q in profiles],
        effective_rank=effective_rank(spectrum),
        participation_ratio=participation_ratio(spectrum),
        extra={"null_at_effective_rank": _crowding(decoders, effective_rank(spectrum), device)},
        same_index=everything.same_index,
        quality=per_seed_quality(profiles, alive, twins, saes[0].W_enc.shape[0]),
        frozen_quality={
            name: [getattr(c, name) for c in controls]
            for name in ("explained_variance", "l0")
            if controls
        },
        **further,
    )


def _check_ensemble(saes, seeds, initial_decoders) -> None:
    if len(saes) < 2:
        raise HusaiError(
            f"stability needs at least two SAEs of different seeds, got {len(saes)}; add seeds to "
            "the recipe"
        )
    if len(saes) != len(seeds):
        raise HusaiError(f"stability: {len(saes)} SAEs but {len(seeds)} seeds")
    repeated = sorted({s for s in seeds if seeds.count(s) > 1})
    if repeated:
        raise HusaiError(
            f"stability: seed {repeated[0]} appears twice; the same seed is no reproduction"
        )
    if initial_decoders is not None and len(initial_decoders) != len(saes):
        raise HusaiError(
            f"stability: {len(saes)} SAEs but {len(initial_decoders)} initial decoders"
        )
    for sae, seed in zip(saes, seeds, strict=True):
        check_weights(sae, f"seed {seed}")


def in_float32(sae):
    """The SAE as it is judged: half precision is widened, float64 stays. (Its norms need not be
    folded: nothing here depends on how a latent's scale is divided.)
    """
    half = sae.W_dec.dtype in (torch.float16, torch.bfloat16)
    return sae.to(dtype=torch.float32) if half else sae


def check_weights(sae, name: str) -> None:
    """Raise a :class:`HusaiError` that names the SAE when its weights are NaN or infinite."""
    for what in ("W_enc", "W_dec"):
        bad = int((~torch.isfinite(getattr(sae, what))).sum())
        if bad:
            raise HusaiError(
                f"{name}: {bad} entries of {what} are NaN or infinite; retrain or export the "
                "checkpoint again"
            )


def pointing_rows(decoder: torch.Tensor) -> torch.Tensor:
    """Mask ``(d_sae,)``, on the CPU, of decoder rows that have a direction: length not zero."""
    return (torch.linalg.vector_norm(decoder, dim=1, dtype=torch.float64) > SMALLEST_NORM).cpu()


def _subspace(directions: list[torch.Tensor], ranks) -> dict[int, torch.Tensor]:
    limit = min(u.shape[1] for u in directions)
    ranks = default_ranks(directions[0].shape[0], limit) if ranks is None else list(ranks)
    n = len(directions)
    found = {int(r): torch.eye(n, dtype=torch.float64) for r in ranks}
    for i in range(n):
        for j in range(i + 1, n):
            for rank, value in overlaps_of_directions(directions[i], directions[j], ranks).items():
                found[rank][i, j] = found[rank][j, i] = value
    return found


def _crowding(decoders, rank: float, device) -> dict:
    """What as many gaussian directions score in only as many dimensions as the activations use: how
    high crowding alone puts a null.
    """
    dimensions = max(2, round(rank))
    null = null_pwmcc(dimensions, decoders[0].shape[0], 2, device=device)
    return {"dimensions": dimensions, "pwmcc": null.mean}


def _starts(decoders, initial, alive, pointing, device) -> dict:
    each = list(zip(decoders, initial, alive, pointing, strict=True))
    same = pairwise(initial, None, device).triu(1) >= CLONE
    return {
        "cos_to_init": [movement(d, i, a) for d, i, a, _ in each],
        "cos_to_init_all": [movement(d, i, p) for d, i, _, p in each],
        "start_trace": [start_trace(d, i, p) for d, i, _, p in each],
        "start_trace_limit": [start_trace(i, i, p) for _, i, _, p in each],
        "shared_init_pairs": int(same.sum()),
    }


def _nulls(
    decoders, initial_decoders, frozen, controls, covariance, masks, device
) -> tuple[dict[str, NullResult], dict[str, NullResult]]:
    """Every null that can be measured, for living and for all latents (``masks``).

    Random and untrained dictionaries have no dead latents: they enter with all ``d_sae`` rows,
    which can only raise the null."""
    d_in, sizes, n = decoders[0].shape[1], [d.shape[0] for d in decoders], len(decoders)

    def null(kind: str, n: int = n, **given) -> NullResult:
        return null_pwmcc(d_in, sizes[0], n, kind, device=device, **given)

    drawn = null("gaussian", sizes=sizes)
    nulls = {"gaussian": random_null(drawn, sizes, d_in, None, device)}
    if initial_decoders is not None:
        nulls["init"] = null("init", decoders=initial_decoders)
    drawn = null("covariance", covariance=covariance, sizes=sizes)
    nulls["covariance"] = random_null(drawn, sizes, d_in, covariance, device)
    nulls_all = dict(nulls)
    living, pointing = masks
    nulls["crowding"] = nulls_all["crowding"] = crowding_null(decoders, living, covariance, device)
    if not all(bool((a == p).all()) for a, p in zip(living, pointing, strict=True)):
        nulls_all["crowding"] = crowding_null(decoders, pointing, covariance, device)
    if frozen is not None:
        weights, alive = [s.W_dec.detach() for s in frozen], [c.alive for c in controls]
        nulls["frozen"] = null("frozen", len(weights), decoders=weights, alive=alive)
        nulls_all["frozen"] = null("frozen", len(weights), decoders=weights)
    return nulls, nulls_all
