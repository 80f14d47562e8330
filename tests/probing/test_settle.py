"""Probes the flow does not settle: SAGA draw by draw against scikit-learn's, and when it is
asked.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from husai.probing.encoders import SAEEncoder
from husai.probing.probes import C_GRID, Features, final_probes, solve, validation_rows
from husai.probing.protocol import probe
from husai.probing.solver import settle
from husai.probing.solver.flow import GRID
from husai.probing.solver.logistic import fit
from husai.probing.solver.settle import Paths, Rows, choose, saga
from husai.sae import SAE

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"
)


def scikit_learns(x, y, C, max_iter=1000):
    """Intercept and weights of the official protocol's solver."""
    found = LogisticRegression(
        C=C, penalty="l1", solver="saga", random_state=42, max_iter=max_iter
    ).fit(x.astype(np.float64), y)
    return np.concatenate([found.intercept_, found.coef_[0]])


@given(
    st.integers(0, 10_000),
    st.integers(30, 250),
    st.integers(1, 20),
    st.sampled_from([0.1, 0.6, 1.0]),
    st.sampled_from([0.02, 1.0, 30.0]),
    st.integers(1, 80),
)
@settings(max_examples=60, deadline=None)
def test_saga_is_scikit_learns(seed, n, m, density, scale, epochs):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    x = (rng.exponential(size=(n, m)) * (rng.random((n, m)) < density) * scale).astype(np.float32)
    Cs = [1e5, 3.0, 0.05, 1e-4]
    together = saga(x, y, Cs, 42, epochs=epochs)
    for C, found in zip(Cs, together, strict=True):
        np.testing.assert_allclose(found, scikit_learns(x, y, C, epochs), rtol=1e-9, atol=1e-12)
        assert np.array_equal(found, saga(x, y, [C], 42, epochs=epochs)[0]), (
            "penalties side by side do not touch each other"
        )


