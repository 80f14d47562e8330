"""The fast probing engine: scores, splits, ranking, solver and the choice of C, against
scikit-learn and the official rules restated.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from husai.errors import HusaiError
from husai.probing import scores
from husai.probing.baselines import baseline_rows, dense_probe
from husai.probing.encoders import ProbeData, codes_of, rank_columns
from husai.probing.protocol import probe_datasets, reseed_noise
from husai.probing.splits import probe_split, probe_train_rows
from husai.sae import SAE

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"
)


class Neurons:
    """Stands in for an SAE whose code is its input."""

    def __init__(self, d):
        self.d_in = self.d_sae = d

    def encode(self, x):
        return x


def rows(name, family, x, y):
    """Rows of one token each."""
    return ProbeData(name, family, x, torch.arange(len(x) + 1), y)


def sparse_data(n=400, m=8, seed=0, scale=1.0, name="96_spam_is"):
    """Non-negative sparse features of which some carry the label."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    rng.shuffle(y)
    signal = np.linspace(1.2, 0.0, m)
    x = np.maximum(rng.normal(size=(n, m)) + signal * y[:, None] - 0.3, 0) * scale
    return rows(name, "spam", torch.tensor(x, dtype=torch.float32), y)


def random_sae(architecture="topk", d_in=16, d_sae=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(d_in, d_sae, generator=g)
    threshold = (
        torch.rand(d_sae, generator=g) if architecture in ("jumprelu", "batchtopk") else None
    )
    k = 5 if architecture in ("topk", "transcoder") else None
    return SAE(
        architecture,
        W,
        W.T.clone(),
        0.1 * torch.randn(d_sae, generator=g),
        0.1 * torch.randn(d_in, generator=g),
        threshold,
        k,
    )


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=4, max_size=40))
@settings(max_examples=60, deadline=None)
def test_auc_counts_ties_half_and_is_that_of_scikit_learn(drawn):
    values, y = np.array([v / 5 for v, _ in drawn]), np.array([int(b) for _, b in drawn])
    if len(set(y)) < 2:
        return
    assert scores.auc(values, y) == roc_auc_score(y, values)


def test_accuracy_and_weighted_f1_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.integers(0, 2, 50)
    for model in rng.normal(size=(3, 4)):
        decision = model[0] + x @ model[1:]
        found = scores.scores_of(model, x, y)
        assert found.auc == pytest.approx(roc_auc_score(y, decision))
        assert found.accuracy == pytest.approx(accuracy_score(y, decision > 0))
        assert found.f1 == pytest.approx(f1_score(y, decision > 0, average="weighted"))


def test_ranking_divides_by_the_mean_over_firing_rows():
    # Latent 0 fires on every row, latent 1 only on class 1 and weakly: relative to its own firing
    # mean it separates better.
    z = torch.tensor([[4.0, 0.0, 1.0], [4.0, 0.0, 0.0], [5.0, 0.01, 0.0], [5.0, 0.01, 1.0]])
    y = torch.tensor([0, 0, 1, 1])
    assert rank_columns(z, y).tolist() == [1, 0, 2]


def test_training_rows_are_those_kept_out_of_the_training_text():
    y = np.random.default_rng(0).permutation(np.arange(1500) % 2)
    train, test = probe_split(y)
    assert np.array_equal(np.sort(train), probe_train_rows(y))
    assert len(train) == 1024 and len(test) == 1500 - 1024 - 1
    assert not set(train) & set(test)
    assert y[train].sum() == 512


def test_a_row_limit_that_unbalances_the_classes_leaves_a_balanced_test_set():
    y = np.random.default_rng(1).permutation(np.r_[np.ones(330, int), np.zeros(270, int)])
    train, test = probe_split(y)
    assert len(train) == 500 and y[train].sum() == 250
    assert len(test) == 40 and y[test].sum() == 20


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (np.zeros(500, int), "only one class"),
        (np.arange(150) % 2, "too few"),
        (np.r_[np.ones(480, int), np.zeros(20, int)], "too few"),
    ],
)
def test_unusable_data_sets_are_refused_by_name(y, words):
    with pytest.raises(HusaiError, match=f"87_glue_cola.*{words}"):
        probe_split(y, name="87_glue_cola")


