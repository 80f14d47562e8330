"""The final probes: the path against scikit-learn's SAGA, the choice of C and the final fit against
the official rules restated, and when scikit-learn itself is asked.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from husai.errors import HusaiError
from husai.probing import solver
from husai.probing.solver import C_GRID, FINAL_RATIO, Features, choose, fit_probes, follow, refit

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"
)


def features(x, y, n_train):
    parts = [np.ascontiguousarray(a) for a in (x[:n_train], y[:n_train], x[n_train:], y[n_train:])]
    return Features("x", "x", *parts, list(range(x.shape[1])))


def sparse(seed=0, n=400, m=8, scale=1.0, density=0.4, signal=1.0):
    """Sparse non-negative features, the first of which carry the label; all rows train but 10."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n + 10) % 2)
    x = rng.exponential(size=(n + 10, m)) + signal * y[:, None] * np.linspace(1, 0, m)
    return features((x * (rng.random((n + 10, m)) < density) * scale).astype(np.float32), y, n)


def chance(seed, n=300, m=8, n_train=200):
    """Features unlike any label, correlated and large: SAGA is far from its optimum where it stops,
    and noise decides where that is.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    x = np.maximum(
        rng.normal(size=(n, 2)) @ rng.normal(size=(2, m)) + 0.3 * rng.normal(size=(n, m)) + 3.0, 0
    )
    return features((x * (rng.random((n, m)) < 0.7) * 8.0).astype(np.float32), y, n_train)


def logistic(x, y, C, penalty="l1"):
    """Intercept and weights of the official protocol's solver."""
    how = {"penalty": "l1", "solver": "saga"} if penalty == "l1" else {}
    found = LogisticRegression(C=C, random_state=42, max_iter=1000, **how).fit(
        x.astype(np.float64), y
    )
    return np.concatenate([found.intercept_, found.coef_[0]])


def official(f, k, penalty="l1", Cs=C_GRID):
    """Test AUC, validation AUC and C of ``find_best_reg`` of sae-probes 0.4.2, restated."""
    x, y = f.train[:, :k], f.y_train
    areas = []
    for C in Cs:
        w = logistic(x[: f.n_fit], y[: f.n_fit], C, penalty)
        areas.append(roc_auc_score(y[f.n_fit :], x[f.n_fit :] @ w[1:] + w[0]))
    C, order = Cs[int(np.argmax(areas))], np.random.RandomState(42).permutation(len(x))
    w = logistic(x[order], y[order], C, penalty)
    return roc_auc_score(f.y_test, f.test[:, :k] @ w[1:] + w[0]), max(areas), C


def found_by(f, k, **options):
    probes = fit_probes(f, [k], **options)
    return solver.auc_on_test(f, probes.models)[0], probes.val_auc[0], probes.C[0]


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_a_path_ends_where_saga_stops(scale):
    f = sparse(scale=scale)
    late, _ = follow(f, len(f.train), [8], [C_GRID], FINAL_RATIO)
    for C, found in zip(C_GRID, late[0], strict=True):
        saga = logistic(f.train, f.y_train, C)
        size = max(np.abs(saga[1:]).max(), 1e-3)
        assert np.abs(found[1:] - saga[1:]).max() < 0.02 * size
        if saga[1:].any():  # with no feature in, SAGA's intercept after one epoch is arbitrary
            assert found[0] == pytest.approx(saga[0], abs=0.03)


@given(
    st.integers(0, 10_000),
    st.integers(60, 400),
    st.integers(1, 9),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from([0.05, 1.0, 5.0]),
)
@settings(max_examples=25, deadline=None)
def test_probes_of_informative_features_have_the_official_auc(seed, n, m, density, scale):
    f = sparse(seed, n + 300, m, scale, density, signal=2.0)
    f = f._replace(test=f.train[-300:], y_test=f.y_train[-300:])
    f = f._replace(train=f.train[:-300], y_train=f.y_train[:-300])
    auc, val_auc, _ = official(f, m)
    if val_auc >= 0.6:
        assert found_by(f, m)[0] == pytest.approx(auc, abs=2e-3)


@pytest.mark.parametrize("change", ["constant", "zero", "separable", "one column", "many columns"])
def test_special_columns_are_solved(change):
    f = sparse(3, n=500, m=21 if change == "many columns" else 6)
    x = f.train.copy()
    if change == "constant":
        x[:, 2] = 1.5
    if change == "zero":
        x[:, 2] = 0.0
    if change == "separable":
        x[:, 0] = 4.0 * f.y_train
    f = f._replace(train=np.ascontiguousarray(x[:, :1]) if change == "one column" else x)
    late, _ = follow(f, 500, [f.train.shape[1]], [[1e5, 1.0, 0.02]], FINAL_RATIO)
    for C, found in zip([1e5, 1.0, 0.02], late[0], strict=True):
        saga = logistic(f.train, f.y_train, C)
        theirs = f.train @ saga[1:] + saga[0]
        mine = f.train @ found[1:] + found[0]
        np.testing.assert_allclose(mine, theirs, atol=0.02 * np.abs(theirs).max())
    if change == "zero":
        assert (late[0][:, 3] == 0).all(), "a column of zeros gets no weight"


def test_one_feature_of_many_is_the_problem_of_that_feature_alone():
    f = sparse(5, m=16)
    alone = f._replace(train=np.ascontiguousarray(f.train[:, :1]))
    among = follow(f, 400, [1], [[10.0, 0.1]], FINAL_RATIO)[0]
    assert np.array_equal(among[..., :2], follow(alone, 400, [1], [[10.0, 0.1]], FINAL_RATIO)[0])
    assert not among[..., 2:].any()


