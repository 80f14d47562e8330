"""Sparse probing of many data sets: sae-probes' protocol from activations to test scores.

The protocol is that of ``run_sae_evals(setting="normal")`` in sae-probes 0.4.2 (Kantamneni et al.
2502.16681), which SAEBench wraps. A data set goes through :func:`probe_codes` from top to
bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from husai.compute import as_completed
from husai.probing.encoders import ProbeData, codes_of, rank_columns
from husai.probing.scores import scores_of
from husai.probing.solver import Features, check_ks, fit_probes, unconverged
from husai.probing.splits import PROBE_SEED, probe_split

KS = (1, 2, 5, 16)
"""sae-probes' sparse values, and 16, near the L0 of the SAEs trained here."""


class ProbeResult(NamedTuple):
    """One probe: a data set at one k."""

    dataset: str
    family: str
    k: int
    auc: float
    """On the test rows."""
    val_auc: float
    """Of the chosen C on the validation rows; the only score that may choose anything."""
    accuracy: float
    f1: float
    C: float | None
    """None from the official engine, which does not report it."""
    latents: list[int]
    n_train: int
    n_test: int


def probe_datasets(
    sae,
    sources: Iterable[ProbeData],
    ks: Sequence[int] = KS,
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
    device="cpu",
    on_done: Callable[[list[ProbeResult]], None] | None = None,
) -> list[ProbeResult]:
    """Probe every data set with the fast engine: results by data set and k, in the order given.

    ``sources`` may load lazily; each of torch's threads takes one data set from start to end.
    ``on_done`` sees the results of every data set as they come. The SAE computes on ``device``,
    the probes are solved on the CPU."""
    check_ks(ks)
    found: dict[int, list[ProbeResult]] = {}

    def measure(data: ProbeData) -> list[ProbeResult]:
        codes = codes_of(sae, data, device)
        return probe_codes(codes, data, ks, penalty=penalty, seed=seed)

    with unconverged():
        for i, results in as_completed(measure, sources):
            found[i] = results
            if on_done is not None:
                on_done(results)
    return [result for i in sorted(found) for result in found[i]]


def probe_codes(
    codes: torch.Tensor,
    data: ProbeData,
    ks: Sequence[int] = KS,
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
) -> list[ProbeResult]:
    """Draw the rows of a data set, rank the columns of its ``codes (n_rows, m)`` on the training
    rows, fit a probe on the best k of them for every k, and score it on the test rows.
    """
    split = probe_split(data.y, seed, name=data.name)
    return probe_features(select_features(codes, data, *split, max(ks)), ks, penalty, seed)


def select_features(
    codes: torch.Tensor, data: ProbeData, train: np.ndarray, test: np.ndarray, max_k: int
) -> Features:
    """The ``max_k`` best columns of ``codes (n_rows, m)`` for the labels of the rows ``train``, on
    those rows and on the rows ``test``: row numbers ``(n_train,)`` and ``(n_test,)``.
    """
    y = torch.as_tensor(data.y).long()
    best = rank_columns(codes[train], y[train].to(codes.device))[:max_k]
    return features_of(data, codes[:, best], train, test, best.tolist())


def features_of(
    data: ProbeData, columns: torch.Tensor, train: np.ndarray, test: np.ndarray, latents: list[int]
) -> Features:
    """Columns ``(n_rows, k)`` as the candidate features of a data set, best first, on the rows
    ``train (n_train,)`` and ``test (n_test,)``."""
    x, y = as_array(columns), np.asarray(data.y).astype(np.int64)
    return Features(data.name, data.family, x[train], y[train], x[test], y[test], latents)


def as_array(columns: torch.Tensor) -> np.ndarray:
    """Columns ``(n_rows, k)`` as the solver reads them: the same shape, float32 in row order."""
    return np.ascontiguousarray(columns.float().cpu().numpy())


def probe_features(f: Features, ks: Sequence[int], penalty: str, seed: int) -> list[ProbeResult]:
    """Fit a probe on the best k features for every k, and score it on the test rows."""
    sizes, out = (len(f.train), len(f.test)), []
    for k, model, area, C in zip(ks, *fit_probes(f, ks, penalty=penalty, seed=seed), strict=True):
        auc, accuracy, f1 = scores_of(model, f.test, f.y_test)
        found = (auc, float(area), accuracy, f1, C)
        out.append(ProbeResult(f.name, f.family, k, *found, f.latents[:k], *sizes))
    return out


def reseed_noise(
    sae,
    sources: Sequence[ProbeData],
    ks: Sequence[int] = KS,
    *,
    seeds: Sequence[int] = (PROBE_SEED, 43, 44, 45, 46),
    **options,
) -> dict[tuple[str, int], float]:
    """Standard deviation (n - 1) of each probe's test AUC over seeds of the protocol, by data set
    and k.

    A seed draws the rows, their order and SAGA's steps. On a data set at chance this is what a
    difference between two engines, or two SAEs, is to be compared with. Options are those of
    :func:`probe_datasets`."""
    runs = [probe_datasets(sae, sources, ks, seed=seed, **options) for seed in seeds]
    return {
        (found[0].dataset, found[0].k): float(np.std([r.auc for r in found], ddof=1))
        for found in zip(*runs, strict=True)
    }