def official_order(z, y):
    """``mean_act_normalization`` and ``get_sorted_indices`` of sae-probes 0.4.2, restated."""
    z = z / (z.abs().sum(0) / ((z != 0).sum(0) + 1e-6) + 1e-6)
    return torch.argsort(torch.abs(z[y == 1].mean(0) - z[y == 0].mean(0)), descending=True)


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu"])
def test_best_latents_are_the_official_ones(architecture):
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(700, 12, generator=g), torch.randint(0, 2, (700,), generator=g)
    z = random_sae(architecture, d_in=12, d_sae=256).encode(x)
    assert rank_columns(z, y)[:16].tolist() == official_order(z, y)[:16].tolist()


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu", "batchtopk", "transcoder"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_code_of_a_row_is_the_mean_of_its_tokens_codes(architecture, dtype, monkeypatch):
    monkeypatch.setattr("husai.sae.pooled.CHUNK_VALUES", 64 * 20)  # about 20 tokens at a time
    lengths = [1, 7, 2, 40, 1, 1, 19, 20, 3]
    tokens = torch.randn(sum(lengths), 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    data = ProbeData("96_spam_is", "spam", tokens, offsets, np.arange(len(lengths)) % 2)
    sae = random_sae(architecture, d_sae=64)
    expected = torch.stack([sae.encode(part).mean(0) for part in tokens.float().split(lengths)])
    torch.testing.assert_close(codes_of(sae, data), expected)
    torch.testing.assert_close(
        data.activations(), torch.stack([part.mean(0) for part in tokens.float().split(lengths)])
    )


def test_rows_of_one_token_each_have_its_very_code():
    data, sae = sparse_data(m=16), random_sae()
    assert torch.equal(codes_of(sae, data), sae.encode(data.tokens))


@pytest.mark.parametrize("dtype", [bool, np.float32, np.int8])
def test_labels_of_any_type_are_the_same_labels(dtype):
    data = sparse_data()
    (found,) = probe_datasets(Neurons(8), [data._replace(y=data.y.astype(dtype))], [4])
    assert found == probe_datasets(Neurons(8), [data], [4])[0]


def test_every_data_set_is_handed_over_when_it_is_done():
    seen = []
    probe_datasets(
        Neurons(8),
        [sparse_data(seed=i, name=name) for i, name in enumerate(("96_spam_is", "87_glue_cola"))],
        [1, 4],
        on_done=seen.append,
    )
    assert sorted(sorted({r.dataset for r in results}) for results in seen) == [
        ["87_glue_cola"],
        ["96_spam_is"],
    ]


def test_k_is_nested_and_more_signal_gives_a_higher_auc():
    results = probe_datasets(Neurons(8), [sparse_data(1400)], [1, 2, 8])
    assert [r.k for r in results] == [1, 2, 8]
    assert (
        results[2].latents[:2] == results[1].latents
        and results[1].latents[:1] == results[0].latents
    )
    assert results[2].auc > results[0].auc > 0.6
    assert results[0].n_train == 1024 and results[0].n_test == 1400 - 1025


def test_reseed_noise_is_the_spread_over_seeds_of_the_protocol():
    data, seeds = sparse_data(1400, seed=2), (1, 2, 3)
    noise = reseed_noise(Neurons(8), [data], [1, 4], seeds=seeds)
    aucs = [[r.auc for r in probe_datasets(Neurons(8), [data], [1, 4], seed=s)] for s in seeds]
    assert noise == {
        (data.name, 1): pytest.approx(np.std([a[0] for a in aucs], ddof=1)),
        (data.name, 4): pytest.approx(np.std([a[1] for a in aucs], ddof=1)),
    }
    assert all(value > 0 for value in noise.values())


def test_labels_unrelated_to_the_activations_give_chance():
    rng = np.random.default_rng(3)
    data = rows("96_spam_is", "spam", torch.rand(3000, 8), rng.permutation(np.arange(3000) % 2))
    assert abs(probe_datasets(Neurons(8), [data], [4])[0].auc - 0.5) < 0.05


def test_rows_that_are_equal_tie_whatever_their_place():
    data = sparse_data(700, m=6)
    tokens, y = torch.cat([data.tokens, data.tokens]), np.r_[data.y, data.y]
    twice = rows(data.name, data.family, tokens, y)
    features = probe_datasets(Neurons(6), [twice], [3])
    assert 0.5 < features[0].auc < 1
    x = np.repeat(np.random.default_rng(1).random((1, 6), np.float32), 1001, axis=0)
    assert all(
        len(np.unique(row)) == 1
        for row in scores.probabilities(np.random.default_rng(0).normal(size=(3, 7)), x)
    )


def test_threads_change_neither_results_nor_order():
    sets = [sparse_data(300 + 20 * i, seed=i) for i in range(5)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = probe_datasets(Neurons(8), iter(sets), [1, 4])
        torch.set_num_threads(2)
        together = probe_datasets(Neurons(8), iter(sets), [1, 4])
    finally:
        torch.set_num_threads(before)
    assert [r.n_train for r in together] == [r.n_train for r in alone]
    assert together == alone


def test_k_above_the_number_of_latents_uses_all_of_them():
    result = probe_datasets(Neurons(8), [sparse_data()], [16])[0]
    assert len(result.latents) == 8 and result.k == 16


def test_the_width_mismatch_names_both_numbers():
    with pytest.raises(HusaiError, match=r"d = 8 .* d_in = 16"):
        probe_datasets(random_sae(), [sparse_data()], [1])


def test_a_code_with_nan_is_refused():
    sae = random_sae("relu", d_in=8)
    sae.b_enc[0] = float("nan")
    with pytest.raises(HusaiError, match="NaN"):
        probe_datasets(sae, [sparse_data()], [1])


def test_dense_baseline_is_the_official_protocol():
    data = sparse_data(700, seed=5)
    train, test = probe_split(data.y)
    x, y = data.tokens.numpy(), data.y
    n_val = 100
    best, best_auc = None, -1.0
    for C in np.logspace(5, -5, 10):
        model = LogisticRegression(C=C, random_state=42, max_iter=1000).fit(
            x[train[:-n_val]], y[train[:-n_val]]
        )
        auc = roc_auc_score(y[train[-n_val:]], model.predict_proba(x[train[-n_val:]])[:, 1])
        if auc > best_auc:
            best, best_auc = C, auc
    order = np.random.RandomState(42).permutation(len(train))
    final = LogisticRegression(C=best, random_state=42, max_iter=1000).fit(
        x[train][order], y[train][order]
    )
    found = dense_probe(data)
    assert found.val_auc == pytest.approx(best_auc)
    assert found.auc == pytest.approx(
        roc_auc_score(y[test], final.predict_proba(x[test])[:, 1]), abs=1e-5
    )


def test_baselines_have_every_k_and_find_planted_signal():
    data = sparse_data(700, seed=5)
    (row,) = baseline_rows([data], [1, 4])
    assert set(row["neurons"]) == set(row["pca"]) == {"1", "4"}
    assert (
        row["neurons"]["1"]["auc"] > 0.6
        and row["dense"]["auc"] >= row["neurons"]["1"]["auc"] - 0.02
    )
    assert row["pca"]["4"]["auc"] > 0.5


def test_a_data_set_is_informative_where_the_dense_probe_beats_chance_by_its_lower_bound():
    clear, chance = sparse_data(700, seed=5), sparse_data(700, seed=6)
    y = np.random.default_rng(0).permutation(chance.y)
    found = baseline_rows([clear, chance._replace(y=y)], [1])
    assert [row["informative"] for row in found] == [True, False]
    assert found[0]["validation"]["n"] == 600, "every training row, not 100 of them"
    assert found[0]["validation"]["lcb"] < found[0]["validation"]["auc"] < 1
    assert abs(found[1]["validation"]["auc"] - 0.5) < 0.1
