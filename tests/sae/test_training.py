"""Ensembles: independence of members, curves, objectives, L0 matching, and refusals."""

from dataclasses import replace

import pytest
import torch
from sae_helpers import recipe, rows

from husai.activations import ActivationStore, write_store
from husai.errors import HusaiError, RecipeFailed
from husai.sae import evaluate_sae
from husai.sae.architectures import SAE
from husai.sae.training.calibrate import TriedCoefficient, interpolate, match_l0
from husai.sae.training.ensemble import train_ensemble
from husai.sae.training.initialise import geometric_median, initial_decoder, measure_units
from husai.sae.training.members import Ensemble, Member
from husai.sae.training.objectives import match_rows
from husai.sae.training.optimiser import Optimiser, clip, learning_rate_factor
from husai.sae.training.run import curve_steps, plateau_gain

DATA, HELD_OUT = rows(1000), rows(300, seed=1)
ARCHITECTURES = ("topk", "batchtopk", "matryoshka", "relu", "jumprelu", "transcoder")


def train(r, seeds, **changes):
    extra = (
        {"target": DATA[:, :5] * 2 + 1, "held_out_target": HELD_OUT[:, :5] * 2 + 1}
        if r.architecture == "transcoder"
        else {}
    )
    return train_ensemble(r, seeds, DATA, held_out=HELD_OUT, **{**extra, **changes})


def weights(sae):
    return torch.cat([sae.W_enc.flatten(), sae.W_dec.flatten(), sae.b_enc, sae.b_dec])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_member_equals_training_it_alone(architecture):
    r = recipe(architecture, steps=200, dead_after_rows=1000)
    together, alone = train(r, [3, 5, 8]), train(r, [5])
    assert (weights(together.saes[1]) - weights(alone.saes[0])).abs().max() < 1e-4
    assert not torch.equal(weights(together.saes[0]), weights(together.saes[1]))
    assert torch.equal(together.initial_decoders[1], alone.initial_decoders[0])


