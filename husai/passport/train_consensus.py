"""Training a consensus recipe: per seed a group of its own, its members trained together with those
of all other groups, and one SAE made of each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from husai.errors import HusaiError
from husai.passport.consensus import ConsensusSAE, consensus
from husai.recipe import Recipe
from husai.sae import train_ensemble
from husai.sae.subset import subset
from husai.sae.training.ensemble import EnsembleResult
from husai.sae_files import LARGEST_SEED
from husai.stability import evaluate_sae


def member_seeds(seed: int, members: int) -> list[int]:
    """Seeds of the group that ``seed`` stands for; groups of different seeds share none.

    Raises
    ------
    HusaiError
        A member's seed would not lie below :data:`husai.sae_files.LARGEST_SEED`.

    Examples
    --------
    >>> member_seeds(9001, 4)
    [36004, 36005, 36006, 36007]
    """
    found = [seed * members + number for number in range(members)]
    if found[-1] >= LARGEST_SEED:
        raise HusaiError(
            f"consensus: seed {seed} with {members} members gives seeds beyond {LARGEST_SEED}; "
            "choose a smaller one"
        )
    return found


def train_consensus(
    recipe: Recipe, seeds: Sequence[int], data, *, held_out, l0_required: bool = True, **options
) -> EnsembleResult:
    """Train the members of every group and make one SAE of each group.

    Parameters
    ----------
    recipe : Recipe
        With ``consensus_members``.
    seeds : sequence of int
        One per group, see :func:`member_seeds`.
    data, held_out, l0_required, options
        Of the members, see :func:`husai.sae.train_ensemble`. Without ``l0_required`` (an answer is
        wanted whatever it is) groups with too few recurring latents are made up with others.

    Returns
    -------
    EnsembleResult
        ``final`` has per group the figures of its consensus; what only training knows
        (``cos_to_init``, ``plateau_gain``) is the worst of its members, named in ``members``.
        ``curves`` are the members', ``initial_decoders`` too.

    Raises
    ------
    HusaiError
        A seed given twice: its groups would be one and agree for that.
    RecipeFailed
        Fewer latents recur than ``recipe.d_sae`` asks for.
    """
    twice = [seed for seed in seeds if list(seeds).count(seed) > 1]
    if twice:
        raise HusaiError(
            f"recipe {recipe.id}: seed {twice[0]} is given twice; groups must not share seeds"
        )
    groups = [member_seeds(seed, recipe.consensus_members) for seed in seeds]
    options = {k: v for k, v in options.items() if k not in ("target", "held_out_target")}
    flat = [seed for group in groups for seed in group]
    trained = train_ensemble(
        recipe.member, flat, data, held_out=held_out, l0_required=l0_required, **options
    )
    size = recipe.consensus_members
    made = consensus(
        [trained.saes[i : i + size] for i in range(0, len(flat), size)],
        data,
        min_share=recipe.consensus_min_share,
        seeds=groups,
        d_sae=recipe.d_sae,
        l0=recipe.matched_l0,
        complete=not l0_required,
        device=options.get("device"),
    )
    saes = [_shuffled(one, seed) for one, seed in zip(made, seeds, strict=True)]
    final = [
        _final(seed, sae, held_out, [row for row in trained.final if row["seed"] in group])
        for seed, sae, group in zip(seeds, saes, groups, strict=True)
    ]
    coefficient = trained.resolved.sparsity_coefficient
    resolved = replace(recipe, sparsity_coefficient=coefficient)
    return EnsembleResult(saes, trained.initial_decoders, trained.curves, final, resolved)


def _shuffled(one: ConsensusSAE, seed: int):
    """The SAE with its latents in an order of the seed's own: in the order of their number of
    members, those that two groups share would stand at like places, as in copies of one SAE."""
    order = torch.randperm(one.sae.d_sae, generator=torch.Generator().manual_seed(seed))
    return subset(one.sae, order)


def _final(seed: int, sae, held_out, members: list[dict[str, Any]]) -> dict[str, Any]:
    figures = evaluate_sae(sae, held_out)
    kept = ("explained_variance", "l0", "dead_fraction")
    worst = {name: max(row[name] for row in members) for name in ("cos_to_init", "plateau_gain")}
    return {
        "seed": int(seed),
        **{name: figures[name] for name in kept},
        **worst,
        "plateau": all(row["plateau"] for row in members),
        "sparsity_coefficient": members[0]["sparsity_coefficient"],
        "members": [int(row["seed"]) for row in members],
    }
