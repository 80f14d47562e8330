"""Which latents of an SAE can be trusted to come back? Certificates for every latent of several
SAEs of one recipe, from their weights and held-out activations."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.passport.agreement import matched_agreement
from husai.passport.assemble import Found, latent_table
from husai.passport.chance import NULL_DRAWS, covariance_best, crowding_best
from husai.passport.ensemble import (
    ComparedEnsemble,
    check_spaces,
    ensemble_of,
    matched_latents,
    names_of,
)
from husai.passport.matching import Kin, kin, match_all, origins
from husai.passport.posterior import BAR, FDR, FEWEST_COMPARISONS
from husai.passport.table import Passports
from husai.stability.nulls.crowding import activation_span
from husai.stability.rows import matrix_of
from husai.stability.subspace import activation_covariance


def certify(
    saes: Sequence,
    activations: torch.Tensor | ActivationStore | None = None,
    *,
    seeds: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    related: Sequence[Kin] = (),
    bar: float = BAR,
    fdr: float = FDR,
    null_draws: int = NULL_DRAWS,
    alone: bool = False,
    device=None,
) -> Passports:
    r"""A passport for every latent of every SAE.

    A latent *reappears* in another SAE where the two are each other's best match by |decoder
    cosine|, decoder and encoder are both closer than |cosine| 0.7, and their activations correlate
    by more than 0.2 on the held-out rows. ``theta`` is the rate at which it would reappear in a
    new seed; its prior is a beta distribution fitted to all living latents of the SAE
    (:mod:`husai.passport.posterior`). Latents are *certified* from the surest down while the mean
    probability of ``theta < bar`` among them stays within ``fdr``; that probability is the larger
    of the beta-binomial's and of a mixture's of any shape.

    SAEs that are copies of one another, or descend from one start, count as one: they are named in
    ``kin`` and say nothing about each other. Results do not depend on the order or, together with
    their encoders, the signs of rows.

    Parameters
    ----------
    saes : sequence of SAE
        Of one hook, one per seed, two or more, three or more to certify; anything with ``W_enc
        (d_in, d_sae)``, ``W_dec (d_sae, d_in)``, ``encode`` and ``decode``. ``d_sae`` may differ.
    activations : Tensor (n, d_in) or ActivationStore or None
        Rows of that hook on which none was trained; streamed. None: cosines, counts and theta by
        cosine alone; nothing is certified, as nobody can see which latents are dead and whether
        matches do the same thing.
    seeds : sequence of int or None
        Of each SAE; a repeated seed is refused.
    names : sequence of str or None
        What to call the SAEs; by default ``seed7`` or ``sae0``.
    related : sequence of Kin
        Pairs known to be no independent trainings (one recorded seed, say), beside those found.
    bar, fdr : float
        In (0, 1).
    null_draws : int
        Unrelated dictionaries per null, two or more, 0 to leave the p-values out.
    alone : bool
        Take one SAE too. Its passports say how its latents fire, and nothing about reappearance.
    device
        Where to compute; None is where the first SAE lies.

    Raises
    ------
    HusaiError
        Fewer than two SAEs, other widths than the activations or each other, a repeated seed,
        weights that are not finite, an SAE without a living latent.

    References
    ----------
    Feature stability: arXiv 2606.12138. Shared latents: Paulo & Belrose, arXiv 2501.16615.
    Bayesian false discovery rate: Newton et al. 2004, Biostatistics 5.
    """
    if not (0 < bar < 1 and 0 < fdr < 1):
        raise HusaiError(f"passport: bar {bar} and fdr {fdr} must lie between 0 and 1")
    names = names_of(saes, seeds, names, fewest=1 if alone else 2)
    found = measured(saes, activations, names, null_draws=null_draws, device=device)
    found_kin = relatives(found) if len(names) > 1 else []
    known = {(k.a, k.b) for k in found_kin}
    found_kin += [k for k in related if (k.a, k.b) not in known]
    origin = origins(len(names), found_kin)
    firsts = sorted(set(origin))
    tables = [
        latent_table(found, i, [j for j in firsts if j != origin[i]], bar, fdr)
        for i in range(len(names))
    ]
    fires = found.ensemble.firing[0]
    n_rows = None if fires is None else fires.n_rows
    return Passports(tables, found_kin, _remarks(origin, n_rows), n_rows, bar, fdr, found)


def measured(
    saes: Sequence,
    activations,
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]] | None = None,
    *,
    null_draws: int = 0,
    device=None,
) -> Found:
    """Matches and agreements of the ``pairs`` of SAEs wanted (i < j; all by default): what tables
    are made of. The other parameters are those of :func:`certify`.

    Raises
    ------
    HusaiError
        ``null_draws`` is 1 or negative, SAEs or activations have other widths than the first SAE,
        weights or activations are not finite, or an SAE has no living latent.
    """
    if null_draws == 1 or null_draws < 0:
        raise HusaiError(f"passport: null_draws must be 0 or at least 2, got {null_draws}")
    if activations is not None and not isinstance(activations, ActivationStore):
        activations = matrix_of(activations, "activations")
    check_spaces(saes, names, activations)
    device = saes[0].W_dec.device if device is None else torch.device(device)
    saes = [sae if sae.W_dec.device == device else sae.to(device) for sae in saes]
    ensemble = ensemble_of(saes, list(names), activations, device)
    matching = match_all(ensemble.decoders, ensemble.encoders, pairs)
    agreement = None
    if activations is not None:
        matched = matched_latents(ensemble, matching)
        agreement = matched_agreement(saes, activations, matched, device=device)
    return Found(ensemble, matching, agreement, _chance(ensemble, activations, null_draws))


def relatives(found: Found) -> list[Kin]:
    """The pairs of SAEs that are no independent trainings; see
    :func:`husai.passport.matching.kin`."""
    ensemble = found.ensemble
    return kin(found.matching, [s.W_dec.detach() for s in ensemble.saes], ensemble.alive)


def _chance(ensemble: ComparedEnsemble, activations, draws: int) -> list[dict[str, torch.Tensor]]:
    """Per SAE, ``{null: (n_living, draws)}``; the covariance null needs activations."""
    if draws == 0:
        return [{} for _ in ensemble.saes]
    covariance = None if activations is None else activation_covariance(activations)
    span = None if covariance is None else activation_span(covariance)
    nulls = {"crowding": crowding_best(ensemble.decoders, span, draws)}
    if covariance is not None:
        nulls["covariance"] = covariance_best(ensemble.decoders, covariance, draws)
    return [{kind: found[i] for kind, found in nulls.items()} for i in range(len(ensemble.saes))]


def _remarks(origin: list[int], n_rows: int | None) -> list[str]:
    """What cannot be said, each in a sentence."""
    n, found = len(set(origin)), []
    if n < len(origin):
        found.append(
            f"{len(origin) - n} of {len(origin)} SAEs are no trainings of their own (see kin) and "
            "do not count as comparisons."
        )
    if n - 1 < FEWEST_COMPARISONS:
        found.append(
            f"{n} independent SAE{'' if n == 1 else 's'} give {n - 1} comparisons; theta needs "
            f"{FEWEST_COMPARISONS}, so nothing is certified. Add seeds."
        )
    if n_rows is None:
        found.append(
            "Without activations, counts and theta rest on cosines alone, dead latents count as "
            "living, and nothing is certified: densities, variance shares, whether matches do the "
            "same thing and the covariance null are unknown. Give held-out rows."
        )
    return found
