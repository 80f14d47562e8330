"""CE-Bench scoring: known answers, a float64 per-token restatement of the authors' loop, bounds and
bad input.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.cebench.bound import score_bound
from husai.cebench.means import PairActivations, mean_latents
from husai.cebench.scores import pair_scores, score_saes, theme_means
from husai.errors import HusaiError
from husai.sae.architectures import SAE


def make_sae(architecture="topk", d=12, d_sae=64, seed=0, k=5):
    g = torch.Generator().manual_seed(seed)
    threshold = torch.full((d_sae,), 0.3) if architecture in ("jumprelu", "batchtopk") else None
    return SAE(
        architecture,
        torch.randn(d, d_sae, generator=g),
        torch.nn.functional.normalize(torch.randn(d_sae, d, generator=g), dim=1),
        0.1 * torch.randn(d_sae, generator=g),
        0.1 * torch.randn(d, generator=g),
        threshold=threshold,
        k=k if architecture in ("topk", "transcoder") else None,
    )


def make_pairs(lengths, d=12, seed=0, themes=None):
    """Random activations of ``len(lengths) / 2`` pairs."""
    tokens = torch.randn(sum(lengths), d, generator=torch.Generator().manual_seed(seed))
    n = len(lengths) // 2
    names = themes or [f"theme{i % 3}" for i in range(n)]
    return PairActivations(tokens, torch.tensor([0, *np.cumsum(lengths)]), names, names, "hash")


def slow_scores(sae, pairs, fixed):
    """The authors' per-row, per-token loop in float64, one pair and one token at a time."""
    rows = []
    for pair in range(pairs.n_pairs):
        sums, counts = [torch.zeros(sae.d_sae, dtype=torch.float64) for _ in range(2)], [0, 0]
        pooled, pooled_count = torch.zeros(sae.d_sae, dtype=torch.float64), 0
        for story in range(2):
            start, stop = pairs.offsets[2 * pair + story], pairs.offsets[2 * pair + story + 1]
            latents = sae.to(dtype=torch.float64).encode(pairs.tokens[start:stop].double())
            for token in latents:
                sums[story] += token
                counts[story] += 1
                pooled += token
                pooled_count += 1
        rows.append((sums[0] / counts[0], sums[1] / counts[1], pooled / pooled_count))
    i2 = (
        torch.stack([i1 for _, _, i1 in rows]).mean(0)
        if fixed
        else torch.zeros(sae.d_sae, dtype=torch.float64)
    )

    def highest(distance):
        std = torch.std(distance)
        return float(((distance - distance.mean()) / (std if std != 0 else 1)).max())

    out = {"contrastive": [], "independence": [], "interpretability": []}
    for v1, v2, i1 in rows:
        out["contrastive"].append(highest((v1 - v2).abs()))
        out["independence"].append(highest((i1 - i2).abs()))
        out["interpretability"].append(highest((v1 - v2).abs() + (i1 - i2).abs()))
    return out


def test_known_answer_of_the_toy_pair():
    """V1 = [3,0,1,0], V2 = [1,0,0,0] with equal token counts: method.md section 1."""
    means = torch.tensor([[[3.0, 0, 1, 0], [1, 0, 0, 0]]])
    scores = pair_scores(means, torch.tensor([[7, 7]]))
    assert scores["contrastive_published"][0] == pytest.approx(1.3055824, abs=1e-7)
    assert scores["interpretability_published"][0] == pytest.approx(1.3907590, abs=1e-7)
    assert scores["contrastive_fixed"][0] == scores["contrastive_published"][0]


