"""Sparse probing of many data sets: sae-probes' protocol from activations to test scores.

The protocol is that of ``run_sae_evals(setting="normal")`` in sae-probes 0.4.2 (Kantamneni et al.
2502.16681), which SAEBench wraps. A data set goes through :func:`probe_data_set` from top to
bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from husai.compute import as_completed
from husai.errors import HusaiError
from husai.probing import scores
from husai.probing.solver import Features, check_ks, fit_probes, unconverged
from husai.probing.splits import PROBE_SEED, probe_split

KS = (1, 2, 5, 16)
"""sae-probes' sparse values, and 16, near the L0 of the SAEs trained here."""


class ProbeData(NamedTuple):
    """Activations and labels of one data set at one hook."""

    name: str
    family: str
    x: torch.Tensor
    """``(n_rows, d)`` float32, rows in file order."""
    y: np.ndarray
    """``(n_rows,)`` labels 0/1."""


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
    encoder,
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
    ``on_done`` sees the results of every data set as they come. The encoder computes on ``device``,
    the probes are solved on the CPU."""
    check_ks(ks)
    found: dict[int, list[ProbeResult]] = {}
    with unconverged():
        for i, results in as_completed(
            lambda data: probe_data_set(
                encoder, data, ks, penalty=penalty, seed=seed, device=device
            ),
            sources,
        ):
            found[i] = results
            if on_done is not None:
                on_done(results)
    return [result for i in sorted(found) for result in found[i]]


def probe_data_set(
    encoder,
    data: ProbeData,
    ks: Sequence[int] = KS,
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
    device="cpu",
) -> list[ProbeResult]:
    """Draw the rows of a data set, encode them, rank the latents on the training rows, fit a probe
    on the best k of them for every k, and score it on the test rows.

    ``encoder`` has ``d_in``, ``best(x, y, n)`` and ``columns(x, latents)``; see
    :mod:`husai.probing.encoders`."""
    check_width(encoder, data)
    train, test = probe_split(data.y, seed, name=data.name)
    features = select_features(encoder, data, train, test, max(ks), device=device)
    probes = fit_probes(features, ks, penalty=penalty, seed=seed)
    return score_probes(features, ks, probes)


def select_features(
    encoder, data: ProbeData, train: np.ndarray, test: np.ndarray, max_k: int, *, device="cpu"
) -> Features:
    """The ``max_k`` best columns of the code for the labels of the rows ``train``, on those rows
    and on the rows ``test``."""
    x, y = data.x.to(device), torch.as_tensor(data.y).long()
    best, trained = encoder.best(x[train], y[train].to(device), max_k)
    tested = encoder.columns(x[test], best)
    return Features(
        data.name,
        data.family,
        as_array(trained),
        y[train].numpy(),
        as_array(tested),
        y[test].numpy(),
        best.tolist(),
    )


def as_array(columns: torch.Tensor) -> np.ndarray:
    """Columns of a code as the solver reads them: float32 in row order."""
    return np.ascontiguousarray(columns.float().cpu().numpy())


def score_probes(f: Features, ks: Sequence[int], probes) -> list[ProbeResult]:
    """Test scores of the probes of a data set, one result per k."""
    probabilities = probes.probabilities(f.test)
    measured = zip(
        ks,
        scores.auc(probabilities, f.y_test).tolist(),
        probes.val_auc.tolist(),
        scores.accuracy(probabilities > 0.5, f.y_test).tolist(),
        scores.weighted_f1(probabilities > 0.5, f.y_test).tolist(),
        probes.C,
        strict=True,
    )
    return [
        ProbeResult(f.name, f.family, k, *values, f.latents[:k], len(f.train), len(f.test))
        for k, *values in measured
    ]


def check_width(encoder, data: ProbeData) -> None:
    """Refuse activations of another width than the encoder reads, or without a label each."""
    if data.x.shape[1] != encoder.d_in:
        raise HusaiError(
            f"data set '{data.name}': activations have d = {data.x.shape[1]} but the SAE has d_in "
            f"= {encoder.d_in}; "
            "probe the hook the SAE was trained on"
        )
    if len(data.x) != len(data.y):
        raise HusaiError(
            f"data set '{data.name}': {len(data.x)} activation rows for {len(data.y)} labels; run "
            "the probe activations again"
        )


def reseed_noise(
    encoder,
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
    runs = [probe_datasets(encoder, sources, ks, seed=seed, **options) for seed in seeds]
    return {
        (found[0].dataset, found[0].k): float(np.std([r.auc for r in found], ddof=1))
        for found in zip(*runs, strict=True)
    }
