"""The compiled kernels of the probing engine against the torch engine, scikit-learn and plain
statements of what they compute.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from husai.compiled import kernel, probe_kernels
from husai.probing import codes, scores
from husai.probing.encoders import SAEEncoder
from husai.probing.probes import Features, final_probes, solve
from husai.probing.solver.logistic import fit
from husai.sae import SAE

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"
)


def rows(seed, n=300, m=8, density=0.4, scale=1.0, signal=1.0):
    """Sparse non-negative features, the first of which carry the label."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    x = rng.exponential(size=(n, m)) + signal * y[:, None] * np.linspace(1, 0, m)
    return (x * (rng.random((n, m)) < density) * scale).astype(np.float32), y


def in_torch(x, y, Cs, penalty="l1"):
    """Models ``(n_C, 1 + m)`` of the torch engine."""
    n, m = x.shape
    support = torch.ones(len(Cs), m, dtype=torch.bool)
    found = fit(
        torch.tensor(x)[None],
        torch.tensor(y)[None],
        torch.full((1, n), 1 / n),
        support,
        torch.tensor(Cs),
        penalty=penalty,
    )
    return torch.cat([found.intercept[0].unsqueeze(1), found.coef[0]], 1).numpy()


def by_kernels(x, y, Cs, penalty="l1"):
    return solve(x, y, len(x), [x.shape[1]], np.array([Cs]), penalty).late[0]


def assert_same_probes(mine, theirs, x):
    """Decision values agree on every row to a thousandth of their spread."""
    for a, b in zip(mine, theirs, strict=True):
        one, other = x @ a[1:] + a[0], x @ b[1:] + b[0]
        np.testing.assert_allclose(one, other, atol=1e-3 * max(np.abs(other).max(), 1.0))


@given(
    st.integers(0, 10_000),
    st.integers(40, 400),
    st.integers(1, 9),
    st.sampled_from([0.1, 0.5, 1.0]),
    st.sampled_from([0.05, 1.0, 5.0]),
    st.sampled_from(["l1", "l2"]),
)
@settings(max_examples=60, deadline=None)
def test_kernels_follow_the_path_of_the_torch_engine(seed, n, m, density, scale, penalty):
    x, y = rows(seed, n, m, density, scale)
    Cs = [1e5, 10.0, 0.3, 0.01]
    assert_same_probes(by_kernels(x, y, Cs, penalty), in_torch(x, y, Cs, penalty), x)


@pytest.mark.parametrize(
    "change", ["nothing", "constant", "zero", "separable", "one column", "many columns"]
)
def test_special_columns_are_solved_as_in_torch(change):
    x, y = rows(3, n=500, m=21 if change == "many columns" else 6)
    if change == "constant":
        x[:, 2] = 1.5
    if change == "zero":
        x[:, 2] = 0.0
    if change == "separable":
        x[:, 0] = 4.0 * y
    x = np.ascontiguousarray(x[:, :1]) if change == "one column" else x
    mine = by_kernels(x, y, [1e5, 1.0, 0.02])
    assert_same_probes(mine, in_torch(x, y, [1e5, 1.0, 0.02]), x)
    if change == "zero":
        assert (mine[:, 3] == 0).all(), "a column of zeros gets no weight"


def test_one_feature_of_many_is_the_problem_of_that_feature_alone():
    x, y = rows(5, m=16)
    alone = by_kernels(np.ascontiguousarray(x[:, :1]), y, [10.0, 0.1])
    among = solve(x, y, len(x), [1], np.array([[10.0, 0.1]])).late[0]
    assert np.array_equal(among[:, :2], alone) and (among[:, 2:] == 0).all()


def test_rows_past_the_training_rows_do_not_count():
    x, y = rows(6)
    assert np.array_equal(
        solve(x, y, 200, [4], np.array([[1.0]])).late,
        solve(x[:200], y[:200], 200, [4], np.array([[1.0]])).late,
    )


@pytest.mark.parametrize("solver", [by_kernels, in_torch])
def test_features_that_fire_together_do_not_throw_the_path_off(solver):
    # Steps that are stable for the linear model alone end at weights in the thousands here.
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(1024) % 2)
    together = (y == 0) | (rng.random(1024) < 0.3)
    x = (
        3 * (together[:, None] & (rng.random((1024, 16)) < np.where(y[:, None] == 0, 0.99, 1.0)))
    ).astype(np.float32)
    saga = LogisticRegression(
        C=0.0215, penalty="l1", solver="saga", random_state=42, max_iter=1000
    ).fit(x, y)
    found = solver(x, y, [0.0215])[0]
    decision = x @ saga.coef_[0] + saga.intercept_
    np.testing.assert_allclose(
        x @ found[1:] + found[0], decision, atol=0.02 * np.abs(decision).max()
    )


def test_number_of_threads_changes_nothing():
    features = [feature_set(seed) for seed in range(5)]
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(final_probes(features, [1, 4]))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (
                np.array_equal(a.models, b.models)
                and np.array_equal(a.val_auc, b.val_auc)
                and a.C == b.C
            )


