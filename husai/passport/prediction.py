"""Do certificates keep their word? Latents certified with one set of seeds, looked up in a second,
disjoint set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from husai.errors import HusaiError
from husai.passport.assemble import Found, latent_table, reappearance
from husai.passport.certify import measured, relatives
from husai.passport.ensemble import names_of
from husai.passport.posterior import BAR, FDR, FEWEST_COMPARISONS
from husai.passport.table import Passports
from husai.statistics import auc

FEW = (2, 4)
"""Numbers of SAEs for which it is asked how well they foretell the rest."""


class CalibrationPoint(NamedTuple):
    """Latents of all SAEs with one predicted theta."""

    theta: float
    """Mean prediction."""
    observed: float
    """Mean rate of reappearance in the second set."""
    latents: int


class Prediction(NamedTuple):
    """How the passports of the first set turned out in the second."""

    names: list[str]
    """SAEs of the first set."""
    certified: list[int]
    """Per SAE of the first set, certified latents."""
    held: list[float]
    """Per SAE, share of those that reappear in at least ``bar`` of the second set; NaN where none
    is certified."""
    living: list[int]
    base_rate: list[float]
    """Per SAE, the same share of all its living latents: what a certificate must beat."""
    calibration: list[CalibrationPoint]
    """One entry per number of seeds in which a latent reappeared, lowest first."""
    calibration_error: float
    """Mean |theta - observed| over latents, by the entries of ``calibration``."""
    auc: dict[int, float]
    """Number of SAEs used: probability that a latent that holds in the second set is ranked above
    one that does not; mean over SAEs."""

    @property
    def held_share(self) -> float:
        """Certified latents of all SAEs that hold; NaN where nothing is certified."""
        pairs = [(n, h) for n, h in zip(self.certified, self.held, strict=True) if n]
        total = sum(n for n, _ in pairs)
        return sum(n * h for n, h in pairs) / total if total else float("nan")

    def row(self) -> dict[str, Any]:
        """In short, as JSON values."""
        certified = sum(self.certified)
        return {
            "certified_by": ", ".join(self.names),
            "living": sum(self.living),
            "certified": certified,
            "of_which_hold": self.held_share if certified else None,
            "all_that_hold": sum(self.base_rate) / len(self.base_rate),
            "calibration_error": self.calibration_error,
        }

    def summary(self) -> dict[str, Any]:
        """As JSON values."""
        found = self._asdict() | {"held_share": self.held_share}
        return found | {"calibration": [c._asdict() for c in self.calibration]}


def predict(
    first: Sequence,
    second: Sequence,
    activations,
    *,
    bar: float = BAR,
    fdr: float = FDR,
    few: Sequence[int] = FEW,
    device=None,
) -> Prediction:
    """Certify the latents of ``first`` among themselves and look them up in ``second``.

    Parameters
    ----------
    first, second : sequence of SAE
        Of one recipe, all from seeds of their own: three or more, and one or more.
    activations : Tensor (n, d_in) or ActivationStore
        Held-out rows, for both sets.
    bar, fdr : float
        See :func:`husai.passport.certify`.
    few : sequence of int
        Numbers of SAEs of the first set from which the second is also foretold.

    Raises
    ------
    HusaiError
        Too few SAEs, or any two of them that are no trainings of their own: sets that share a seed
        agree for that.
    """
    n = len(first)
    if n <= FEWEST_COMPARISONS or not len(second):
        raise HusaiError(
            f"prediction: {n} SAEs to certify with and {len(second)} to look them up in; at least "
            f"{FEWEST_COMPARISONS + 1} and 1 are needed"
        )
    names = names_of([*first, *second], None, None)
    found = measured([*first, *second], activations, names, device=device)
    for pair in relatives(found):
        raise HusaiError(
            f"prediction: SAEs {pair.a} and {pair.b} (counted through both sets) are no trainings "
            f"of their own: {pair.reason}; sets that share a seed prove nothing"
        )
    return prediction(found, range(n), range(n, n + len(second)), bar=bar, fdr=fdr, few=few)


def halves(passports: Passports) -> list[Prediction]:
    """How the certificates of one half of the SAEs turn out in the other half, both ways; nothing
    where a half has too few SAEs, there are no activations, or two are no trainings of their own.
    """
    n, half = len(passports.tables), len(passports.tables) // 2
    if passports.kin or passports.n_rows is None or half <= FEWEST_COMPARISONS:
        return []
    sets = [range(half), range(half, n)]
    options = {"bar": passports.bar, "fdr": passports.fdr, "few": ()}
    return [prediction(passports.found, *pair, **options) for pair in (sets, sets[::-1])]


def prediction(
    found: Found,
    first: Sequence[int],
    second: Sequence[int],
    *,
    bar: float = BAR,
    fdr: float = FDR,
    few: Sequence[int] = FEW,
) -> Prediction:
    """:func:`predict` for two disjoint sets of SAEs, given by their places in one measurement.

    Raises
    ------
    HusaiError
        An SAE is in both sets.
    """
    if set(first) & set(second):
        raise HusaiError(f"prediction: SAE {min(set(first) & set(second))} is in both sets")
    tables, rates = [], []
    for i in first:
        table = latent_table(found, i, [j for j in first if j != i], bar, fdr)
        tables.append(table)
        rates.append(reappearance(found, i, second).double().mean(1).numpy())
    chosen = [t.certified[t.alive].numpy() for t in tables]
    holds = [rate >= bar for rate in rates]
    counts = np.concatenate([t.reappearances[t.alive].numpy() for t in tables])
    theta = np.concatenate([t.theta[t.alive].numpy() for t in tables])
    bins = calibration(counts, theta, np.concatenate(rates))
    error = sum(abs(b.theta - b.observed) * b.latents for b in bins) / len(theta)
    return Prediction(
        names=[t.name for t in tables],
        certified=[int(c.sum()) for c in chosen],
        held=[
            float(h[c].mean()) if c.any() else float("nan")
            for h, c in zip(holds, chosen, strict=True)
        ],
        living=[len(h) for h in holds],
        base_rate=[float(h.mean()) for h in holds],
        calibration=bins,
        calibration_error=float(error),
        auc={m: _auc_with(found, first, holds, m) for m in few if 2 <= m <= len(first)},
    )


def calibration(counts: np.ndarray, theta: np.ndarray, rate: np.ndarray) -> list[CalibrationPoint]:
    """Mean predicted and observed rates of the latents with each count, ``(n_latents,)`` each."""
    return [
        CalibrationPoint(float(theta[of].mean()), float(rate[of].mean()), int(of.sum()))
        for of in (counts == y for y in np.unique(counts))
    ]


def _auc_with(found: Found, first, holds, m: int) -> float:
    """AUC of the ranking that each SAE makes with the ``m - 1`` SAEs after it in the first set.

    Latents are ranked by the number of seeds in which they reappear, and within a number by the
    mean closeness of their best matches."""
    order, scores = list(first), []
    for place, i in enumerate(order):
        others = [order[(place + step) % len(order)] for step in range(1, m)]
        count = reappearance(found, i, others).double().sum(1)
        closeness = found.matching.best[i][:, others].mean(1)
        scores.append(auc((count + 0.999 * closeness).numpy(), holds[place]))
    return float(np.nanmean(scores)) if np.isfinite(scores).any() else float("nan")