def test_sparse_and_dense_kernels_train_the_same_sae():
    for architecture in ("topk", "batchtopk", "matryoshka", "relu", "transcoder"):
        r = recipe(architecture, steps=20)
        a, b = (train(r, [0], sparse=s, dtype="float64").saes[0] for s in (True, False))
        torch.testing.assert_close(weights(a), weights(b), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_reconstructs_and_reports_what_evaluation_measures(architecture):
    result = train(recipe(architecture, steps=250), [0])
    target = HELD_OUT[:, :5] * 2 + 1 if architecture == "transcoder" else None
    found = evaluate_sae(result.saes[0], HELD_OUT, target)
    final = result.final[0]
    assert final["explained_variance"] == pytest.approx(found["explained_variance"], abs=1e-6)
    assert final["explained_variance"] > (0.2 if architecture == "transcoder" else 0.5)
    assert result.curves[-1]["explained_variance"] > result.curves[0]["explained_variance"]
    torch.testing.assert_close(result.saes[0].W_dec.norm(dim=1), torch.ones(48))


def test_curves_have_a_start_an_end_and_the_plateau_step():
    result = train(recipe(steps=50), [0, 1])
    steps = [row["step"] for row in result.curves if row["seed"] == 1]
    assert steps == sorted(curve_steps(recipe(steps=50))) and {0, 30, 40, 50} <= set(steps)
    assert len(steps) == 21
    assert set(result.curves[0]) >= {
        "seed",
        "step",
        "loss",
        "explained_variance",
        "l0",
        "dead_fraction",
        "cos_to_init",
    }
    assert result.curves[0]["cos_to_init"] == pytest.approx(1.0)
    assert result.final[0]["cos_to_init"] < 1.0


def test_plateau_gain_is_that_of_a_fifth_of_the_steps_before_the_learning_rate_falls():
    made = recipe(steps=100, decay_fraction=0.2)
    assert plateau_gain([(0, 0.0), (60, 0.45), (80, 0.5), (100, 0.9)], made) == pytest.approx(0.1)
    assert plateau_gain([(0, 0.0), (60, -0.2), (80, -0.1), (100, 0)], made) == pytest.approx(1.0)
    constant = recipe(steps=100, decay_fraction=0.0)
    assert plateau_gain([(0, 0.0), (80, 0.45), (100, 0.5)], constant) == pytest.approx(0.1)


def test_a_training_that_decays_all_the_time_has_shown_no_plateau():
    result = train(recipe(steps=40, decay_fraction=1.0), [0])
    assert result.final[0]["plateau_gain"] == 1.0 and not result.final[0]["plateau"]


def test_batch_top_k_threshold_gives_k_active_latents_on_held_out_rows():
    result = train(recipe("batchtopk", steps=60), [0])
    assert evaluate_sae(result.saes[0], HELD_OUT)["l0"] == pytest.approx(4.0, rel=0.02)


def test_a_frozen_decoder_is_the_initial_one_and_the_rest_is_trained():
    r = recipe(steps=60, frozen_decoder=True)
    result = train(r, [4])
    assert torch.equal(result.saes[0].W_dec, initial_decoder(r, 4, 16))
    assert result.final[0]["cos_to_init"] == pytest.approx(1.0)
    assert result.curves[-1]["explained_variance"] > result.curves[0]["explained_variance"]


def test_initial_decoders_depend_on_the_seed_alone():
    r = recipe()
    a, again, b = (
        initial_decoder(r, 0, 16),
        initial_decoder(replace(r, k=7), 0, 16),
        initial_decoder(r, 1, 16),
    )
    assert torch.equal(a, again)
    assert (a * b).sum(1).abs().mean() < 0.5
    gaussian = torch.randn(48, 16, generator=torch.Generator().manual_seed(0))
    assert torch.nn.functional.cosine_similarity(a, gaussian).abs().mean() < 0.5


def test_a_shared_order_gives_different_results_from_own_orders():
    own, shared = (train(recipe(shared_data_order=s), [0, 1]) for s in (False, True))
    assert not torch.equal(weights(own.saes[1]), weights(shared.saes[1]))


def test_consistency_draws_decoders_to_the_reference():
    reference = initial_decoder(recipe(), 77, 16)

    def alignment(weight):
        r = (
            recipe(steps=150, consistency_weight=weight, reference_seed=77, consistency_interval=10)
            if weight
            else recipe(steps=150)
        )
        sae = train(r, [0], reference=reference if weight else None).saes[0]
        return float((sae.W_dec * reference[match_rows(sae.W_dec, reference)]).sum(1).abs().mean())

    assert alignment(3.0) > alignment(0.0) + 0.1


def test_match_rows_undoes_a_permutation_also_beyond_the_exact_limit(monkeypatch):
    A = torch.nn.functional.normalize(
        torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=1
    )
    order = torch.randperm(60)
    for limit in (1024, 10):
        monkeypatch.setattr("husai.sae.training.objectives.EXACT_MATCHING_LIMIT", limit)
        assert torch.equal(order[match_rows(A, -A[order])], torch.arange(60))
        other = torch.nn.functional.normalize(torch.randn(60, 8), dim=1)
        assert sorted(match_rows(A, other).tolist()) == list(range(60))


def test_auxk_revives_latents_that_never_fire():
    dead = []
    for coefficient in (0.0, 1 / 32):
        ensemble = Ensemble(
            recipe(steps=300, dead_after_rows=300, auxk_coefficient=coefficient), [Member(0)], DATA
        )
        ensemble.parameters["b_enc"][:, :24] -= 2.0
        for _ in range(300):
            ensemble.lanes[0].step()
        dead.append(evaluate_sae(ensemble.export(0), HELD_OUT)["dead_fraction"])
    assert dead[0] >= 0.45 and dead[1] < 0.3


def test_rows_that_the_batch_does_not_divide_and_a_batch_larger_than_the_rows():
    for batch in (300, 1500):
        result = train(recipe(steps=12, batch_size=batch), [0])
        assert all(torch.isfinite(weights(s)).all() for s in result.saes)


def test_k_equal_to_d_sae():
    assert train(recipe(d_sae=16, k=16, steps=30), [0]).final[0]["l0"] <= 16


def test_rows_from_a_store_train_the_same_as_from_a_tensor(tmp_path):
    write_store(tmp_path / "train", DATA)
    store = ActivationStore.open(tmp_path / "train")
    a = train(recipe(n_rows=800), [0]).saes[0]
    b = train_ensemble(recipe(n_rows=800), [0], store, held_out=HELD_OUT).saes[0]
    torch.testing.assert_close(weights(a), weights(b), rtol=1e-4, atol=1e-4)


def test_training_is_scale_free():
    a = train_ensemble(recipe(), [0], DATA, held_out=HELD_OUT)
    b = train_ensemble(recipe(), [0], DATA * 1000, held_out=HELD_OUT * 1000)
    assert a.final[0]["explained_variance"] == pytest.approx(
        b.final[0]["explained_variance"], abs=1e-3
    )


def test_nan_stops_with_the_step_and_the_seed_named():
    bad = DATA.clone()
    bad[7] = float("nan")
    with pytest.raises(HusaiError, match=r"hold NaN"):
        train_ensemble(recipe(), [0], bad, held_out=HELD_OUT)
    huge = torch.cat([DATA] * 6)
    huge[3] = float("inf")
    r = recipe(steps=40, batch_size=600)
    with pytest.raises(HusaiError, match=r"loss of seed [01] became NaN or infinite at step \d+"):
        train_ensemble(r, [0, 1], huge, held_out=HELD_OUT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": [1, 1]}, "distinct"),
        ({"seeds": []}, "distinct"),
        ({"r": recipe(k="calibrated")}, "calibrated"),
        ({"held_out": HELD_OUT[:, :4]}, "wide"),
        ({"target": DATA}, "transcoder"),
        ({"r": recipe("transcoder")}, "transcoder"),
        ({"r": recipe(consistency_weight=1.0, reference_seed=1)}, "reference decoder"),
        ({"dtype": "int8"}, "dtype"),
        ({"data": torch.ones(50, 16)}, "do not vary"),
        ({"r": recipe(n_rows=5000)}, "n_rows"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(changes, message):
    call = {"r": recipe(), "seeds": [0], "data": DATA, "held_out": HELD_OUT, **changes}
    with pytest.raises(HusaiError, match=message) as caught:
        train_ensemble(call.pop("r"), call.pop("seeds"), call.pop("data"), **call)
    assert "\n" not in str(caught.value)


def test_evaluation_matches_a_plain_definition_in_any_batching():
    sae = SAE("relu", torch.randn(16, 9), torch.randn(9, 16), torch.randn(9), torch.randn(16))
    found = evaluate_sae(sae, HELD_OUT)
    x, z, x_hat = HELD_OUT.double(), sae.encode(HELD_OUT), sae(HELD_OUT).double()
    expected = 1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
    assert found["explained_variance"] == pytest.approx(float(expected), rel=1e-5)
    assert found["l0"] == pytest.approx(float((z > 0).sum(1).float().mean()))
    assert torch.equal(found["alive"], (z > 0).any(0))
    assert found["mse"] == pytest.approx(float((x - x_hat).square().mean()), rel=1e-5)


def test_nan_in_the_held_out_rows_is_an_error_and_no_figure():
    broken = rows(200, seed=1)
    broken[7, 3] = float("nan")
    with pytest.raises(HusaiError, match="NaN or infinite values in the activations"):
        train_ensemble(recipe(), [1, 2], rows(400), held_out=broken)


def test_the_geometric_median_ignores_a_far_outlier():
    points = torch.cat(
        [torch.randn(99, 4, dtype=torch.float64), torch.full((1, 4), 1e6, dtype=torch.float64)]
    )
    assert geometric_median(points).norm() < 1.0
    assert float(measure_units(recipe(), DATA).scale_in) > 0


def test_the_learning_rate_rises_and_falls_linearly():
    factors = [learning_rate_factor(s, 100, 0.1, 0.2) for s in range(100)]
    assert (
        factors[0] == pytest.approx(0.1)
        and factors[9:81] == [1.0] * 72
        and factors[99] == pytest.approx(0.05)
    )


def test_the_clip_is_per_member_over_all_parameters():
    gradients = {"a": torch.tensor([[3.0], [0.3]]), "b": torch.tensor([[[4.0]], [[0.4]]])}
    clip(gradients, 1.0)
    torch.testing.assert_close(gradients["a"], torch.tensor([[0.6], [0.3]]))
    torch.testing.assert_close(gradients["b"].view(-1), torch.tensor([0.8, 0.4]))


def test_the_optimiser_is_adam_on_the_sphere():
    g = torch.Generator().manual_seed(0)
    start = {"W_dec": torch.randn(2, 6, 4, generator=g), "b_enc": torch.randn(2, 6, generator=g)}
    start["W_dec"] /= start["W_dec"].norm(dim=-1, keepdim=True)
    ours = {n: v.clone() for n, v in start.items()}
    theirs = {n: torch.nn.Parameter(v.clone()) for n, v in start.items()}
    optimiser, adam = Optimiser(ours, None), torch.optim.Adam(theirs.values(), eps=1e-8 / 4)
    for step in range(5):
        gradients = {n: torch.randn(v.shape, generator=g) for n, v in start.items()}
        for name, p in theirs.items():
            p.grad = gradients[name].clone()
        theirs["W_dec"].grad -= (theirs["W_dec"].grad * theirs["W_dec"].data).sum(
            -1, keepdim=True
        ) * theirs["W_dec"].data
        adam.param_groups[0]["lr"] = 0.01 * (step + 1)
        adam.step()
        theirs["W_dec"].data /= theirs["W_dec"].data.norm(dim=-1, keepdim=True)
        optimiser.step(gradients, 0.01 * (step + 1))
    for name in start:
        torch.testing.assert_close(ours[name], theirs[name].data)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu"])
def test_l0_is_matched_within_five_per_cent(architecture):
    r = replace(recipe(architecture, steps=150), l0_target=5.0, sparsity_coefficient=None)
    coefficient = match_l0(r, DATA, HELD_OUT)
    result = train(replace(r, sparsity_coefficient=coefficient), [0])
    assert result.final[0]["l0"] == pytest.approx(5.0, rel=0.05)


def test_a_given_coefficient_must_give_the_l0_that_the_recipe_names():
    r = replace(recipe("relu", steps=30), l0_target=5.0, sparsity_coefficient=1e-6)
    with pytest.raises(RecipeFailed, match=r"gave L0 .* not 5; leave it out"):
        train(r, [0])


def test_interpolation_of_coefficients():
    trials = [TriedCoefficient(0.1, 100.0), TriedCoefficient(10.0, 1.0)]
    assert interpolate(trials, 10.0) == pytest.approx(1.0)
    assert interpolate(trials, 0.5) > 10.0
    assert interpolate(trials, 400.0) < 0.1