def feature_set(seed, n=400):
    x, y = rows(seed, n)
    half = 3 * n // 4
    parts = [(torch.tensor(x[s]), torch.tensor(y[s])) for s in (slice(half), slice(half, n))]
    return Features(f"{seed}_x", "x", *parts[0], *parts[1], list(range(x.shape[1])))


def test_both_engines_choose_the_same_probe():
    features = [feature_set(seed, 400 + 60 * seed) for seed in range(4)]
    for f, mine, theirs in zip(
        features,
        final_probes(features, [1, 3, 8]),
        final_probes(features, [1, 3, 8], compiled=False),
        strict=True,
    ):
        assert mine.C == theirs.C
        np.testing.assert_allclose(mine.val_auc, theirs.val_auc, atol=1e-12)
        np.testing.assert_allclose(
            mine.probabilities(f.test), theirs.probabilities(f.test), atol=1e-3
        )


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), min_size=2, max_size=128),
    st.sampled_from([1 / 12, 1e-6, 1e-300]),
)
@settings(max_examples=150, deadline=None)
def test_compiled_areas_have_the_last_bit_of_scikit_learns(pairs, scale):
    values, y = np.array([v * scale for v, _ in pairs]), np.array([int(b) for _, b in pairs])
    if len(set(y)) == 2:
        out = np.empty(1)
        probe_kernels().rows.trapezoids(scores.keys(values[None], y), out)
        assert out[0] == scores.trapezoid_auc(values, y)


def sae_of(architecture, d_sae, k, seed=0, d_in=12):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(d_in, d_sae, generator=g)
    threshold = (
        torch.randn(d_sae, generator=g) if architecture in ("jumprelu", "batchtopk") else None
    )
    return SAE(
        architecture,
        W,
        W.T.clone(),
        torch.randn(d_sae, generator=g),
        torch.randn(d_in, generator=g),
        threshold,
        k,
    )


@pytest.mark.parametrize("architecture", ["topk", "transcoder", "relu", "jumprelu", "batchtopk"])
@pytest.mark.parametrize(("d_sae", "k"), [(60, 5), (256, 32), (301, 40), (130, 130), (150, 1)])
@torch.inference_mode()
def test_class_sums_and_columns_are_those_of_the_dense_code(architecture, d_sae, k):
    sae = sae_of(architecture, d_sae, k)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(600, 12, generator=g), torch.randint(0, 2, (600,), generator=g)
    x[7] = sae.b_dec - 100 * sae.W_enc.mean(1)  # few positive pre-activations
    z, code = sae.encode(x), codes.ClassSums(sae, x, y)
    latents = torch.randperm(d_sae, generator=g)[:20]
    torch.testing.assert_close(code.columns(latents), z[:, latents])
    torch.testing.assert_close(code.fired, (z != 0).sum(0).float())
    torch.testing.assert_close(
        code.sums, torch.stack([z[y == 0].sum(0), z[y == 1].sum(0)]), rtol=1e-4, atol=1e-3
    )
    if architecture in codes.TOP_K:
        torch.testing.assert_close(codes.top_k_columns(sae, x, latents), z[:, latents])


def official_order(z, y):
    """``mean_act_normalization`` and ``get_sorted_indices`` of sae-probes, on all latents at
    once.
    """
    z = z / (z.abs().sum(0) / ((z != 0).sum(0) + 1e-6) + 1e-6)
    return torch.argsort(torch.abs(z[y == 1].mean(0) - z[y == 0].mean(0)), descending=True)


@pytest.mark.parametrize("architecture", ["topk", "relu"])
@pytest.mark.parametrize("alike", ["none", "two", "hundred", "dead"])
@torch.inference_mode()
def test_best_latents_are_the_official_ones_where_many_are_alike(architecture, alike):
    sae = sae_of(architecture, 256, 32, seed=2)
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(700, 12, generator=g), torch.randint(0, 2, (700,), generator=g)
    best = int(official_order(sae.encode(x), y)[0])
    copies = {"none": [], "two": [200], "hundred": range(100, 200), "dead": range(12, 256)}[alike]
    for j in copies:
        sae.W_enc[:, j], sae.b_enc[j] = (
            sae.W_enc[:, best],
            -1000.0 if alike == "dead" else sae.b_enc[best],
        )
    found, columns = SAEEncoder(sae).best(x, y, 16)
    z = torch.cat([sae.encode(rows) for rows in x.split(128)])
    assert found.tolist() == official_order(z, y)[:16].tolist()
    torch.testing.assert_close(columns, z[:, found])


def test_kernels_are_kept_on_disk_and_compiled_in_memory_where_they_cannot_be(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "from husai.compiled import kernel\n@kernel()\ndef more(x): return x + 1\nassert more(1) "
        "== 2\n"
    )
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(tmp_path / "kept"),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run([sys.executable, program], env=environment, check=True)
    assert list((tmp_path / "kept").rglob("*.nbc"))
    nowhere = {"kernel": kernel}
    exec(
        "@kernel()\ndef more(x): return x + 1", nowhere
    )  # source without a file has no place for machine code
    assert nowhere["more"](1) == 2