def test_fixed_differs_from_published_through_i2_alone():
    """With one pair I2 = I1, so the fixed independence vanishes and interpretability equals the
    contrastive score.
    """
    means = torch.tensor([[[3.0, 0, 1, 0], [1, 0, 0, 0]]])
    scores = pair_scores(means, torch.tensor([[7, 7]]))
    assert scores["independence_fixed"][0] == 0
    assert scores["interpretability_fixed"][0] == pytest.approx(scores["contrastive_fixed"][0])


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu", "batchtopk"])
@pytest.mark.parametrize("fixed", [False, True])
def test_equals_the_authors_loop(architecture, fixed):
    sae = make_sae(architecture)
    pairs = make_pairs([3, 9, 1, 4, 30, 2, 5, 5])
    result = score_saes([sae], pairs)[0]
    for name, expected in slow_scores(sae, pairs, fixed).items():
        np.testing.assert_allclose(
            result.per_pair[f"{name}_{'fixed' if fixed else 'published'}"], expected, rtol=2e-5
        )


def test_many_saes_at_once_equal_each_alone_and_chunks_do_not_matter(monkeypatch):
    saes = [
        make_sae("topk", seed=1),
        make_sae("relu", seed=2, d_sae=32),
        make_sae("topk", seed=3, k=40),
    ]
    pairs = make_pairs([7, 1, 2, 90, 13, 40])
    together, l0 = mean_latents(saes, pairs)
    for sae, means, active in zip(saes, together, l0, strict=True):
        for chunk in (1, 5, 64):
            monkeypatch.setattr("husai.sae.pooled.CHUNK_VALUES", chunk * sae.d_sae)
            alone, alone_l0 = mean_latents([sae], pairs)
            torch.testing.assert_close(alone[0], means, rtol=1e-5, atol=1e-6)
            assert alone_l0[0] == active


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "batchtopk"])
def test_latents_300_times_as_large_with_decoder_rows_300_times_as_short_score_the_same(
    architecture,
):
    """The same function: in the original such latents gained 0.39 of the bound."""
    sae, pairs = make_sae(architecture), make_pairs([3, 5, 4, 4, 6, 2])
    scale = torch.ones(64)
    scale[::7] = 300.0
    threshold = None if sae.threshold is None else sae.threshold * scale
    large = SAE(
        architecture,
        sae.W_enc * scale,
        sae.W_dec / scale[:, None],
        sae.b_enc * scale,
        sae.b_dec,
        threshold,
    )
    plain, scaled = score_saes([sae, large], pairs)
    for name, values in plain.per_pair.items():
        assert scaled.per_pair[name] == pytest.approx(values, rel=1e-3), name
    assert scaled.l0 == plain.l0


def test_a_topk_sae_is_scored_in_lengths_of_what_it_writes():
    """Selection stays that of the file; halving a code and doubling its row changes nothing."""
    sae, pairs = make_sae(), make_pairs([3, 5, 4, 4])
    scale = torch.linspace(0.1, 10, 64)
    longer = SAE("topk", sae.W_enc, sae.W_dec * scale[:, None], sae.b_enc, sae.b_dec, k=5)
    (plain,), _ = mean_latents([sae], pairs)
    (found,), _ = mean_latents([longer], pairs)
    assert torch.allclose(found, plain * scale, rtol=1e-5)


def test_limits_of_memory_and_cache_and_threads_only_divide_the_work(monkeypatch):
    saes = [
        make_sae("topk", seed=0),
        make_sae("jumprelu", seed=1),
        make_sae("relu", seed=2, d_sae=32),
    ]
    pairs = make_pairs([7, 1, 2, 90, 13, 40, 1, 1])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = score_saes(saes, pairs)
        torch.set_num_threads(3)
        threaded = score_saes(saes, pairs)
        assert torch.get_num_threads() == 3
        monkeypatch.setattr("husai.cebench.scores.MEMORY_BYTES", 1)
        monkeypatch.setattr("husai.sae.pooled.CHUNK_VALUES", 64)
        divided = score_saes(saes, pairs)
    finally:
        torch.set_num_threads(threads)
    for a, b, c in zip(whole, threaded, divided, strict=True):
        assert a.l0 == b.l0 == c.l0
        for name, values in a.per_pair.items():
            np.testing.assert_allclose(b.per_pair[name], values, rtol=1e-5)
            np.testing.assert_allclose(c.per_pair[name], values, rtol=1e-5)


