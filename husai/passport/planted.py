"""Planted truth: SAEs of which it is known how often every latent comes back, to measure how often
a certificate is wrong and how many reproducible latents get one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import normalize

from husai.passport.assemble import latent_table, reappearance
from husai.passport.certify import measured
from husai.passport.posterior import BAR, FDR
from husai.sae.architectures import SAE

KINDS = ("shared", "duplicate", "split", "faint", "private")
SPLIT_ANGLE = 0.9
"""Tangent between a parent and either of its children: their cosine is 0.74, just above the bar of
a match, so that split features are the hard cases."""
DUPLICATE_ANGLE = 0.35
"""Tangent between two near-duplicates: their cosine is 0.94."""
FAINT_COSINE = 0.64
"""Cosine between seeds of the faint features: just below the bar of a match."""


@dataclass(frozen=True)
class PlantedDesign:
    """One planted ensemble. Shares are of ``d_sae``; what they leave is private to each seed."""

    d_in: int = 48
    d_sae: int = 192
    l0: int = 6
    architecture: str = "topk"
    cosine: float = 0.9
    """Mean cosine of a shared feature between two seeds, on decoder and encoder."""
    shared: float = 0.3
    duplicate: float = 0.1
    """Features of which every seed holds two near-copies."""
    split: float = 0.1
    """Features that some seeds hold whole and others in two parts, each with a rate of its own."""
    faint: float = 0.1
    noise: float = 0.05
    """Standard deviation of the noise on the rows, per coordinate."""
    n_seeds: int = 8
    n_rows: int = 2000


SELF_TEST = {
    "shared at cosine 0.85": PlantedDesign(cosine=0.85),
    "none shared, half split, half faint": PlantedDesign(
        shared=0.0, duplicate=0.0, split=0.5, faint=0.45
    ),
}
SELF_TEST_CAMPAIGNS = 4
"""Of each plan: seconds in all, as every self-test runs them."""


class PlantedWorld(NamedTuple):
    """What the seeds of a planted ensemble have in common; directions ``(n, d_in)``, unit rows."""

    plan: PlantedDesign
    shared: torch.Tensor
    duplicate: torch.Tensor
    split: torch.Tensor
    faint: torch.Tensor
    children: torch.Tensor
    """``(2, n_split, d_in)``: the two parts of each split feature."""
    whole: torch.Tensor
    """``(n_split,)``: probability with which a seed holds the feature whole, 0.2 to 0.8."""
    rows: torch.Tensor
    """``(n_rows, d_in)``: held-out activations, made of all features."""


def planted_world(plan: PlantedDesign, seed: int) -> PlantedWorld:
    """Draw the features and the rows of a planted ensemble."""
    g = torch.Generator().manual_seed(int(seed))

    def draw(share: float, latents: int = 1) -> torch.Tensor:
        return _directions(round(share * plan.d_sae / latents), plan.d_in, g)

    shared, duplicate, faint = draw(plan.shared), draw(plan.duplicate, 2), draw(plan.faint)
    split = draw(plan.split, 2)
    aside = SPLIT_ANGLE * _across(split, g)
    children = torch.stack([normalize(split + aside, dim=1), normalize(split - aside, dim=1)])
    whole = 0.2 + 0.6 * torch.rand(len(split), generator=g)
    features = torch.cat([shared, duplicate, *children, faint])
    active = torch.rand((plan.n_rows, len(features)), generator=g) < plan.l0 / len(features)
    size = 0.5 + torch.rand(active.shape, generator=g)
    rows = (active * size) @ features
    rows += plan.noise * torch.randn(rows.shape, generator=g)
    return PlantedWorld(plan, shared, duplicate, split, faint, children, whole, rows)


def planted_sae(world: PlantedWorld, seed: int) -> tuple[SAE, torch.Tensor]:
    """One seed's SAE, its latents in an order of its own, and the place of each latent's kind in
    :data:`KINDS`: ``(d_sae,)`` int64."""
    plan, g = world.plan, torch.Generator().manual_seed(int(seed))
    aside = DUPLICATE_ANGLE / 2 * _across(world.duplicate, g)
    whole = torch.rand(len(world.split), generator=g) < world.whole
    groups = [
        world.shared,
        normalize(torch.cat([world.duplicate + aside, world.duplicate - aside]), dim=1),
        torch.cat([world.split[whole], *world.children[:, ~whole]]),
        world.faint,
    ]
    groups.append(_directions(plan.d_sae - sum(map(len, groups)), plan.d_in, g))
    kind = torch.cat([torch.full((len(rows),), k) for k, rows in enumerate(groups)])
    cosine = torch.full((len(kind), 1), plan.cosine)
    cosine[kind == KINDS.index("faint")] = FAINT_COSINE
    true = torch.cat(groups)
    decoder, encoder = (_seed_version(true, cosine, g) for _ in range(2))
    order = torch.randperm(len(kind), generator=g)
    decoder, encoder = decoder[order].contiguous(), encoder[order].T.contiguous()
    biases = torch.zeros(len(kind)), torch.zeros(plan.d_in)
    threshold = torch.full(kind.shape, 0.4)
    rule = {"k": plan.l0} if plan.architecture == "topk" else {"threshold": threshold}
    return SAE(plan.architecture, encoder, decoder, *biases, **rule), kind[order]


def _directions(n: int, d: int, g: torch.Generator) -> torch.Tensor:
    return normalize(torch.randn((n, d), generator=g), dim=1)


def _across(rows: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """A random unit row at right angles to each row."""
    drawn = torch.randn(rows.shape, generator=g)
    return normalize(drawn - (drawn * rows).sum(1, keepdim=True) * rows, dim=1)


def _seed_version(true: torch.Tensor, cosine: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """``sqrt(c) u + sqrt(1 - c) v`` with v across u: two such versions have cosine c on average."""
    return cosine.sqrt() * true + (1 - cosine).sqrt() * _across(true, g)


class Campaign(NamedTuple):
    """How the certificates of one SAE of a planted ensemble turned out."""

    certified: int
    false: int
    """Certified latents that reappear in fewer than half of the fresh seeds."""
    false_private: int
    """Certified latents that are private to their seed."""
    shared: int
    """Living latents of kind ``shared``."""
    found: int
    """Of those, certified."""

    @property
    def false_share(self) -> float:
        """False discovery proportion; 0 where nothing is certified."""
        return self.false / max(1, self.certified)

    @property
    def power(self) -> float:
        """Share of the shared latents that is certified; NaN where there are none."""
        return self.found / self.shared if self.shared else float("nan")


def campaign(
    plan: PlantedDesign, seed: int, n_fresh: int = 40, bar: float = BAR, fdr: float = FDR
) -> Campaign:
    """Plant an ensemble, certify its first SAE, and hold the certificates against ``n_fresh``
    further seeds that took no part.

    A latent's true rate is the share of the fresh seeds in which it reappears, by the same rule; a
    certificate is false where that share is below ``bar``. (With 40 fresh seeds the share has a
    standard error of at most 0.08, so that near the bar as many right certificates are called
    false as the other way round.)
    """
    world = planted_world(plan, seed)
    made = [
        planted_sae(world, int(s))
        for s in np.random.SeedSequence(seed).generate_state(plan.n_seeds + n_fresh)
    ]
    saes, kind = [sae for sae, _ in made], made[0][1]
    names = [f"seed{i}" for i in range(len(saes))]
    pairs = [(0, j) for j in range(1, len(saes))]
    found = measured(saes, world.rows, names, pairs)
    table = latent_table(found, 0, range(1, plan.n_seeds), bar, fdr)
    rate = torch.zeros(len(kind), dtype=torch.float64)
    fresh = range(plan.n_seeds, len(saes))
    rate[table.alive] = reappearance(found, 0, fresh).double().mean(1)
    certified, shared = table.certified, (kind == KINDS.index("shared")) & table.alive
    return Campaign(
        certified=int(certified.sum()),
        false=int((certified & (rate < bar)).sum()),
        false_private=int((certified & (kind == KINDS.index("private"))).sum()),
        shared=int(shared.sum()),
        found=int((shared & certified).sum()),
    )


def mean_outcome(campaigns: Sequence[Campaign]) -> tuple[float, float, float]:
    """Mean false discovery proportion over campaigns, its standard error, and mean power."""
    false = np.array([c.false_share for c in campaigns])
    power = [c.power for c in campaigns if c.shared]
    error = float(false.std(ddof=1) / np.sqrt(len(false))) if len(false) > 1 else float("nan")
    return float(false.mean()), error, float(np.mean(power)) if power else float("nan")


def self_test() -> list[dict[str, Any]]:
    """A few campaigns, for the report: per plan the mean number of certificates, the mean false
    discovery proportion with its standard error, and the power. ``benchmarks/bench_passport.py
    planted`` has many plans and campaigns."""
    rows = []
    for place, (name, plan) in enumerate(SELF_TEST.items()):
        found = [campaign(plan, 1000 * place + k) for k in range(SELF_TEST_CAMPAIGNS)]
        false, error, power = mean_outcome(found)
        row = {"planted": name, "campaigns": len(found)}
        row["certified"] = sum(c.certified for c in found) / len(found)
        row |= {"false_share": false, "standard_error": error}
        rows.append(row | {"power": None if math.isnan(power) else power})
    return rows
