"""Sparse probing of many data sets at once: sae-probes' protocol (splits, ranking, grid, validation
rule), solved as one batch.

The protocol is that of ``run_sae_evals(setting="normal")`` in sae-probes 0.4.2 (Kantamneni et al.
2502.16681), which SAEBench wraps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from husai.compiled import probe_kernels
from husai.errors import HusaiError
from husai.parallel import prepared
from husai.probing import scores
from husai.probing.datasets import PROBE_SEED
from husai.probing.probes import C_GRID, Chosen, Features, check_ks, final_probes

MAX_TRAIN = 1024
MIN_TEST = 100
MIN_TRAIN = 128
TOGETHER = 8
KS = (1, 2, 5, 16)


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


def probe_split(
    y: np.ndarray,
    seed: int = PROBE_SEED,
    *,
    num_train: int | None = None,
    num_test: int | None = None,
    name: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows of sae-probes: balanced draws, ``min(n - 100, 1024)`` to train, all
    but one of the rest to test.

    Follows ``get_xy_traintest`` and ``get_train_test_indices`` draw by draw. When a row limit left
    the classes unequal, the test set shrinks to the largest balanced one; the training rows are
    those of :func:`husai.probing.datasets.probe_train_rows`.

    Raises
    ------
    HusaiError
        One class only, or fewer than 128 training rows.
    """
    y = np.asarray(y)
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    if len(positive) == 0 or len(negative) == 0:
        raise HusaiError(
            f"data set '{name}': only one class among its {len(y)} rows; raise max_rows or remove "
            "the data set"
        )
    num_train = min(len(y) - MIN_TEST, MAX_TRAIN) if num_train is None else num_train
    n_pos = -(-num_train // 2)
    n_neg = num_train - n_pos
    if num_train < MIN_TRAIN or len(positive) <= n_pos or len(negative) <= n_neg:
        raise HusaiError(
            f"data set '{name}': {len(y)} rows ({len(positive)} of class 1) are too few for "
            f"{max(num_train, MIN_TRAIN)} balanced training "
            "rows and a test set; raise max_rows or remove the data set"
        )
    rng = np.random.RandomState(seed)
    train_pos = rng.choice(positive, size=n_pos, replace=False)
    train_neg = rng.choice(negative, size=n_neg, replace=False)
    left = np.ones(len(y), dtype=bool)
    left[train_pos], left[train_neg] = False, False
    rest_pos, rest_neg = positive[left[positive]], negative[left[negative]]
    if num_test is None:
        num_test = min(len(y) - num_train - 1, 2 * min(len(rest_pos), len(rest_neg)))
    test_pos = rng.choice(rest_pos, size=-(-num_test // 2), replace=False)
    test_neg = rng.choice(rest_neg, size=num_test - len(test_pos), replace=False)
    train = rng.permutation(np.concatenate([train_pos, train_neg]))
    return train, rng.permutation(np.concatenate([test_pos, test_neg]))


def select_features(
    encoder, data: ProbeData, max_k: int, *, seed: int = PROBE_SEED, device="cpu"
) -> Features:
    """Encode a data set, rank the latents on its training rows and keep the best ``max_k`` columns.

    ``encoder`` has ``d_in``, ``best(x, y, n)``, ``columns(x, latents)``, ``official_columns(x,
    latents)`` and ``best_is_official``; see :mod:`husai.probing.encoders`."""
    check_width(encoder, data)
    if len(data.x) != len(data.y):
        raise HusaiError(
            f"data set '{data.name}': {len(data.x)} activation rows for {len(data.y)} labels; run "
            "the probe activations again"
        )
    train, test = probe_split(data.y, seed, name=data.name)
    x, y = data.x.to(device), torch.as_tensor(data.y, device=device).long()
    train_rows, test_rows = (
        torch.as_tensor(train, device=device),
        torch.as_tensor(test, device=device),
    )
    trained_on = x.index_select(0, train_rows)
    best, columns = encoder.best(trained_on, y[train_rows], max_k)
    tested = encoder.columns(x.index_select(0, test_rows), best)
    official = (
        None
        if encoder.best_is_official
        else functools.partial(encoder.official_columns, trained_on, best)
    )
    return Features(
        data.name,
        data.family,
        columns,
        y[train_rows],
        tested,
        y[test_rows],
        best.tolist(),
        official,
    )


def check_width(encoder, data: ProbeData) -> None:
    """Refuse activations of another width than the encoder reads."""
    if data.x.shape[1] != encoder.d_in:
        raise HusaiError(
            f"data set '{data.name}': activations have d = {data.x.shape[1]} but the SAE has d_in "
            f"= {encoder.d_in}; "
            "probe the hook the SAE was trained on"
        )


def probe(
    features: Sequence[Features],
    ks: Sequence[int] = KS,
    *,
    penalty: str = "l1",
    Cs: Sequence[float] = C_GRID,
    seed: int = PROBE_SEED,
    compiled: bool | None = None,
) -> list[ProbeResult]:
    """Score the final probe of every data set and k on its test rows; see
    :func:`husai.probing.probes.final_probes`.
    """
    found = zip(
        features,
        final_probes(features, ks, penalty=penalty, Cs=Cs, seed=seed, compiled=compiled),
        strict=True,
    )
    return [result for f, chosen in found for result in _score(f, ks, chosen)]


def _score(f: Features, ks: Sequence[int], chosen: Chosen) -> list[ProbeResult]:
    prob, y = chosen.probabilities(f.test), f.y_test.cpu().numpy()
    measured = zip(
        ks,
        scores.auc(prob, y),
        chosen.val_auc,
        scores.accuracy(prob > 0.5, y),
        scores.weighted_f1(prob > 0.5, y),
        chosen.C,
        strict=True,
    )
    return [
        ProbeResult(
            f.name,
            f.family,
            k,
            float(auc),
            float(val),
            float(accuracy),
            float(f1),
            C,
            f.latents[:k],
            len(f.train),
            len(f.test),
        )
        for k, auc, val, accuracy, f1, C in measured
    ]


def probe_datasets(
    encoder,
    sources: Iterable[ProbeData],
    ks: Sequence[int] = KS,
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
    device="cpu",
    block: int | None = None,
    on_block: Callable[[list[ProbeResult]], None] | None = None,
    compiled: bool | None = None,
) -> list[ProbeResult]:
    """Probe every data set with the fast engine; ``on_block`` sees the results of ``block`` data
    sets at a time, as they come.

    ``sources`` may load lazily: of a data set's activations only the training rows are kept, and
    these until it is solved. With the compiled kernels (on a CPU, unless ``compiled`` says
    otherwise) each thread takes one data set from start to end and a block is one; in torch a
    block, by default of 8, is solved together."""
    check_ks(ks)
    compiled = torch.device(device).type == "cpu" if compiled is None else compiled
    block = block or (1 if compiled else TOGETHER)
    found: dict[int, list[ProbeResult]] = {}
    waiting: list[tuple[int, Any]] = []

    def prepare(data: ProbeData) -> Features | list[ProbeResult]:
        features = select_features(encoder, data, max(ks), seed=seed, device=device)
        return (
            probe([features], ks, penalty=penalty, seed=seed, compiled=True)
            if compiled
            else features
        )

    def finish() -> None:
        places, made = zip(*waiting, strict=True)
        results = made
        if not compiled:
            together = probe(made, ks, penalty=penalty, seed=seed, compiled=False)
            results = [together[i * len(ks) : (i + 1) * len(ks)] for i in range(len(made))]
        found.update(zip(places, results, strict=True))
        waiting.clear()
        if on_block is not None:
            on_block([r for result in results for r in result])

    if compiled:
        probe_kernels()
    for item in prepared(prepare, sources, device, 2 * TOGETHER):
        waiting.append(item)
        if len(waiting) >= block:
            finish()
    if waiting:
        finish()
    return [result for i in sorted(found) for result in found[i]]
