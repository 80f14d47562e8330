"""One SAE out of several seeds: latents that recur in a group are matched and averaged, then
encoder and biases are refitted on training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch

from husai.activations import ActivationStore
from husai.errors import HusaiError, RecipeFailed
from husai.passport.assemble import Found, reappearance
from husai.passport.certify import measured, relatives
from husai.passport.ensemble import names_of
from husai.passport.refit import STEPS, first_rows, refit
from husai.recipe import READ_ONLY
from husai.sae.architectures import SAE
from husai.stability.rows import matrix_of

MIN_SHARE = 0.5
"""Share of a group's members in which a latent must occur: the bar of a certificate."""
MATCHING_ROWS = 16384
"""Training rows on which matches must agree; more change no match whose latents fire at all
often."""


class ConsensusSAE(NamedTuple):
    """The SAE of one group."""

    sae: SAE
    """On the CPU, decoder rows of norm 1."""
    members: list[str]
    occurrences: torch.Tensor
    """``(d_sae,)`` int64: in how many members each of its latents occurs, highest first."""


def consensus(
    groups: Sequence[Sequence[SAE]],
    rows: torch.Tensor | ActivationStore,
    *,
    min_share: float = MIN_SHARE,
    seeds: Sequence[Sequence[int]] | None = None,
    d_sae: int | None = None,
    l0: float | None = None,
    complete: bool = False,
    steps: int = STEPS,
    device=None,
) -> list[ConsensusSAE]:
    """A consensus SAE per group, of the members' architecture and L0.

    A latent and its matches in the other members (the rule of
    :func:`husai.passport.certify`) make a consensus latent when they occur in at least
    ``min_share`` of the group. Its decoder row is the mean of theirs, its encoder and bias start
    as their means and are refitted with the decoder held. Groups must not share seeds: consensus
    SAEs that do agree for that, and their stability means nothing.

    Parameters
    ----------
    groups : sequence of sequence of SAE
        Two or more members each, one recipe, every SAE in one group only.
    rows : Tensor (n, d_in) or ActivationStore
        Training rows of their hook.
    min_share : float
        In (0, 1].
    seeds : sequence of sequence of int or None
        Of the members; one that appears twice is refused.
    d_sae : int or None
        Keep so many of the recurring latents, those of most members first; None keeps all.
    l0 : float or None
        Active latents per row of the consensus; None is the members' mean.
    complete : bool
        Where fewer than ``d_sae`` latents recur, make up the number with those of fewer members,
        down to one.
    steps : int
        Steps of the refit, see :func:`husai.passport.refit.refit`.
    device
        Where to compute; None is where the first SAE lies.

    Raises
    ------
    HusaiError
        A group of one, groups that share a seed or descend from one another, other widths or
        architectures, or no latent that recurs; a :class:`husai.errors.RecipeFailed` where fewer
        recur than ``d_sae`` asks for.

    References
    ----------
    Pooling features over seeds: arXiv 2606.12138.
    """
    if not 0 < min_share <= 1:
        raise HusaiError(f"consensus: min_share must lie in (0, 1], got {min_share}")
    members = [sae for group in groups for sae in group]
    group_of = [g for g, group in enumerate(groups) for _ in group]
    names = _checked(groups, members, seeds)
    if not isinstance(rows, ActivationStore):
        rows = matrix_of(rows, "training rows")
    found = measured(members, first_rows(rows, MATCHING_ROWS), names, device=device)
    for pair in relatives(found):
        raise HusaiError(
            f"consensus: {names[pair.a]} and {names[pair.b]} are no trainings of their own "
            f"({pair.reason}); groups that share a seed agree for that"
        )
    made = []
    for g in range(len(groups)):
        group = [i for i, of in enumerate(group_of) if of == g]
        clusters = _chosen(found, group, min_share, d_sae, complete)
        made.append(_of_group(found, group, clusters, rows, min_share, l0, steps))
    return made


def _checked(groups, members, seeds) -> list[str]:
    for g, group in enumerate(groups):
        if len(group) < 2:
            raise HusaiError(f"consensus: group {g} has {len(group)} SAE; at least two are needed")
    if seeds is not None and [len(s) for s in seeds] != [len(g) for g in groups]:
        raise HusaiError("consensus: seeds must be given for every member of every group")
    flat = None if seeds is None else [s for group in seeds for s in group]
    for a, b in combinations(range(len(members)), 2):
        if members[a] is members[b] or (flat and flat[a] == flat[b]):
            what = f"seed {flat[a]}" if flat else f"SAE {a}"
            raise HusaiError(f"consensus: {what} is given twice; groups must not share seeds")
    kinds = sorted({sae.architecture for sae in members})
    if kinds[0] in READ_ONLY:
        raise HusaiError(f"consensus: the encoder of a {kinds[0]} SAE cannot be refitted here")
    if len(kinds) > 1:
        raise HusaiError(f"consensus: members are {' and '.join(kinds)}; give one recipe's SAEs")
    return names_of(members, flat, None)


