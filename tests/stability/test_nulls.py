"""The nulls: known answers of docs/method.md section 1, what each is made of, and the chance
correction.
"""

import math

import pytest
import torch

from husai.errors import HusaiError
from husai.stability import (
    NullResult,
    assessable,
    chance_corrected,
    gaussian_decoder,
    null_pwmcc,
    pairwise,
    planted_decoders,
    pwmcc,
    worst_null,
)
from husai.stability.nulls import null_decoders
from husai.statistics.nulls import pair_matrix


def test_known_answer_128_x_1024():
    assert null_pwmcc(128, 1024, 5).mean == pytest.approx(0.298829481, abs=1e-6)


def test_known_answer_from_plain_tensors():
    """The same number without this room's generator: docs/method.md draws (d_in, d_sae), columns
    are features.
    """
    drawn = [
        torch.randn((128, 1024), generator=torch.Generator().manual_seed(s))
        for s in range(1000, 1005)
    ]
    pairs = [pwmcc(drawn[i].T, drawn[j].T) for i in range(5) for j in range(i + 1, 5)]
    assert sum(pairs) / 10 == pytest.approx(0.298829481, abs=1e-6)
    assert float(null_pwmcc(128, 1024, 5)) == pytest.approx(sum(pairs) / 10, abs=1e-9)
    arrays = [d.T.double().numpy() for d in drawn]
    assert null_pwmcc(128, 1024, 5, "init", decoders=arrays).mean == pytest.approx(
        0.298829481, abs=1e-6
    )


@pytest.mark.parametrize(("d_in", "d_sae"), [(128, 64), (64, 128), (50, 50), (32, 500)])
def test_null_is_by_the_definition_for_any_shape(d_in, d_sae):
    """Fewer features than dimensions too: never transposed."""
    drawn = [
        torch.randn((d_in, d_sae), generator=torch.Generator().manual_seed(s)).T.double()
        for s in (7, 8)
    ]
    A, B = (torch.nn.functional.normalize(m, dim=1) for m in drawn)
    C = (A @ B.T).abs()
    expected = float((C.max(1).values.mean() + C.max(0).values.mean()) / 2)
    assert null_pwmcc(d_in, d_sae, 2, seeds=[7, 8]).mean == pytest.approx(expected, abs=1e-6)


def test_known_answer_three_pairs_of_128_x_128():
    found = null_pwmcc(128, 128, 3, seeds=[100042, 100123, 100456])
    assert found.pairs == pytest.approx((0.2508258522, 0.2499678060, 0.2429674417), abs=1e-6)


def test_known_answer_mean_of_five_seeds_of_128_x_128():
    found = null_pwmcc(128, 128, 5, seeds=[s + 100000 for s in (42, 123, 456, 789, 1011)])
    assert found.mean == pytest.approx(0.2455557689, abs=1e-6)
    assert len(found.pairs) == 10


def test_gaussian_features_are_the_columns_of_what_is_drawn():
    drawn = torch.randn((3, 7), generator=torch.Generator().manual_seed(1000))
    assert torch.equal(gaussian_decoder(3, 7, 1000), drawn.T)


def test_adding_seeds_leaves_existing_null_pairs_alone():
    few, more = null_pwmcc(8, 16, 3), null_pwmcc(8, 16, 5)
    assert few.pairs == (more.pairs[0], more.pairs[1], more.pairs[4])


def test_covariance_null_is_the_gaussian_one_for_white_activations_and_higher_for_narrow_ones():
    assert null_pwmcc(16, 32, 3, "covariance", covariance=torch.eye(16)).mean == pytest.approx(
        null_pwmcc(16, 32, 3).mean, abs=1e-6
    )
    narrow = torch.diag(torch.tensor([100.0] * 2 + [0.01] * 14))
    assert null_pwmcc(16, 32, 3, "covariance", covariance=narrow).mean > 0.9


def test_covariance_directions_have_that_covariance():
    wanted = torch.tensor([[2.0, 0.6], [0.6, 0.5]])
    rows = null_decoders("covariance", 2, [200_000], [0], wanted)[0]
    assert torch.allclose(rows.T.cov(), wanted, atol=0.02)


