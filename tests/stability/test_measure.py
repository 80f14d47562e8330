"""The whole measurement of an ensemble with known structure: values, nulls, dead latents, movement,
and what it refuses.
"""

import json
import math
from dataclasses import replace

import pytest
import torch

from husai.errors import HusaiError
from husai.evidence import Metric
from husai.sae import SAE
from husai.stability import (
    gaussian_decoder,
    measure_stability,
    null_pwmcc,
    planted_decoders,
    planted_recovery,
    pwmcc,
    synthetic_activations,
    verdict,
)
from husai.statistics import jackknife_t

D_IN, D_SAE = 24, 48


def sae(W_dec, b_enc=None):
    d_sae, d_in = W_dec.shape
    b_enc = torch.zeros(d_sae) if b_enc is None else b_enc
    return SAE("relu", W_dec.T.contiguous(), W_dec, b_enc, torch.zeros(d_in))


def ensemble(n=5, shared=0.5, seed=0):
    return [sae(W) for W in planted_decoders(n, D_SAE, D_IN, shared, seed)]


@pytest.fixture(scope="module")
def rows():
    return torch.randn((600, D_IN), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def initial():
    return [gaussian_decoder(D_IN, D_SAE, 50 + i) for i in range(5)]


@pytest.fixture(scope="module")
def report(rows, initial):
    frozen = [sae(gaussian_decoder(D_IN, D_SAE, 90 + i)) for i in range(3)]
    return measure_stability(
        ensemble(), rows, seeds=range(5), initial_decoders=initial, frozen=frozen
    )


def test_every_agreed_metric_is_there_with_value_bounds_and_method(report):
    metrics = report.metrics()
    wanted = (
        "pwmcc pwmcc_all null_gaussian null_init null_covariance null_frozen null_worst S S_all "
        "pw_mcc shared_fraction feature_stability "
        "activation_r explained_variance l0 dead_fraction cos_to_init effective_rank "
        "participation_ratio subspace_overlap_r8 null_crowding null_error S_worst_seed S_weighted "
        "shared_fraction_weighted pwmcc_weighted activation_agreement null_activation_r redundancy "
        "distinct_latents dense_fraction l0_per_d_in explained_variance_vs_frozen l0_vs_frozen "
        "subspace_overlap_r16 subspace_overlap_r24 assessable shared_init_pairs clone_pairs"
    )
    assert set(wanted.split()) <= set(metrics)
    for found in metrics.values():
        assert set(found.to_json()) == {"value", "lcb", "ucb", "n", "method"}
    json.dumps(report.details(), allow_nan=False)


def test_s_is_the_planted_share_against_the_matching_null(report):
    gaussian = report.nulls["gaussian"]
    assert report.s_interval(gaussian).value == pytest.approx(0.5, abs=0.02)
    value = report.metrics()["pwmcc"].value
    assert report.metrics()["S"].value == pytest.approx(
        (value - report.worst.mean) / (1 - report.worst.mean)
    )
    assert report.worst.mean == max(n.mean for n in report.nulls.values())


def test_intervals_are_jackknife_t_over_seeds(report):
    assert report.metrics()["pwmcc"].lcb == jackknife_t(report.pwmcc.numpy()).lcb
    assert report.metrics()["pwmcc"].n == 5


def test_planted_features_are_shared_and_stable(report):
    assert report.metrics()["shared_fraction"].value == pytest.approx(0.5, abs=0.03)
    assert report.metrics()["activation_r"].value > 0.5
    always = torch.cat([s == 1.0 for s in report.sigma]).double().mean()
    assert float(always) == pytest.approx(0.5, abs=0.03)
    assert sum(report.details()["feature_stability_histogram"]["share"]) == pytest.approx(1.0)


def test_nulls_are_those_of_the_same_shape(report, initial):
    assert report.nulls["gaussian"].pairs == null_pwmcc(D_IN, D_SAE, 5).pairs
    assert report.nulls["init"].pairs[0] == pytest.approx(pwmcc(initial[0], initial[1]))
    assert len(report.nulls["frozen"].pairs) == 3


def test_dead_latents_are_left_out_and_both_ways_reported(rows):
    """Latents that all seeds share but that never fire must not raise the stability of the
    living.
    """
    bias = torch.zeros(D_SAE)
    bias[:24] = -1e6
    decoders = planted_decoders(3, D_SAE, D_IN, 0.5, shuffle=False)
    found = measure_stability([sae(W, bias) for W in decoders], rows, seeds=[1, 2, 3])
    assert found.dead_fraction == pytest.approx([0.5] * 3)
    assert found.metrics()["pwmcc_all"].value - found.metrics()["pwmcc"].value > 0.2
    assert found.metrics()["shared_fraction"].value == 0.0
    assert found.metrics()["shared_fraction_all"].value == pytest.approx(0.5)
    assert found.pwmcc[0, 1] == pytest.approx(pwmcc(decoders[0][24:], decoders[1][24:]), abs=1e-6)


def test_a_dead_row_of_length_zero_is_left_out_of_both(rows):
    decoders = planted_decoders(2, D_SAE, D_IN, 0.5, shuffle=False)
    bias = torch.zeros(D_SAE)
    bias[3] = -1e6
    decoders[0][3] = 0
    found = measure_stability([sae(W, bias) for W in decoders], rows, seeds=[1, 2])
    keep = torch.arange(D_SAE) != 3
    assert found.pwmcc_all[0, 1] == pytest.approx(pwmcc(decoders[0][keep], decoders[1]), abs=1e-6)


def test_an_ensemble_that_did_not_move_says_so(rows, initial):
    unit = [torch.nn.functional.normalize(d, dim=1) for d in initial]
    found = measure_stability(
        [sae(d) for d in unit], rows, seeds=range(5), initial_decoders=initial
    )
    assert found.metrics()["cos_to_init"].value == pytest.approx(1.0, abs=1e-6)
    assert found.metrics()["S"].value <= 0.0
    assert "reproducible" not in found.details()["verdict"]


def test_clones_and_shared_initialisations_are_counted(rows, initial):
    W = planted_decoders(1, D_SAE, D_IN, 0.0)[0]
    clones = [sae(W), sae(-W[torch.randperm(D_SAE)]), sae(W)]
    found = measure_stability(
        clones, rows, seeds=[1, 2, 3], initial_decoders=[initial[0], initial[0], initial[1]]
    )
    assert found.clone_pairs == 3
    assert found.shared_init_pairs == 1
    assert found.metrics()["S"].value == pytest.approx(1.0, abs=1e-5)


def test_a_null_above_0_9_makes_the_metric_not_assessable(rows, initial):
    found = measure_stability(ensemble(), rows, seeds=range(5), frozen=[sae(initial[0])] * 2)
    assert found.metrics()["assessable"].value == 0.0
    assert found.details()["verdict"].startswith("not assessable")
    assert math.isnan(found.metrics()["S"].value)
    assert found.metrics()["S"].lcb == -math.inf


def test_two_seeds_give_values_without_intervals(rows):
    found = measure_stability(ensemble(2), rows, seeds=[1, 2]).metrics()
    assert found["S"].lcb == -math.inf
    assert math.isfinite(found["S"].value)


def test_adding_seeds_changes_no_existing_pair(rows):
    saes = ensemble(5)
    few, more = (measure_stability(saes[:n], rows, seeds=range(n)) for n in (3, 5))
    for name in ("pwmcc", "pw_mcc", "shared", "activation_r"):
        assert torch.allclose(getattr(more, name)[:3, :3], getattr(few, name), atol=1e-9)


def test_a_transcoder_is_compared_in_the_space_it_writes_to(rows):
    g = torch.Generator().manual_seed(3)
    target = torch.randn((600, 10), generator=g)
    coders = []
    for _ in range(3):
        enc, dec = torch.randn((D_IN, 16), generator=g), torch.randn((16, 10), generator=g)
        coders.append(SAE("transcoder", enc, dec, torch.zeros(16), torch.zeros(10), k=4))
    found = measure_stability(coders, rows, seeds=[1, 2, 3], target=target)
    assert found.d_in == 10
    assert found.nulls["gaussian"].pairs == null_pwmcc(10, 16, 3).pairs
    assert found.weighted is None and found.activation_null is None
    assert found.pwmcc[0, 1] == pytest.approx(pwmcc(coders[0].W_dec, coders[1].W_dec), abs=1e-6)


def test_bad_ensembles_are_refused_and_the_seed_named(rows):
    saes = ensemble(3)
    with pytest.raises(HusaiError, match="at least two SAEs"):
        measure_stability(saes[:1], rows, seeds=[1])
    with pytest.raises(HusaiError, match="seed 1 appears twice"):
        measure_stability(saes, rows, seeds=[1, 1, 2])
    with pytest.raises(HusaiError, match="3 SAEs but 2 seeds"):
        measure_stability(saes, rows, seeds=[1, 2])
    with pytest.raises(HusaiError, match="3 SAEs but 1 initial"):
        measure_stability(saes, rows, seeds=[1, 2, 3], initial_decoders=[saes[0].W_dec])
    with pytest.raises(HusaiError, match="seed 2: all 48 latents are dead"):
        measure_stability(
            [saes[0], sae(saes[1].W_dec, torch.full((D_SAE,), -1e6))], rows, seeds=[1, 2]
        )
    broken = saes[1].W_dec.clone()
    broken[0, 0] = float("nan")
    with pytest.raises(HusaiError, match="seed 2: 1 entries of W_enc are NaN"):
        measure_stability([saes[0], sae(broken)], rows, seeds=[1, 2])
    with pytest.raises(HusaiError, match="rows"):
        measure_stability(saes, rows[:0], seeds=[1, 2, 3])
    with pytest.raises(HusaiError, match=r"\(48, 24\) and seed 2 \(48, 12\)|wide"):
        measure_stability([saes[0], sae(torch.randn(48, 12))], rows, seeds=[1, 2])


def test_verdicts():
    null = null_pwmcc(16, 16, 2)
    low, high = Metric(0.5, 0.4, 0.6, 5, ""), Metric(0.5, 0.2, 0.8, 5, "")
    assert verdict(low, low, null) == "reproducible"
    assert verdict(low, high, null).startswith("above chance, but not reproducible enough")
    assert verdict(replace(low, n=3), low, null).startswith("reproducible on these 3 SAEs, too few")
    assert verdict(Metric(0.0, -0.1, 0.1, 5, ""), low, null) == "not distinguishable from chance"
    assert verdict(Metric(-0.2, -0.3, -0.1, 5, ""), low, null).startswith("less alike")
    assert verdict(Metric(0.9, -math.inf, math.inf, 2, ""), low, null).startswith(
        "no interval: 2 independent SAEs"
    )


def test_synthetic_activations_are_sparse_sums_of_a_known_dictionary():
    rows, truth = synthetic_activations(300, 16, 40, 3, seed=1)
    again, same = synthetic_activations(300, 16, 40, 3, seed=1)
    assert torch.equal(rows, again)
    assert torch.equal(truth, same)
    assert rows.shape == (300, 16)
    assert torch.allclose(truth.norm(dim=1), torch.ones(40), atol=1e-6)
    assert torch.equal(synthetic_activations(10, 16, 40, 3, seed=1)[1], truth)
    one, truth = synthetic_activations(50, 64, 5, 1, seed=2)
    cosine = torch.nn.functional.normalize(one, dim=1) @ truth.T
    assert torch.allclose(cosine.max(1).values, torch.ones(50), atol=1e-5)
    assert one.norm(dim=1).min() >= 0.5 - 1e-5
    assert one.norm(dim=1).max() <= 1.5 + 1e-5
    with pytest.raises(HusaiError, match="l0 = 6"):
        synthetic_activations(10, 4, 5, 6)


def test_planted_recovery_is_0_for_random_directions_and_1_for_the_truth():
    _, truth = synthetic_activations(1, 32, 200, 1, seed=1)
    assert planted_recovery(-truth[torch.randperm(200)], truth).recovery == pytest.approx(
        1.0, abs=1e-5
    )
    assert planted_recovery(gaussian_decoder(32, 200, 5), truth).recovery == pytest.approx(
        0.0, abs=0.02
    )
    half = torch.cat([truth[:100], gaussian_decoder(32, 100, 5)])
    assert planted_recovery(half, truth).recovery == pytest.approx(0.5, abs=0.05)
    with pytest.raises(HusaiError, match=r"\(200, 32\).*\(5, 31\)"):
        planted_recovery(torch.randn(5, 31), truth)


def test_planted_decoders_refuse_a_share_that_is_no_whole_number_of_rows():
    with pytest.raises(HusaiError, match="whole number"):
        planted_decoders(2, 10, 4, 0.33)