def _chosen(
    found: Found, group: list[int], min_share: float, d_sae: int | None, complete: bool
) -> list[list[tuple[int, int]]]:
    """The latents of a group's consensus, each as the latents of the members it is the mean of."""
    clusters = recurring(found, group, max(2, math.ceil(min_share * len(group) - 1e-9)))
    names = ", ".join(found.ensemble.names[i] for i in group)
    share = f"{min_share:.0%} of the {len(group)} members {names}"
    if not clusters and not complete:
        raise RecipeFailed(f"consensus: no latent occurs in {share}; lower min_share")
    if d_sae is None:
        return clusters
    if len(clusters) < d_sae:
        what = f"consensus: {len(clusters)} latents occur in {share}, d_sae asks for {d_sae}"
        if not complete:
            raise RecipeFailed(f"{what}; lower d_sae or min_share")
        taken = {one for cluster in clusters for one in cluster}
        clusters += recurring(found, group, 1, taken)
        if len(clusters) < d_sae:
            raise RecipeFailed(f"{what}, and all members together have {len(clusters)}")
    return clusters[:d_sae]


def _of_group(
    found: Found, group: list[int], clusters, rows, min_share: float, l0: float | None, steps: int
) -> ConsensusSAE:
    start = _averaged(found, group, clusters)
    if l0 is None:
        l0 = sum(found.ensemble.firing[i].l0 for i in group) / len(group)
    names = [found.ensemble.names[i] for i in group]
    member = found.ensemble.saes[group[0]]
    start.cfg = _notes(member, names, min_share)
    sae = refit(start.to(member.device), rows, l0=min(l0, len(clusters)), steps=steps)
    return ConsensusSAE(sae.to("cpu"), names, torch.tensor([len(c) for c in clusters]))


def recurring(
    found: Found, group: Sequence[int], fewest: int, taken: set[tuple[int, int]] = frozenset()
) -> list[list[tuple[int, int]]]:
    """Sets of matching latents, at most one per member and ``fewest`` or more, as ``(SAE, living
    latent)``; no latent is in two, and none of those ``taken`` before is in any. Largest first.

    The latent with the most matches collects them first, among equals the one that lies closest
    to its matches; what is taken is not taken again.
    """
    candidates, order = {}, []
    for i in group:
        others = [j for j in group if j != i]
        matched = reappearance(found, i, others)
        close = found.matching.best[i][:, others].mean(1)
        strength = matched.sum(1).double() + 0.999 * close
        some = matched.any(1) if fewest > 1 else torch.ones(len(matched), dtype=torch.bool)
        for latent in some.nonzero().flatten().tolist():
            partners = [
                (j, int(found.matching.candidates[i, j].index[latent]))
                for j, yes in zip(others, matched[latent].tolist(), strict=True)
                if yes
            ]
            candidates[i, latent] = [(i, latent), *partners]
            order.append((-float(strength[latent]), i, latent))
    taken, found_sets = set(taken), []
    for _, i, latent in sorted(order):
        cluster = [one for one in candidates[i, latent] if one not in taken]
        if (i, latent) in taken or len(cluster) < fewest:
            continue
        taken.update(cluster)
        found_sets.append(cluster)
    return sorted(found_sets, key=len, reverse=True)


def _averaged(found: Found, group: list[int], clusters: list[list[tuple[int, int]]]) -> SAE:
    """Mean of the members' latents in each cluster, decoder rows of norm 1; biases likewise."""
    saes = found.ensemble.saes
    number = {i: found.ensemble.alive[i].nonzero().flatten() for i in group}
    decoder = torch.zeros((len(clusters), saes[group[0]].d_out), dtype=torch.float64)
    encoder, bias = torch.zeros_like(decoder), torch.zeros(len(clusters), dtype=torch.float64)
    place = {one: row for row, cluster in enumerate(clusters) for one in cluster}
    first = {row: cluster[0] for row, cluster in enumerate(clusters)}
    for i in group:
        own = [(latent, row) for (of, latent), row in place.items() if of == i]
        if not own:
            continue
        latents, where = (torch.tensor(values) for values in zip(*own, strict=True))
        chosen = number[i][latents]
        W_dec, W_enc = saes[i].W_dec.detach().cpu().double(), saes[i].W_enc.detach().cpu().double()
        norm = W_dec[chosen].norm(dim=1)
        sign = torch.tensor([_sign(found, first[int(row)], (i, int(k))) for k, row in own])
        decoder[where] += sign[:, None] * W_dec[chosen] / norm[:, None]
        encoder[where] += sign[:, None] * W_enc.T[chosen] * norm[:, None]
        bias[where] += saes[i].b_enc.detach().cpu().double()[chosen] * norm
    size = torch.tensor([len(c) for c in clusters], dtype=torch.float64)
    decoder = torch.nn.functional.normalize(decoder, dim=1)
    b_dec = torch.stack([saes[i].b_dec.detach().cpu().double() for i in group]).mean(0)
    one = saes[group[0]]
    return SAE(
        one.architecture,
        (encoder / size[:, None]).T.float().contiguous(),
        decoder.float(),
        (bias / size).float(),
        b_dec.float(),
        None if one.threshold is None else torch.zeros(len(clusters)),
        None if one.k is None else min(one.k, len(clusters)),
        apply_b_dec_to_input=one.apply_b_dec_to_input,
    )


def _sign(found: Found, first: tuple[int, int], other: tuple[int, int]) -> float:
    """-1 where a member's latent points away from the one that collected it."""
    if first[0] == other[0]:
        return 1.0
    cosine = found.matching.candidates[first[0], other[0]].decoder[first[1]]
    return -1.0 if float(cosine) < 0 else 1.0


def _notes(member: SAE, names: list[str], min_share: float) -> dict:
    """Metadata of a consensus SAE: that of its members, without a seed of its own."""
    kept = {k: v for k, v in member.cfg.items() if k in ("subject", "hook_name", "model_name")}
    return kept | {"consensus": {"members": names, "min_share": min_share}}
