"""The passports themselves: one table per SAE with a row per latent, and what they all rest on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from husai.passport.matching import Kin
from husai.passport.posterior import BetaBinomial

PER_MATCH = ("match", "decoder_cosine", "encoder_cosine", "activation_r", "reappears")
NAN = float("nan")


@dataclass(frozen=True)
class LatentTable:
    """The passports of one SAE. Tensors ``(d_sae,)``, or ``(d_sae, n_others)`` for what is known
    per other seed; NaN where something was not measured or a latent is dead."""

    name: str
    others: tuple[str, ...]
    """The independent SAEs it was compared with, in the order of the columns per seed."""
    alive: torch.Tensor
    """Bool: fires on the rows (without rows: has a direction)."""
    match: torch.Tensor
    """Number of the best match by |decoder cosine| in each other SAE, int64; -1 for a dead
    latent."""
    decoder_cosine: torch.Tensor
    """Signed cosine with that match, in [-1, 1]."""
    encoder_cosine: torch.Tensor
    activation_r: torch.Tensor
    """Pearson r of the activations on the rows, in [-1, 1]."""
    reappears: torch.Tensor
    """Bool: mutual best match, |cosine| > 0.7 on decoder and encoder, and activations agree."""
    reappearances: torch.Tensor
    """Count of the other SAEs in which the latent reappears, int64."""
    theta: torch.Tensor
    """Rate at which the latent would reappear in a new seed: posterior mean, in [0, 1]."""
    theta_low: torch.Tensor
    theta_high: torch.Tensor
    """With ``theta_low``, the central 95% of the posterior."""
    doubt: torch.Tensor
    """Probability that theta is below the bar: the larger of the beta-binomial's and that of a
    mixture of any shape; see :mod:`husai.passport.posterior`."""
    fdr: torch.Tensor
    """Mean doubt of all latents at least as sure: certify those with ``fdr <= q`` to have at most
    a share q of false ones."""
    certified: torch.Tensor
    """Bool."""
    density: torch.Tensor
    """Share of rows on which it fires, in [0, 1]."""
    mean_activation: torch.Tensor
    """Over the rows on which it fires."""
    max_activation: torch.Tensor
    variance_share: torch.Tensor
    """Share of the explained variance, sums to 1; see :func:`husai.stability.firing.firing`."""
    p_crowding: torch.Tensor
    p_covariance: torch.Tensor
    """P-values of the closeness of its matches; see :func:`husai.passport.chance.p_values`."""
    model: BetaBinomial | None
    """What theta was fitted to; None where nothing could be fitted."""

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.alive.shape[0]

    @property
    def p_value(self) -> torch.Tensor:
        """The larger p-value of those measured, ``(d_sae,)``; NaN where none was."""
        return torch.fmax(self.p_crowding, self.p_covariance)

    @property
    def certified_share(self) -> float:
        """Certified latents as a share of the living."""
        return float(self.certified.sum()) / max(1, int(self.alive.sum()))

    def columns(self) -> dict[str, np.ndarray]:
        """``{name: (d_sae,) array}`` for a data frame or a parquet file, ``latent`` first; what is
        known per other seed is named ``decoder_cosine:OTHER`` and so on."""
        found: dict[str, np.ndarray] = {"latent": np.arange(self.d_sae)}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, torch.Tensor) and value.ndim == 1:
                found[field.name] = value.numpy()
        found["p_value"] = self.p_value.numpy()
        for name in PER_MATCH:
            for k, other in enumerate(self.others):
                found[f"{name}:{other}"] = getattr(self, name)[:, k].numpy()
        return found

    def summary(self) -> dict[str, Any]:
        """Numbers over all latents, as JSON values."""
        living = int(self.alive.sum())
        n = len(self.others)
        counts = torch.bincount(self.reappearances[self.alive], minlength=n + 1)
        share, fdr = self.variance_share[self.certified].sum(), self.fdr[self.certified]
        return {
            "name": self.name,
            "d_sae": self.d_sae,
            "living": living,
            "compared_with": list(self.others),
            "certified": int(self.certified.sum()),
            "certified_share": self.certified_share,
            "certified_variance_share": float(share) if living else NAN,
            "expected_false_share": float(fdr.max()) if fdr.numel() else NAN,
            "latents_by_reappearances": counts.tolist(),
            "beta_binomial": None if self.model is None else self.model._asdict(),
        }


@dataclass(frozen=True)
class Passports:
    """What :func:`husai.passport.certify` found for n SAEs."""

    tables: list[LatentTable]
    kin: list[Kin]
    """Pairs that are no independent trainings; they count as one."""
    remarks: list[str]
    """What could not be said, and why: each a sentence."""
    n_rows: int | None
    """Held-out rows behind densities and agreements; None without activations."""
    bar: float
    fdr: float
    found: Any
    """What all this was made of (:class:`husai.passport.assemble.Found`)."""

    def summary(self) -> dict[str, Any]:
        """Everything but the tables and what they were made of, as JSON values."""
        return {
            "saes": [table.summary() for table in self.tables],
            "kin": [
                {"a": self.tables[k.a].name, "b": self.tables[k.b].name, "reason": k.reason}
                for k in self.kin
            ],
            "remarks": self.remarks,
            "rows": self.n_rows,
            "theta_bar": self.bar,
            "fdr": self.fdr,
        }