def test_rows_past_the_training_rows_do_not_count():
    f = sparse(6)
    part = f._replace(train=f.train[:200], y_train=f.y_train[:200])
    whole, half = (follow(g, 200, [4], [[1.0]], FINAL_RATIO)[0] for g in (f, part))
    assert np.array_equal(whole, half)


def test_features_that_fire_together_do_not_throw_the_path_off():
    # Steps that are stable for the linear model alone end at weights in the thousands here.
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(1024) % 2)
    together = (y == 0) | (rng.random(1024) < 0.3)
    x = 3 * (together[:, None] & (rng.random((1024, 16)) < np.where(y[:, None] == 0, 0.99, 1.0)))
    f = features(x.astype(np.float32), y, 1024)
    saga, found = logistic(f.train, y, 0.0215), follow(f, 1024, [16], [[0.0215]], FINAL_RATIO)[0]
    decision = f.train @ saga[1:] + saga[0]
    np.testing.assert_allclose(
        f.train @ found[0, 0, 1:] + found[0, 0, 0], decision, atol=0.02 * np.abs(decision).max()
    )


def test_a_step_too_long_for_the_linear_model_is_taken_back():
    # Tiny features make SAGA's step huge; one linear step of that length would overshoot into
    # saturation and stay there.
    f = sparse(7, n=700, scale=0.02)
    saga, found = logistic(f.train, f.y_train, 1e5), follow(f, 700, [8], [[1e5]], FINAL_RATIO)[0]
    np.testing.assert_allclose(found[0, 0, 1:], saga[1:], atol=0.02 * np.abs(saga[1:]).max())


def test_a_feature_the_penalty_excludes_gets_no_weight():
    f = sparse(scale=1e-4)
    late, early = follow(f, 400, [8], [[1e-5]], FINAL_RATIO)
    assert not late[..., 1:].any() and np.array_equal(late, early)


def test_early_points_differ_where_the_path_still_moves():
    f = sparse(scale=4.0)
    late, early = follow(f, 400, [8], [[1e5, 1e-3]], FINAL_RATIO)
    assert np.abs(late[0, 0] - early[0, 0]).max() > 1e-3 * np.abs(late[0, 0]).max()
    assert np.array_equal(late[0, 1], early[0, 1]), "excluded by the penalty"


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_l2_probes_are_the_official_ones(scale, monkeypatch):
    f = sparse(4, n=600, scale=scale)
    Cs = [1e2 / scale**2, 1.0 / scale**2]
    monkeypatch.setattr(solver, "C_GRID", Cs)
    assert found_by(f, 8, penalty="l2") == pytest.approx(official(f, 8, "l2", Cs), abs=1e-9)


def test_what_the_paths_leave_open_is_settled_by_scikit_learn():
    # SAGA may stay at zero at the C that the flow likes best.
    f = chance(9)
    assert found_by(f, 2) == pytest.approx(official(f, 2), abs=1e-9)
    late, _ = follow(f, f.n_fit, [2], [C_GRID], FINAL_RATIO)
    areas = solver.auc_on_validation(f, late[0])
    assert areas.max() > official(f, 2)[1] + 0.002, "the flow alone gives this one another AUC"


def test_scikit_learn_is_asked_only_where_the_answer_could_change(monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(160) % 2
    x = np.stack([y + 0.1 * rng.random(160), rng.random(160)], 1).astype(np.float32)
    f = features(x, y, 100)
    asked = []
    monkeypatch.setattr(solver, "refit", lambda *a, **k: asked.append(a[2]) or refit(*a, **k))
    good, poor = np.array([0.0, 1.0, 0.0]), np.array([0.0, 0.0, 1.0])

    def chosen(late, early):
        asked.clear()
        return choose(f, 2, [1.0, 0.1], np.array(late), np.array(early), 42)[0]

    assert chosen([good, poor], [good, poor]) == 1.0 and not asked, "clear"
    assert chosen([good, good], [good, good]) == 1.0 and not asked, (
        "a tie goes to the first C, as official"
    )
    assert chosen([good, 2 * good], [poor, 2 * good]) == 1.0 and not asked, (
        "open, but the two have the same test AUC"
    )
    assert chosen([poor, good], [good, good]) == 1.0
    assert asked == [0.1, 1.0], "the best one first, then its rival"


def test_paths_that_were_not_finished_are_left_to_scikit_learn(monkeypatch):
    def cut_short(f, n, ks, Cs, ratio):
        late, early = follow(f, n, ks, Cs, ratio)
        return 0.01 * late, 0.0 * early

    f = chance(9)
    monkeypatch.setattr(solver, "follow", cut_short)
    assert found_by(f, 4) == pytest.approx(official(f, 4), abs=1e-9)


def test_another_seed_of_the_protocol_gives_another_settled_probe():
    f = chance(9)
    models = [refit(f, 2, 1.0, "l1", seed, final=True).tolist() for seed in (1, 42)]
    assert models[0] != models[1]


@pytest.mark.parametrize("ks", [[], [0], [4096]])
def test_unusable_ks_are_refused(ks):
    with pytest.raises(HusaiError, match=r"external\.probing\.ks"):
        fit_probes(sparse(), ks)


def test_an_unknown_penalty_is_refused():
    with pytest.raises(HusaiError, match=r"external\.probing\.penalty: 'l3'"):
        fit_probes(sparse(), [1], penalty="l3")
