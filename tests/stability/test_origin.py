"""Which SAEs are no two trainings: copies, changed copies and shared starts are seen, independent
trainings are never flagged.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from husai.sae import SAE, Recipe, train_ensemble
from husai.stability import hungarian, measure_stability
from husai.stability.nulls import gaussian_decoder
from husai.stability.origin import same_index_matrix, start_trace
from husai.stability.similarity import pairwise_best
from husai.stability.synthetic import planted_decoders, synthetic_activations
from husai.statistics import clone_pairs, coincidence_limit
from husai.statistics.ensemble import TRACE

D_IN, D_SAE, SEEDS = 24, 48, [1, 2, 3, 4]
RECIPE = Recipe(
    "planted",
    "planted",
    "topk",
    D_SAE,
    k=3,
    steps=400,
    batch_size=256,
    learning_rate=6e-3,
    auxk_coefficient=0.0,
)


@pytest.fixture(scope="module")
def world():
    rows, _ = synthetic_activations(9000, D_IN, D_SAE, 3, seed=0, noise=0.02)
    return rows[:8000], rows[8000:]


@pytest.fixture(scope="module")
def trained(world):
    """Four independent trainings on rows made of known features: as alike as independent trainings
    get.
    """
    return train_ensemble(RECIPE, SEEDS, world[0], held_out=world[1], curve_points=2, sparse=False)


def noisy(sae, noise, order=None, seed=0):
    """A copy whose decoder rows, and encoder weights of each latent, get a random vector of
    ``noise`` times their length.
    """
    g = torch.Generator().manual_seed(seed)
    order = torch.arange(D_SAE) if order is None else order

    def changed(rows):
        step = torch.nn.functional.normalize(torch.randn(rows.shape, generator=g), dim=1)
        return (rows + noise * rows.norm(dim=1, keepdim=True) * step)[order]

    return SAE(
        "topk",
        changed(sae.W_enc.T).T.contiguous(),
        changed(sae.W_dec),
        sae.b_enc[order],
        sae.b_dec,
        k=sae.k,
    )


def measured(saes, trained, world):
    return measure_stability(
        saes, world[1], seeds=SEEDS, initial_decoders=trained.initial_decoders
    ).metrics()


def shuffled(seed):
    return torch.randperm(D_SAE, generator=torch.Generator().manual_seed(seed))


def test_independent_trainings_that_agree_are_not_flagged(trained, world):
    found = measured(trained.saes, trained, world)
    assert found["S"].value > 0.7, "they recover the same features"
    assert found["clone_pairs"].value == 0 and found["untraced_seeds"].value == 0


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_copies_under_other_seeds_are_seen_with_and_without_noise(trained, world, noise):
    found = measured([noisy(trained.saes[0], noise, seed=s) for s in SEEDS], trained, world)
    assert found["S"].value > 0.95
    assert found["clone_pairs"].value == 6 and found["untraced_seeds"].value == 3, (
        "the seed that was copied has a trace of its start"
    )


def test_a_single_noisy_copy_among_independent_trainings_is_one_pair(trained, world):
    saes = [*trained.saes[:3], noisy(trained.saes[0], 0.01)]
    found = measured(saes, trained, world)
    assert found["clone_pairs"].value == 1 and found["untraced_seeds"].value == 1


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1])
def test_permuted_copies_keep_no_trace_of_the_start_they_claim(trained, world, noise):
    """Row by row they agree no more than independent seeds do: only without noise are they also
    equal decoders.
    """
    found = measured([noisy(trained.saes[0], noise, shuffled(s), s) for s in SEEDS], trained, world)
    assert found["clone_pairs"].value == (6 if noise == 0 else 0)
    assert found["untraced_seeds"].value == 4


def test_copies_trained_on_apart_are_seen(trained, world):
    """Each goes on from one decoder, on rows of its own, with steps of Adam at the full learning
    rate.
    """
    saes = []
    for part in world[0].chunk(len(SEEDS)):
        W = torch.nn.Parameter(trained.saes[0].W_dec.clone())
        optimiser = torch.optim.Adam([W], lr=RECIPE.learning_rate)
        for step in range(200):
            x = part[(step * 64) % 1900 :][:64]
            loss = (
                (trained.saes[0].encode(x).detach() @ W + trained.saes[0].b_dec - x).square().mean()
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        first = trained.saes[0]
        saes.append(
            SAE(
                "topk",
                first.W_enc,
                torch.nn.functional.normalize(W.detach(), dim=1),
                first.b_enc,
                first.b_dec,
                k=first.k,
            )
        )
    found = measured(saes, trained, world)
    assert found["pwmcc_all"].value < 1 - 1e-6 and found["clone_pairs"].value == 6


def test_what_is_not_seen_a_noisy_copy_reordered_to_suit_the_start_it_claims(trained, world):
    """Forgery: with the start at hand, rows can be put next to those of the start that they happen
    to resemble most.
    """
    orders = [hungarian(start, trained.saes[0].W_dec).cols for start in trained.initial_decoders]
    found = measured(
        [noisy(trained.saes[0], 0.01, order, s) for s, order in zip(SEEDS, orders, strict=True)],
        trained,
        world,
    )
    assert (
        found["S"].value > 0.99
        and found["clone_pairs"].value == 0
        and found["untraced_seeds"].value == 0
    )


def test_trainings_from_one_start_are_seen_even_where_the_starts_are_not_known(trained, world):
    """``shared_init_pairs`` compares the starts that the seeds give, not those that were used."""
    parts = [
        train_ensemble(RECIPE, [1], part, held_out=world[1], curve_points=2, sparse=False)
        for part in world[0].chunk(4)
    ]
    saes = [p.saes[0] for p in parts]
    found = measured(saes, trained, world)
    assert (
        found["clone_pairs"].value == 6
        and found["untraced_seeds"].value == 3
        and found["shared_init_pairs"].value == 0
    )
    found = measure_stability(saes, world[1], seeds=SEEDS).metrics()
    assert (
        found["clone_pairs"].value == 6
        and "untraced_seeds" not in found
        and "shared_init_pairs" not in found
    )


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_independent_orders_are_flagged_no_more_often_than_the_bound_says(shared):
    """Exact features in common, in independent orders: 400 ensembles of 4; the count is that of a
    random permutation's fixed points.
    """
    counts = []
    for seed in range(400):
        decoders = planted_decoders(4, 32, 16, shared, seed=seed)
        counts += same_index_matrix(decoders, pairwise_best(decoders))[
            *np.triu_indices(4, 1)
        ].tolist()
    counts = np.array(counts)
    assert 0.2 < counts.mean() < 1.3
    for k in range(1, 8):
        bound = 1 / math.factorial(k)
        assert (counts >= k).mean() <= bound + 4 * math.sqrt(bound / len(counts)), k
    assert counts.max() < coincidence_limit(4)


def test_the_limit_follows_from_the_bound():
    """Smallest k with pairs / k! <= 1e-6: 28 / 11! = 7.0e-7 but 28 / 10! = 7.7e-6."""
    assert coincidence_limit(8) == 11 and coincidence_limit(2) == 10
    pwmcc, same = np.eye(8), np.full((8, 8), 10)
    assert clone_pairs(pwmcc, same) == 0
    same[0, 1] = same[1, 0] = 11
    assert clone_pairs(pwmcc, same) == 1


def test_unrelated_starts_leave_no_trace():
    """Standard deviations of a nearly normal statistic: of 400 unrelated pairs about one in 700
    exceeds 3.
    """
    values = np.array(
        [
            start_trace(gaussian_decoder(16, 64, 2 * s), gaussian_decoder(16, 64, 2 * s + 1))
            for s in range(400)
        ]
    )
    assert abs(values.mean()) < 0.2 and 0.85 < values.std() < 1.15 and (values >= TRACE).sum() <= 3


def test_a_start_is_traced_by_its_exact_moments():
    """Against the mean and variance over all 120 orders of five rows."""
    from itertools import permutations

    a, b = gaussian_decoder(3, 5, 1), gaussian_decoder(3, 5, 2)
    cosines = (
        (torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T)
        .double()
        .numpy()
    )
    totals = np.array([sum(cosines[i, p[i]] for i in range(5)) for p in permutations(range(5))])
    assert start_trace(a, b) == pytest.approx(
        (np.trace(cosines) - totals.mean()) / totals.std(), abs=1e-5
    )
    assert math.isnan(start_trace(a[:1], b[:1]))


def test_rows_without_direction_and_other_widths_are_left_out():
    decoders = [gaussian_decoder(16, 40, 1), gaussian_decoder(16, 40, 1)[:32].clone()]
    decoders[1][3] = 0
    alive = [torch.ones(40, dtype=torch.bool), torch.arange(32) != 3]
    found = same_index_matrix(decoders, pairwise_best(decoders, alive), alive)
    assert found.tolist() == [[40, 31], [31, 31]]


def test_honest_very_narrow_saes_are_not_flagged_and_narrow_copies_are():
    """Four latents have 24 orders: no single SAE can show a trace of 3 sd, eight together can."""
    rows, _ = synthetic_activations(9000, D_IN, D_SAE, 3, seed=0, noise=0.02)
    narrow, seeds = replace(RECIPE, d_sae=4, k=1), list(range(1, 9))
    trained = train_ensemble(
        narrow, seeds, rows[:8000], held_out=rows[8000:], curve_points=2, sparse=False
    )

    def untraced(saes):
        found = measure_stability(
            saes, rows[8000:], seeds=seeds, initial_decoders=trained.initial_decoders
        )
        return found.metrics()["untraced_seeds"].value

    assert untraced(trained.saes) == 0
    turned = [torch.randperm(4, generator=torch.Generator().manual_seed(s)) for s in seeds]
    copies = [
        SAE("topk", s.W_enc[:, o], s.W_dec[o], s.b_enc[o], s.b_dec, k=1)
        for s, o in zip([trained.saes[0]] * 8, turned, strict=True)
    ]
    assert untraced(copies) == 8


def test_so_narrow_that_no_order_can_show_anything_is_said_to_be_unknown():
    from husai.statistics.quality import untraced

    assert untraced([1.0] * 8, [1.0] * 8, 3.0)[0] is None
    assert untraced([2.2] * 8, [2.9] * 8, 3.0)[0] == 0
    assert untraced([0.4] * 8, [2.9] * 8, 3.0)[0] == 8
    assert untraced([9.0, 2.9], [20.0, 20.0], 3.0)[0] == 1
    assert untraced([9.0, 2.9], None, 3.0)[0] == 1
