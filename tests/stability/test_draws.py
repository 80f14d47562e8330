"""Nulls: drawn until they are known to 0.002, the crowding null, and the activation agreement that
unrelated dictionaries reach.
"""

import math

import pytest
import torch

from husai.errors import HusaiError
from husai.sae import SAE
from husai.stability import (
    activation_agreement,
    activation_covariance,
    measure_stability,
    null_pwmcc,
    synthetic_activations,
)
from husai.stability.nulls import null_decoders
from husai.stability.nulls.draws import (
    MOST_DRAWS,
    agreement_null,
    crowding_null,
    drawn,
    random_null,
    random_sae,
)
from husai.statistics.nulls import TARGET_ERROR, null_mean


def covariance_decoder(covariance, d_sae, seed):
    return null_decoders("covariance", len(covariance), [d_sae], [seed], covariance)[0]


def living(decoders):
    return [torch.ones(len(d), dtype=torch.bool) for d in decoders]


def test_draws_stop_once_their_error_is_below_the_target_or_at_most_draws():
    quiet = drawn(lambda t: 0.3 + 0.001 * (-1) ** t)
    assert len(quiet) == 16
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(MOST_DRAWS, generator=g).tolist()
    some = drawn(lambda t: 0.3 + 0.03 * noise[t])
    assert 128 <= len(some) <= 512 and null_mean((), some).error < TARGET_ERROR
    assert len(drawn(lambda t: noise[t])) == MOST_DRAWS


@pytest.mark.parametrize(("d_sae", "more"), [(16, True), (512, False)])
def test_narrow_nulls_get_more_draws_and_agree_with_a_long_simulation(d_sae, more):
    """Five covariance dictionaries of 16 rows are off by 0.01, the draws by 0.002."""
    rows, _ = synthetic_activations(2000, 24, 48, 3, seed=1)
    covariance = activation_covariance(rows)
    start = null_pwmcc(24, d_sae, 5, "covariance", covariance=covariance)
    found = random_null(start, [d_sae] * 5, 24, covariance)
    assert bool(found.draws) == more and found.pairs == start.pairs
    long = [
        null_pwmcc(24, d_sae, 2, "covariance", covariance=covariance, seeds=[s, s + 1]).mean
        for s in range(10**6, 10**6 + (2000 if more else 40), 2)
    ]
    assert found.mean == pytest.approx(sum(long) / len(long), abs=4 * TARGET_ERROR)
    if more:
        assert null_mean(found.pairs, found.draws).error < TARGET_ERROR


def test_the_error_of_the_null_widens_the_interval_of_s_by_the_delta_method():
    from husai.statistics import jackknife_t, t_quantile
    from husai.statistics.nulls import NullMean
    from husai.statistics.quality import corrected

    matrix = torch.full((5, 5), 0.6) + 0.01 * torch.eye(5)[torch.randperm(5)]
    matrix = ((matrix + matrix.T) / 2).double().numpy()
    plain = jackknife_t((matrix - 0.3) / 0.7)
    found = corrected(matrix, NullMean(0.3, 0.01, 16))
    se = (plain.ucb - plain.value) / t_quantile(4)
    slope = (1 - plain.value) * 0.7 / 0.7**2
    wanted = t_quantile(4) * math.hypot(se, slope * 0.01)
    assert found.value == pytest.approx(plain.value)
    assert found.value - found.lcb == pytest.approx(wanted) and found.lcb < plain.lcb
    assert found.method == "jackknife-t"


def test_a_rotated_dictionary_scores_as_random_directions_where_it_is_not_crowded():
    decoders = [torch.randn(64, 24, generator=torch.Generator().manual_seed(s)) for s in range(5)]
    found = crowding_null(decoders, living(decoders), torch.eye(24))
    assert found.mean == pytest.approx(null_pwmcc(24, 64, 5).mean, abs=0.01)


def test_activations_of_few_dimensions_make_the_crowding_null_high():
    """Rows within a plane: turned within it they are as close as any two directions of a plane."""
    g = torch.Generator().manual_seed(2)
    basis = torch.linalg.qr(torch.randn(24, 2, generator=g))[0]
    decoders = [(torch.randn(32, 2, generator=g) @ basis.T) for _ in range(5)]
    found = crowding_null(decoders, living(decoders), (basis @ basis.T).double())
    assert found.mean > 0.95
    whole = crowding_null(decoders, living(decoders), torch.eye(24))
    assert whole.mean < found.mean


def test_a_dictionary_outside_the_span_is_refused():
    basis = torch.eye(6)
    outside = [basis[3:].clone(), basis[3:].clone()]
    covariance = torch.diag(torch.tensor([1.0, 1, 1, 0, 0, 0]))
    with pytest.raises(HusaiError, match="no living row of dictionary 0 reaches into the span"):
        crowding_null(outside, living(outside), covariance)


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu", "batchtopk"])
def test_random_saes_have_the_rule_and_the_l0_of_the_one_they_stand_for(architecture):
    rows, _ = synthetic_activations(3000, 16, 40, 3, seed=4)
    threshold = torch.zeros(48) if architecture in ("jumprelu", "batchtopk") else None
    k = 5 if architecture == "topk" else None
    W = torch.randn(48, 16)
    like = SAE(architecture, W.T, W, torch.zeros(48), torch.zeros(16), threshold, k)
    decoder = covariance_decoder(activation_covariance(rows), 48, 0)
    made = random_sae(like, decoder, rows[:1024], rows.mean(0), 5.0)
    z = made.encode(rows)
    assert float((z > 0).sum(1).float().mean()) == pytest.approx(5.0, rel=0.1)
    pre = (rows.double() - rows.double().mean(0)) @ made.W_dec.double().T
    on = z > 0
    if architecture == "relu":
        assert float((pre - z)[on].std()) < 1e-5, "a constant is taken off"
    else:
        assert torch.allclose(z[on].double(), pre[on], atol=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_saes_drawn_at_chance_have_a_corrected_agreement_of_zero_though_their_raw_r_is_high(
    architecture,
):
    rows, _ = synthetic_activations(4000, 12, 4, 2, seed=6, noise=0.3)
    covariance = activation_covariance(rows)
    k = 8 if architecture == "topk" else None
    saes = []
    for seed in range(5):
        W = torch.nn.functional.normalize(covariance_decoder(covariance, 64, 500 + seed), dim=1)
        centre = -W @ rows.mean(0)
        made = SAE(architecture, W.T.contiguous(), W, centre, torch.zeros(12), None, k)
        made.apply_b_dec_to_input = False
        saes.append(made)
    found = measure_stability(saes, rows, seeds=range(5)).metrics()
    assert found["activation_r"].value > 0.3
    assert found["activation_agreement"].value == pytest.approx(0.0, abs=0.05)


def test_the_null_is_the_agreement_of_its_own_two_random_saes():
    """One pair by hand, matched and correlated by the public functions."""
    rows, _ = synthetic_activations(600, 12, 24, 3, seed=8)
    covariance = activation_covariance(rows)
    W = torch.randn(20, 12)
    like = [SAE("topk", W.T, W, torch.zeros(20), torch.zeros(12), k=3)] * 2
    found = agreement_null(like, rows, [3.0, 3.0], covariance)
    made = [
        random_sae(
            like[0], covariance_decoder(covariance, 20, 100_000 + s), rows, rows.mean(0), 3.0
        )
        for s in (0, 1)
    ]
    alive = [(m.encode(rows) > 0).any(0) for m in made]
    wanted = activation_agreement(*made, rows, alive_a=alive[0], alive_b=alive[1])
    assert found.draws[0] == pytest.approx(wanted, abs=1e-5)
