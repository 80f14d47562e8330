"""Near-duplicates, and agreement weighted by what latents explain: against sums by hand."""

import pytest
import torch

from husai.sae import SAE
from husai.stability import hungarian, measure_stability
from husai.stability.similarity import pairwise_best
from husai.stability.synthetic import planted_decoders, synthetic_activations
from husai.stability.twins import latent_weights, twins_of, weighted_best, weighted_shared


def test_twins_are_found_whatever_their_sign_and_dead_ones_do_not_count():
    e = torch.eye(5)
    rows = torch.stack([e[0], -2 * e[0] + 0.1 * e[1], e[1], e[2], e[2], e[3]])
    found = twins_of(rows)
    assert found.redundancy == pytest.approx(4 / 6)
    assert found.distinct == pytest.approx(4.0)
    groups = found.cluster.tolist()
    assert groups[0] == groups[1] and groups[3] == groups[4] and len(set(groups)) == 4
    alive = torch.tensor([True, True, True, True, False, True])
    found = twins_of(rows, alive)
    assert found.redundancy == pytest.approx(2 / 5) and found.cluster[4] == -1


def test_a_dictionary_of_copies_has_as_many_distinct_latents_as_originals():
    originals = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    found = twins_of(originals[:4].repeat(32, 1))
    assert found.redundancy == 1.0 and found.distinct == pytest.approx(4.0)


def test_weights_are_sizes_of_shares_with_the_sign_of_the_harm():
    weights = latent_weights(torch.tensor([0.6, 0.8, -0.4, 0.2]), torch.tensor([1, 1, 1, 0]).bool())
    assert weights.tolist() == pytest.approx([0.6 / 1.8, 0.8 / 1.8, -0.4 / 1.8, 0.0])
    nothing = latent_weights(torch.full((2,), torch.nan), torch.tensor([True, True]))
    assert nothing.tolist() == [0.5, 0.5]


def test_the_weighted_shared_fraction_by_hand():
    """Latents 0 and 1 are shared; 2 points elsewhere; 0 has a copy (3) in A, which counts once."""
    e = torch.eye(6)
    a, b = torch.stack([e[0], e[1], e[2], e[0]]), torch.stack([e[0], e[1], e[3], e[0]])
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1]).double()
    clusters = [twins_of(rows).cluster for rows in (a, b)]
    match = hungarian(a, b)
    found = weighted_shared(match, a, b, (weights, weights), clusters)
    assert found in (pytest.approx(0.7), pytest.approx(0.4), pytest.approx(0.55))
    assert found < 0.8, "the copy does not count again"
    alone = torch.arange(4)
    assert weighted_shared(match, a, b, (weights, weights), (alone, alone)) == pytest.approx(0.8)


def test_junk_that_all_seeds_share_has_a_high_count_and_a_low_weight():
    """90% of the latents are reproducible and explain 1%; the rest, which explain the activations,
    are unrelated.
    """
    decoders = planted_decoders(2, 40, 16, 0.9, shuffle=False)
    weights = torch.cat([torch.full((36,), 0.01 / 36), torch.full((4,), 0.99 / 4)]).double()
    alone, match = torch.arange(40), hungarian(*decoders)
    found = weighted_shared(match, *decoders, (weights, weights), (alone, alone))
    assert found == pytest.approx(0.01, abs=1e-6)


def test_weighted_pwmcc_equals_a_float64_sum_and_the_plain_one_where_weights_are_equal():
    decoders = [d.double() for d in planted_decoders(3, 20, 8, 0.5, seed=4)]
    best = pairwise_best(decoders)
    alive, alone = [torch.ones(20, dtype=torch.bool)] * 3, [torch.arange(20)] * 3
    even = [torch.full((20,), 1 / 20, dtype=torch.float64)] * 3
    assert torch.allclose(weighted_best(best.best, alive, even, alone), best.matrix, atol=1e-12)
    weights = [torch.rand(20, dtype=torch.float64) for _ in range(3)]
    weights = [w / w.sum() for w in weights]
    units = [torch.nn.functional.normalize(d, dim=1) for d in decoders]
    cosines = units[0] @ units[1].T
    wanted = (weights[0] @ cosines.abs().amax(1) + weights[1] @ cosines.abs().amax(0)) / 2
    assert float(weighted_best(best.best, alive, weights, alone)[0, 1]) == pytest.approx(
        float(wanted), abs=1e-12
    )


def test_a_dictionary_of_copies_of_few_directions_wins_the_count_and_loses_the_weight():
    """Collapsed SAEs: 64 copies with signs of 4 directions that every seed finds."""
    rows, _ = synthetic_activations(1500, 16, 4, 2, seed=3)
    directions = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:4]
    saes = []
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        sign = torch.where(torch.rand(64, generator=g) < 0.5, -1.0, 1.0)[:, None]
        W = sign * directions.repeat(16, 1) + 0.02 * torch.randn(64, 16, generator=g)
        saes.append(SAE("relu", W.T.contiguous(), W, torch.zeros(64), rows.mean(0)))
    found = measure_stability(saes, rows, seeds=range(5)).metrics()
    assert found["redundancy"].value == 1.0
    assert found["distinct_latents"].value < 6
    assert found["shared_fraction"].value > 0.7
    assert found["shared_fraction_weighted"].value < 0.3


def test_one_sae_rescaled_latent_by_latent_gives_the_same_metrics():
    """Nothing that stability measures depends on how a latent's scale is shared between its encoder
    and its decoder.
    """
    rows, _ = synthetic_activations(800, 12, 24, 3, seed=5)
    plain, scaled = [], []
    for seed, W in enumerate(planted_decoders(5, 24, 12, 0.5, seed=6)):
        s = torch.logspace(-1, 1, 24)[
            torch.randperm(24, generator=torch.Generator().manual_seed(seed))
        ]
        bias = torch.full((24,), -0.1)
        plain.append(SAE("relu", W.T.contiguous(), W, bias, torch.zeros(12)))
        scaled.append(
            SAE("relu", (W.T * s).contiguous(), W / s[:, None], bias * s, torch.zeros(12))
        )
    one, other = (measure_stability(s, rows, seeds=range(5)).metrics() for s in (plain, scaled))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name].value == pytest.approx(value.value, rel=1e-3, abs=1e-4), name