def test_a_singular_covariance_gives_directions_in_its_range():
    singular = torch.diag(torch.tensor([1.0, 0.0, 4.0]))
    rows = null_decoders("covariance", 3, [50], [0], singular)[0]
    assert rows[:, 1].abs().max() < 1e-6


def test_init_and_frozen_nulls_are_the_decoders_given():
    decoders = [torch.randn(12, 6) for _ in range(4)]
    found = null_pwmcc(6, 12, 4, "init", decoders=decoders)
    matrix = pairwise(decoders)
    assert found.pairs == tuple(float(matrix[i, j]) for i in range(4) for j in range(i + 1, 4))
    assert found.mean == pytest.approx(sum(found.pairs) / 6)
    assert found.std == pytest.approx(float(torch.tensor(found.pairs).std()), rel=1e-5)
    assert found.kind == "init"
    assert (pair_matrix(found.pairs) == matrix.numpy()).all()


def test_dictionaries_of_different_width():
    found = null_pwmcc(8, 16, 2, sizes=[16, 24])
    assert found.mean == pytest.approx(
        pwmcc(gaussian_decoder(8, 16, 1000), gaussian_decoder(8, 24, 1001))
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "gausian"}, "did you mean 'gaussian'"),
        ({"n_seeds": 1}, "at least two seeds"),
        ({"kind": "covariance"}, "needs the activation covariance"),
        ({"kind": "covariance", "covariance": torch.eye(5)}, "does not fit d_in = 8"),
        ({"kind": "covariance", "covariance": torch.zeros(8, 8)}, "do not vary"),
        ({"kind": "covariance", "covariance": torch.full((8, 8), float("nan"))}, "NaN"),
        ({"kind": "init"}, "needs decoders"),
        (
            {"kind": "init", "decoders": [torch.ones(16, 8)] * 3},
            "3 decoders were given for n_seeds = 2",
        ),
        ({"kind": "frozen", "decoders": [torch.ones(16, 7)] * 2}, r"\(16, 7\) does not fit"),
        ({"seeds": [1, 2, 3]}, "3 seeds were given for n_seeds = 2"),
    ],
)
def test_bad_requests_say_what_is_wrong(arguments, message):
    with pytest.raises(HusaiError, match=message):
        null_pwmcc(**({"d_in": 8, "d_sae": 16, "n_seeds": 2} | arguments))


def test_chance_correction_is_0_at_chance_and_1_when_identical():
    null = NullResult(0.3, 0.01, (0.3,))
    assert chance_corrected(0.3, null) == 0.0
    assert chance_corrected(1.0, 0.3) == 1.0
    assert chance_corrected(0.65, null) == pytest.approx(0.5)
    assert chance_corrected(0.1, null) < 0
    assert torch.allclose(
        chance_corrected(torch.tensor([0.3, 1.0]), null), torch.tensor([0.0, 1.0])
    )
    assert math.isnan(chance_corrected(1.0, 1.0))


def test_the_worst_null_is_the_highest_and_above_0_9_nothing_can_be_assessed():
    low, high = (
        NullResult(0.3, 0.0, (0.3,), "gaussian"),
        NullResult(0.95, 0.0, (0.95,), "covariance"),
    )
    assert worst_null([low, high]) is high
    assert assessable(low)
    assert not assessable(high)
    assert not assessable(float("nan"))
    with pytest.raises(HusaiError, match="no null"):
        worst_null([])


@pytest.mark.parametrize("shared", [0.25, 0.5, 0.75])
def test_a_planted_shared_fraction_is_recovered(shared):
    """docs/method.md section 1: S recovers 0.25, 0.50 and 0.75 to within 0.001."""
    matrix = pairwise(planted_decoders(6, 1024, 128, shared, seed=1))
    value = float(matrix[torch.triu(torch.ones(6, 6), 1).bool()].mean())
    assert chance_corrected(value, null_pwmcc(128, 1024, 6)) == pytest.approx(shared, abs=1e-3)