def test_l0_counts_active_latents():
    pairs = make_pairs([4, 4, 4, 4])
    sae = make_sae("relu")
    expected = float((sae.encode(pairs.tokens) != 0).sum(1).float().mean())
    assert score_saes([sae], pairs)[0].l0 == pytest.approx(expected)
    assert score_saes([make_sae("topk", k=3)], pairs)[0].l0 == 3


def test_bound_known_answers():
    """method.md section 3: 31.97 for 1024 latents, 45.23 for 2048."""
    assert score_bound(1024) == pytest.approx(31.96875)
    assert score_bound(2048) == pytest.approx(45.2327, abs=1e-4)
    with pytest.raises(HusaiError, match="at least 2 latents"):
        score_bound(1)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 200), st.integers(0, 2**31))
def test_no_score_exceeds_the_bound_and_one_hot_reaches_it(d_sae, seed):
    g = torch.Generator().manual_seed(seed)
    means = torch.rand(5, 2, d_sae, generator=g) ** 8
    counts = torch.randint(1, 50, (5, 2), generator=g)
    for values in pair_scores(means, counts).values():
        assert (values <= score_bound(d_sae) * (1 + 1e-9)).all()
    one_hot = torch.zeros(1, 2, d_sae)
    one_hot[0, 0, seed % d_sae] = 1
    assert pair_scores(one_hot, torch.tensor([[1, 1]]))["contrastive_fixed"][0] == pytest.approx(
        score_bound(d_sae)
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_scores_ignore_order_of_latents_scale_and_which_story_is_first(seed, scale):
    g = torch.Generator().manual_seed(seed)
    means, counts = (
        torch.rand(4, 2, 20, generator=g, dtype=torch.float64),
        torch.randint(1, 9, (4, 2), generator=g),
    )
    base = pair_scores(means, counts)
    shuffled = pair_scores(scale * means[:, :, torch.randperm(20, generator=g)], counts)
    swapped = pair_scores(means.flip(1), counts.flip(1))
    for name, values in base.items():
        np.testing.assert_allclose(shuffled[name], values, rtol=1e-9)
        np.testing.assert_allclose(swapped[name], values, rtol=1e-9)


def test_an_sae_with_every_latent_dead_scores_zero():
    sae = make_sae("relu")
    sae.b_enc.fill_(-1e6)
    result = score_saes([sae], make_pairs([3, 3, 3, 3]))[0]
    assert result.l0 == 0
    assert all((values == 0).all() for values in result.per_pair.values())


def test_theme_means():
    assert theme_means(np.array([1.0, 2.0, 5.0]), ["b", "a", "b"]) == {"b": 3.0, "a": 2.0}


@pytest.mark.parametrize(
    ("pairs", "sae", "message"),
    [
        (
            make_pairs([3, 3, 3, 3], d=8),
            make_sae(),
            "reads 12 dimensions but the pair activations have 8",
        ),
        (make_pairs([3, 3]), make_sae(), "at least 2 story pairs"),
        (make_pairs([3, 0, 3, 3]), make_sae(), "pair 0 has a story without tokens"),
        (
            make_pairs([3, 3, 3, 3])._replace(offsets=torch.tensor([0, 1, 2, 3])),
            make_sae(),
            "compute the pair activations again",
        ),
        (
            make_pairs([3, 3, 3, 3])._replace(tokens=torch.full((12, 12), torch.nan)),
            make_sae("relu"),
            "not finite",
        ),
    ],
)
def test_bad_input_is_one_clear_line(pairs, sae, message):
    with pytest.raises(HusaiError, match=message) as error:
        score_saes([sae], pairs)
    assert "\n" not in str(error.value)