def chance(seed, n=300, m=8, n_train=200):
    """Features unlike any label, correlated and large: SAGA is far from its optimum where it stops,
    and noise decides where that is.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    x = np.maximum(
        rng.normal(size=(n, 2)) @ rng.normal(size=(2, m)) + 0.3 * rng.normal(size=(n, m)) + 3.0, 0
    )
    x = (x * (rng.random((n, m)) < 0.7) * 8.0).astype(np.float32)
    parts = [torch.tensor(a[s]) for s in (slice(n_train), slice(n_train, n)) for a in (x, y)]
    return Features(str(seed), "x", *parts, list(range(m)))


def official(f, k):
    """Test AUC, validation AUC and C of ``find_best_reg``, restated."""
    x, y = f.train.numpy()[:, :k], f.y_train.numpy()
    n = len(x) - validation_rows(len(x))
    areas = [
        roc_auc_score(y[n:], x[n:] @ w[1:] + w[0])
        for w in (scikit_learns(x[:n], y[:n], C) for C in C_GRID)
    ]
    C, order = C_GRID[int(np.argmax(areas))], np.random.RandomState(42).permutation(len(x))
    w = scikit_learns(x[order], y[order], C)
    return roc_auc_score(f.y_test.numpy(), f.test.numpy()[:, :k] @ w[1:] + w[0]), max(areas), C


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("seed", [5, 9], ids=["where it stops", "stays at zero"])
def test_what_the_flow_leaves_open_is_settled_as_official(seed, compiled, monkeypatch):
    f = chance(seed)
    auc, val_auc, C = official(f, 2)
    (found,) = probe([f], [2], compiled=compiled)
    assert found.C == C
    assert (found.auc, found.val_auc) == pytest.approx((auc, val_auc), abs=1e-9)
    monkeypatch.setattr(settle, "MATTERS", np.inf)
    monkeypatch.setattr(settle, "WEAK_PULL", 0.0)
    assert abs(probe([f], [2], compiled=compiled)[0].auc - auc) > 0.002, (
        "the flow alone gives this one another AUC"
    )


def rows_of(x, y, test_x, test_y, n_fit, official=None):
    return Rows(x, y, n_fit, test_x, test_y, 42, official or (lambda: x))


def test_saga_is_asked_only_where_the_answer_could_change(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = np.stack([y + 0.1 * rng.random(60), rng.random(60)], 1).astype(np.float32)
    asked = []
    monkeypatch.setattr(settle, "saga", lambda *a, **k: asked.append(a[2]) or saga(*a, **k))
    good, poor = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])
    rows = rows_of(x, y, x, y, 40)
    strong = np.full((1, 2), 1e3)

    def chosen(late, early):
        asked.clear()
        return choose(rows, Paths(np.array([late]), np.array([early]), strong), [1.0, 0.1], [2])

    assert chosen([good, poor], [good, poor])[1] == [0] and not asked, "clear"
    assert chosen([good, good], [good, good])[1] == [0] and not asked, (
        "a tie goes to the first C, as official"
    )
    assert chosen([good, 2 * good], [poor, 2 * good])[1] == [0] and not asked, (
        "open, but the two have the same test AUC"
    )
    val_auc, choice = chosen([poor, good], [good, good])
    assert asked == [[1.0, 0.1]]
    areas = [roc_auc_score(y[40:], x[40:] @ w[1:]) for w in saga(x[:40], y[:40], [1.0, 0.1], 42)]
    assert val_auc[0] == max(areas) and choice[0] == int(np.argmax(areas))


def test_saga_reads_the_columns_of_the_official_engine(monkeypatch):
    x, y = np.random.default_rng(0).random((60, 2)).astype(np.float32), np.arange(60) % 2
    seen = []
    monkeypatch.setattr(settle, "saga", lambda x, *a, **k: seen.append(x) or saga(x, *a, **k))
    rows = rows_of(x, y, x, y, 40, lambda: x + 1.0)
    rows.saga(2, [1.0])
    rows.final_saga(1, 1.0)
    assert np.array_equal(seen[0], x[:40] + 1.0)
    assert np.array_equal(seen[1], (x + 1.0)[np.random.RandomState(42).permutation(60), :1])


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu"])
def test_official_columns_are_those_of_the_whole_code(architecture):
    g = torch.Generator().manual_seed(0)
    W = torch.randn(16, 64, generator=g)
    threshold = torch.rand(64, generator=g) if architecture == "jumprelu" else None
    sae = SAE(
        architecture,
        W,
        W.T.clone(),
        torch.zeros(64),
        torch.zeros(16),
        threshold,
        5 if architecture == "topk" else None,
    )
    x, latents = torch.randn(300, 16, generator=g), torch.tensor([5, 1, 60])
    whole = torch.cat([sae.encode(part) for part in x.split(128)])
    assert torch.equal(SAEEncoder(sae).official_columns(x, latents), whole[:, latents])


def test_both_engines_know_the_same_of_a_path():
    f = chance(3)
    x, y, n = f.train, f.y_train, 150
    Cs = [1e5, 0.3, 0.02, 1e-4]
    weight = torch.where(torch.arange(len(x)) < n, 1.0 / n, 0.0)[None]
    support = torch.ones(4, 8, dtype=torch.bool)
    found = fit(
        torch.where(weight.mT > 0, x, 0.0)[None], y[None], weight, support, torch.tensor(Cs)
    )
    mine = solve(x.numpy(), y.numpy(), n, [8], np.array([Cs]))
    late = torch.cat([found.intercept.unsqueeze(-1), found.coef], -1)
    for ours, theirs in ((mine.late, late), (mine.early, found.early)):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-3 * float(late.abs().max()))
    np.testing.assert_allclose(mine.pull, found.pull.numpy(), rtol=1e-3)


def test_early_points_differ_where_the_path_still_moves():
    f = chance(3)
    paths = solve(f.train.numpy(), f.y_train.numpy(), 150, [8], np.array([[1e5, 1e-4]]))
    assert (
        np.abs(paths.late[0, 0] - paths.early[0, 0]).max() > 1e-3 * np.abs(paths.late[0, 0]).max()
    )
    assert np.array_equal(paths.late[0, 1], paths.early[0, 1]) and paths.pull[0, 1] <= 1.0, (
        "excluded by the penalty"
    )


def test_paths_that_were_not_finished_are_left_to_saga(monkeypatch):
    def cut_short(x, y, n, ks, Cs, penalty="l1", rules=GRID):
        return solve(x, y, n, ks, Cs, penalty, rules._replace(max_steps=2))

    f = chance(9)
    unfinished = cut_short(f.train.numpy(), f.y_train.numpy(), 150, [4], np.array([[1e5]]))
    assert not unfinished.early.any() and unfinished.late.any()
    monkeypatch.setattr("husai.probing.probes.solve", cut_short)
    (found,) = probe([f], [4])
    assert (found.auc, found.val_auc, found.C) == pytest.approx(official(f, 4), abs=1e-9)


@pytest.mark.parametrize("compiled", [True, False])
def test_saga_may_leave_zero_where_the_flow_does_not(compiled):
    f = chance(148, n=1400, n_train=1024)
    assert (
        not solve(f.train.numpy(), f.y_train.numpy(), 1024, [2], np.array([[C_GRID[6]]]))
        .late[..., 1:]
        .any()
    )
    (found,) = probe([f], [2], compiled=compiled)
    assert (found.auc, found.val_auc, found.C) == pytest.approx(official(f, 2), abs=1e-9)


def test_another_seed_of_the_protocol_gives_another_settled_probe():
    f = chance(5)
    assert (
        final_probes([f], [2], seed=1)[0].models.tolist()
        != final_probes([f], [2], seed=42)[0].models.tolist()
    )
