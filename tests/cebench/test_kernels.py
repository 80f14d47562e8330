"""The compiled kernels of CE-Bench against SAE.encode's dense code and a plain statement of the
scores: ties, thresholds, NaN.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.cebench.means import PairActivations, mean_latents
from husai.cebench.scores import pair_scores, score_saes
from husai.errors import RecipeFailed
from husai.sae.architectures import SAE

ARCHITECTURES = ("topk", "transcoder", "relu", "jumprelu", "batchtopk")
LENGTHS = [3, 9, 1, 40, 17, 2, 5, 130]


def sae_of(architecture, d_sae=256, k=32, seed=0, d_in=12):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(d_in, d_sae, generator=g)
    threshold = (
        torch.randn(d_sae, generator=g) if architecture in ("jumprelu", "batchtopk") else None
    )
    k = k if architecture in ("topk", "transcoder") else None
    return SAE(
        architecture,
        W,
        torch.nn.functional.normalize(W.T, dim=1),
        torch.randn(d_sae, generator=g),
        torch.randn(d_in, generator=g),
        threshold,
        k,
    )


def pairs_of(tokens, lengths=LENGTHS):
    names = ["theme"] * (len(lengths) // 2)
    return PairActivations(tokens, torch.tensor([0, *np.cumsum(lengths)]), names, names, "hash")


def random_pairs(seed=1, lengths=LENGTHS, d_in=12):
    return pairs_of(
        torch.randn(sum(lengths), d_in, generator=torch.Generator().manual_seed(seed)), lengths
    )


def dense(sae, pairs):
    """Mean of SAE.encode over each story, float64, and active latents per token."""
    z = sae.encode(pairs.tokens).double()
    means = torch.stack([part.mean(0) for part in z.split(pairs.offsets.diff().tolist())])
    return means.view(pairs.n_pairs, 2, -1), float((z != 0).sum()) / len(z)


def assert_dense(sae, pairs):
    means, l0 = mean_latents([sae], pairs)
    expected, expected_l0 = dense(sae, pairs)
    torch.testing.assert_close(means[0].double(), expected, rtol=1e-5, atol=1e-6)
    assert l0[0] == pytest.approx(expected_l0, rel=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("d_sae", "k"), [(60, 5), (256, 32), (301, 40), (130, 130), (150, 1)])
def test_means_are_those_of_the_dense_code(architecture, d_sae, k):
    assert_dense(sae_of(architecture, d_sae, k), random_pairs())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_in_another_number_format_change_rounding_alone(architecture):
    """Formats that the kernels do not read go through torch."""
    sae, pairs = sae_of(architecture), random_pairs()
    (single,), (double,) = (
        mean_latents([sae.to(dtype=t)], pairs)[0] for t in (torch.float32, torch.float64)
    )
    torch.testing.assert_close(single, double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("copies", [2, 40, 256])
def test_of_latents_that_tie_for_the_last_place_as_many_are_kept_as_by_the_sae_and_the_same(copies):
    sae = sae_of("topk")
    sae.W_enc[:, :copies], sae.b_enc[:copies] = sae.W_enc[:, :1], sae.b_enc[:1]
    pairs = random_pairs()
    pre = sae.pre_activations(pairs.tokens)
    last = pre.topk(sae.k).values[:, -1:]
    assert (((pre >= last).sum(1) > sae.k) & (last[:, 0] > 0)).any(), "some row must be tied"
    assert_dense(sae, pairs)


def integer_sae(architecture, bias, threshold=None, k=None):
    """Identity weights: pre-activations are the input plus ``bias``, exactly."""
    eye = torch.eye(len(bias))
    return SAE(
        architecture, eye, eye.clone(), torch.tensor(bias), torch.zeros(len(bias)), threshold, k
    )


def test_a_pre_activation_at_the_threshold_is_off():
    x = torch.tensor([[1.0, 2.0, 3.0, -1.0]]).repeat(4, 1)
    sae = integer_sae("jumprelu", [1.0, 0.0, 0.0, 0.0], torch.tensor([2.0, 1.5, 3.0, -5.0]))
    means, l0 = mean_latents([sae], pairs_of(x, [1, 1, 1, 1]))
    assert means[0].tolist() == [[[0, 2, 0, 0]] * 2] * 2 and l0 == [1.0]


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu"])
def test_a_latent_whose_bias_is_minus_infinity_is_off_and_no_fault(architecture):
    sae = sae_of(architecture)
    sae.b_enc[7] = -torch.inf
    assert_dense(sae, random_pairs())


def test_a_threshold_that_is_no_number_keeps_its_latent_off():
    sae = sae_of("jumprelu")
    sae.threshold[3], sae.threshold[5] = torch.nan, torch.inf
    assert_dense(sae, random_pairs())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("fault", ["token nan", "token inf", "weight nan", "bias nan", "bias inf"])
def test_one_number_that_is_not_finite_is_refused(architecture, fault):
    sae, pairs = sae_of(architecture), random_pairs()
    where, value = fault.split()
    {"token": pairs.tokens[57], "weight": sae.W_enc[:, 200], "bias": sae.b_enc[200:201]}[where][
        :1
    ] = float(value)
    with pytest.raises(RecipeFailed, match="latents that are not finite"):
        score_saes([sae_of("relu"), sae], pairs)


def plain_scores(means, counts):
    """The authors' formula in float64, one pair at a time."""
    v, n = means.double().numpy(), counts.numpy()
    pooled = np.array([(n[p, 0] * v[p, 0] + n[p, 1] * v[p, 1]) / n[p].sum() for p in range(len(v))])
    out = {}
    for variant, i2 in (("published", 0.0), ("fixed", np.mean(pooled, 0))):
        contrast, independence = np.abs(v[:, 0] - v[:, 1]), np.abs(pooled - i2)
        for name, d in (
            ("contrastive", contrast),
            ("independence", independence),
            ("interpretability", contrast + independence),
        ):
            out[f"{name}_{variant}"] = [
                (row.max() - row.mean()) / (row.std(ddof=1) or 1) for row in d
            ]
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.integers(2, 9),
    st.integers(2, 200),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1.0, 1e4]),
    st.sampled_from([1e-12, 1.0, 1e12]),
)
def test_scores_are_those_of_the_formula_in_both_number_formats(n_pairs, d_sae, seed, level, scale):
    g = torch.Generator().manual_seed(seed)
    means = scale * (level + torch.rand(n_pairs, 2, d_sae, generator=g) ** 4)
    counts = torch.randint(1, 300, (n_pairs, 2), generator=g)
    single, double, expected = (
        pair_scores(means, counts),
        pair_scores(means.double(), counts),
        plain_scores(means, counts),
    )
    assert single.keys() == double.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(single[name], values, rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(double[name], values, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30])
def test_latents_that_all_differ_by_the_same_score_zero(value):
    means = torch.full((3, 2, 77), 0.3)
    means[:, 1] = value
    scores = pair_scores(means, torch.tensor([[3, 7]] * 3))
    assert all((values == 0).all() for values in scores.values())


def test_number_of_threads_and_size_of_chunks_change_rounding_alone(monkeypatch):
    saes, pairs, before = (
        [sae_of(a, seed=i) for i, a in enumerate(ARCHITECTURES)],
        random_pairs(),
        torch.get_num_threads(),
    )
    try:
        found = []
        for threads, chunk in ((1, 1 << 20), (2, 1), (3, 7 * 256), (2, 1 << 20)):
            torch.set_num_threads(threads)
            monkeypatch.setattr("husai.sae.pooled.CHUNK_VALUES", chunk)
            found.append(mean_latents(saes, pairs))
    finally:
        torch.set_num_threads(before)
    for means, l0 in found[1:]:
        assert l0 == found[0][1]
        for a, b in zip(found[0][0], means, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
