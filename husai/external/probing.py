"""Sparse probing of many data sets at once: sae-probes' protocol (splits, ranking, grid, validation rule), solved as one batch.

The protocol is that of ``run_sae_evals(setting="normal")`` in sae-probes 0.4.2 (Kantamneni et al. 2502.16681), which SAEBench wraps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import expit

from husai.errors import HusaiError
from husai.external import scores
from husai.external.logistic import fit
from husai.external.parallel import one_thread, prepared

PROBE_SEED = 42
MAX_TRAIN = 1024
MIN_TEST = 100
MIN_TRAIN = 128
VALIDATION_ROWS = 100
MAX_K = 128
WEAK_PENALTY = 2.0e-7
C_GRID = tuple(float(c) for c in np.logspace(5, -5, 10))
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


class Features(NamedTuple):
    """The candidate features of one data set, best first; a probe at k uses the first k columns."""

    name: str
    family: str
    train: torch.Tensor
    """``(n_train, max_k)``"""
    y_train: torch.Tensor
    test: torch.Tensor
    """``(n_test, max_k)``"""
    y_test: torch.Tensor
    latents: list[int]


def probe_split(
    y: np.ndarray, seed: int = PROBE_SEED, *, num_train: int | None = None, num_test: int | None = None, name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Training and test rows of sae-probes: balanced draws, ``min(n - 100, 1024)`` to train, all but one of the rest to test.

    Follows ``get_xy_traintest`` and ``get_train_test_indices`` draw by draw. When a row limit left the classes unequal, the test set
    shrinks to the largest balanced one; the training rows are those of :func:`husai.external.datasets.probe_train_rows`.

    Raises
    ------
    HusaiError
        One class only, or fewer than 128 training rows.
    """
    y = np.asarray(y)
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    if len(positive) == 0 or len(negative) == 0:
        raise HusaiError(f"data set '{name}': only one class among its {len(y)} rows; raise max_rows or remove the data set")
    num_train = min(len(y) - MIN_TEST, MAX_TRAIN) if num_train is None else num_train
    n_pos = -(-num_train // 2)
    n_neg = num_train - n_pos
    if num_train < MIN_TRAIN or len(positive) <= n_pos or len(negative) <= n_neg:
        raise HusaiError(
            f"data set '{name}': {len(y)} rows ({len(positive)} of class 1) are too few for {max(num_train, MIN_TRAIN)} balanced training "
            "rows and a test set; raise max_rows or remove the data set"
        )
    rng = np.random.RandomState(seed)
    train_pos = rng.choice(positive, size=n_pos, replace=False)
    train_neg = rng.choice(negative, size=n_neg, replace=False)
    rest_pos, rest_neg = np.setdiff1d(positive, train_pos), np.setdiff1d(negative, train_neg)
    if num_test is None:
        num_test = min(len(y) - num_train - 1, 2 * min(len(rest_pos), len(rest_neg)))
    test_pos = rng.choice(rest_pos, size=-(-num_test // 2), replace=False)
    test_neg = rng.choice(rest_neg, size=num_test - len(test_pos), replace=False)
    train = rng.permutation(np.concatenate([train_pos, train_neg]))
    return train, rng.permutation(np.concatenate([test_pos, test_neg]))


def select_features(encoder, data: ProbeData, max_k: int, *, seed: int = PROBE_SEED, device="cpu") -> Features:
    """Encode a data set, rank the latents on its training rows and keep the best ``max_k`` columns.

    ``encoder`` has ``d_in``, ``best(x, y, n)`` and ``columns(x, latents)``; see :mod:`husai.external.latents`.
    """
    check_width(encoder, data)
    if len(data.x) != len(data.y):
        raise HusaiError(f"data set '{data.name}': {len(data.x)} activation rows for {len(data.y)} labels; run the probe activations again")
    train, test = probe_split(data.y, seed, name=data.name)
    x, y = data.x.to(device), torch.as_tensor(data.y, device=device)
    train_rows, test_rows = torch.as_tensor(train, device=device), torch.as_tensor(test, device=device)
    best, columns = encoder.best(x[train_rows], y[train_rows], max_k)
    return Features(data.name, data.family, columns, y[train_rows], encoder.columns(x[test_rows], best), y[test_rows], best.tolist())


def check_width(encoder, data: ProbeData) -> None:
    """Refuse activations of another width than the encoder reads."""
    if data.x.shape[1] != encoder.d_in:
        raise HusaiError(
            f"data set '{data.name}': activations have d = {data.x.shape[1]} but the SAE has d_in = {encoder.d_in}; "
            "probe the hook the SAE was trained on"
        )


class Chosen(NamedTuple):
    """The final probes of a batch of data sets, at every k."""

    coef: torch.Tensor
    """``(G, K, m)``"""
    intercept: torch.Tensor
    """``(G, K)``"""
    val_auc: torch.Tensor
    """``(G, K)``"""
    C: list[list[float]]

    def probabilities(self, i: int, x: torch.Tensor) -> torch.Tensor:
        """Probabilities of class 1 ``(K, n)``, on the CPU, of rows ``x (n, m)`` of data set i."""
        return _probabilities(x, self.coef[i], self.intercept[i])


def probe(features: Sequence[Features], ks: Sequence[int] = KS, *, penalty: str = "l1", Cs: Sequence[float] = C_GRID) -> list[ProbeResult]:
    """Score the final probe of every data set and k on its test rows; see :func:`final_probes`."""
    if not features:
        return []
    with one_thread(features[0].train.device):
        chosen = final_probes(features, ks, penalty=penalty, Cs=Cs)
        return [result for i, f in enumerate(features) for result in _score(f, i, ks, chosen)]


def final_probes(features: Sequence[Features], ks: Sequence[int], *, penalty: str = "l1", Cs: Sequence[float] = C_GRID) -> Chosen:
    """Choose C on validation rows and fit the final probe of every data set and k; one batch for all.

    The last ``min(n_train / 5, 100)`` training rows validate; the first C with the highest validation AUC wins and is fitted
    again on all training rows (``find_best_reg``).
    """
    check_ks(ks)
    device = features[0].train.device
    n_train = torch.tensor([len(f.train) for f in features])
    n_val = torch.tensor([validation_rows(len(f.train)) for f in features])
    X, y, rows = _pad([f.train for f in features], [f.y_train for f in features])
    support = _support(ks, X.shape[-1], device)
    grid = torch.tensor(Cs, dtype=torch.float64, device=device)
    n_fit = (n_train - n_val).to(device)
    fold = torch.where(rows < n_fit.unsqueeze(1), 1.0 / n_fit.unsqueeze(1), 0.0)
    K, n_C = len(ks), len(Cs)
    solved, copy_of = _distinct(Cs, int(n_fit.min()), penalty)
    path = fit(X * (fold > 0).unsqueeze(-1), y, fold, support.repeat_interleave(len(solved), 0), grid[solved].repeat(K), penalty=penalty)
    places = (torch.arange(K, device=device).unsqueeze(1) * len(solved) + torch.tensor(copy_of, device=device)).flatten()
    val_auc, choice = torch.zeros(len(features), K, dtype=torch.float64), torch.zeros(len(features), K, dtype=torch.int64)
    for i, f in enumerate(features):
        held = slice(int(n_fit[i]), len(f.train))
        prob = _probabilities(f.train[held], path.coef[i, places], path.intercept[i, places]).view(K, n_C, -1)
        val_auc[i], choice[i] = best_of_grid(prob, f.y_train[held].cpu())
    full = torch.where(rows < n_train.to(device).unsqueeze(1), 1.0 / n_train.to(device).unsqueeze(1), 0.0)
    final = fit(X, y, full, support, grid[choice.to(device)], penalty=penalty)
    return Chosen(final.coef, final.intercept, val_auc, [[Cs[c] for c in row] for row in choice.tolist()])


def _distinct(Cs: Sequence[float], n: int, penalty: str) -> tuple[list[int], list[int]]:
    """Positions in the grid to solve, and for every C which of those stands for it.

    Values of C whose l1 penalty on the mean loss is below 2e-7, the resolution of the official float32 iterates, share one solution.
    """
    weak = [i for i, C in enumerate(Cs) if penalty == "l1" and 1.0 / (C * n) < WEAK_PENALTY]
    solved = [i for i in range(len(Cs)) if i not in weak[:-1]]
    return solved, [solved.index(weak[-1] if i in weak else i) for i in range(len(Cs))]


def validation_rows(n_train: int) -> int:
    """How many of the last training rows validate C: a fifth, at most 100 (``get_cv`` from 128 rows up)."""
    return min(int(0.2 * n_train), VALIDATION_ROWS)


def check_ks(ks: Sequence[int]) -> None:
    """Refuse values of k that the batched solver is not made for."""
    if not ks or any(not isinstance(k, int) or k < 1 for k in ks):
        raise HusaiError(f"external.probing.ks: positive integers are needed, got {list(ks)}")
    if max(ks) > MAX_K:
        raise HusaiError(f"external.probing.ks: the fast engine solves k up to {MAX_K}, got {max(ks)}; use engine: official for it")


def best_of_grid(prob: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Best validation AUC ``(K,)`` over the grid of C of ``prob (K, n_C, n)`` and its position; ties as the official argmax breaks them."""
    val = scores.auc(prob, y).cpu()
    tied = val > val.amax(-1, keepdim=True) - 1e-9
    labels, prob = y.numpy(), prob.numpy()
    choice = torch.zeros(len(val), dtype=torch.int64)
    for i in range(len(val)):
        places = tied[i].nonzero().squeeze(1).tolist()
        choice[i] = places[int(np.argmax([scores.trapezoid_auc(prob[i, c], labels) for c in places]))] if len(places) > 1 else places[0]
    return val.amax(-1), choice


def _support(ks: Sequence[int], m: int, device) -> torch.Tensor:
    return torch.arange(m, device=device).unsqueeze(0) < torch.tensor(list(ks), device=device).unsqueeze(1)


def _pad(blocks: Sequence[torch.Tensor], labels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``X (G, n, m)`` with zero padding, ``y (G, n)``, row numbers ``(1, n)``."""
    n = max(len(b) for b in blocks)
    m = max(b.shape[1] for b in blocks)
    X = blocks[0].new_zeros(len(blocks), n, m)
    y = torch.zeros(len(blocks), n, dtype=torch.int64, device=X.device)
    for i, (b, labelled) in enumerate(zip(blocks, labels, strict=True)):
        X[i, : len(b), : b.shape[1]] = b
        y[i, : len(b)] = labelled
    return X, y, torch.arange(n, device=X.device).unsqueeze(0)


def _probabilities(x: torch.Tensor, coef: torch.Tensor, intercept: torch.Tensor) -> torch.Tensor:
    """``(P, n)`` float32 probabilities of class 1 on the CPU, with the ties scikit-learn's have.

    Decision values are summed in float64 and rounded, so that equal rows score the same whatever the order of the sum, and go through
    the scalar sigmoid that scikit-learn uses: a vectorised one differs in the last bit between its lanes and its remainder.
    """
    found = coef[:, : x.shape[1]].double() @ x.double().T + intercept.double().unsqueeze(1)
    return torch.from_numpy(expit(found.float().cpu().numpy()))


def _score(f: Features, i: int, ks: Sequence[int], chosen: Chosen) -> list[ProbeResult]:
    prob, y = chosen.probabilities(i, f.test), f.y_test.cpu()
    measured = (scores.auc(prob, y), scores.accuracy(prob - 0.5, y), scores.weighted_f1(prob - 0.5, y))
    auc, accuracy, f1 = (values.tolist() for values in measured)
    return [
        ProbeResult(
            f.name,
            f.family,
            k,
            auc[j],
            float(chosen.val_auc[i, j]),
            accuracy[j],
            f1[j],
            chosen.C[i][j],
            f.latents[:k],
            len(f.train),
            len(f.test),
        )
        for j, k in enumerate(ks)
    ]


def probe_datasets(
    encoder,
    sources: Iterable[ProbeData],
    ks: Sequence[int] = KS,
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
    device="cpu",
    block: int = 8,
    on_block: Callable[[list[ProbeResult]], None] | None = None,
) -> list[ProbeResult]:
    """Probe every data set with the fast engine, ``block`` of them at a time; ``on_block`` sees each block's results as they come.

    ``sources`` may load lazily: a data set's activations are dropped once its best columns are taken.
    """
    check_ks(ks)
    by_source: dict[int, list[ProbeResult]] = {}
    waiting: list[tuple[int, Features]] = []

    def solve() -> None:
        found = probe([f for _, f in waiting], ks, penalty=penalty)
        for place, (i, _) in enumerate(waiting):
            by_source[i] = found[place * len(ks) : (place + 1) * len(ks)]
        waiting.clear()
        if on_block is not None:
            on_block(found)

    for item in prepared(lambda data: select_features(encoder, data, max(ks), seed=seed, device=device), sources, device, 2 * block):
        waiting.append(item)
        if len(waiting) >= block:
            solve()
    if waiting:
        solve()
    return [result for i in sorted(by_source) for result in by_source[i]]
