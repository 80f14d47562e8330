"""Subspaces and spectra against closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.errors import HusaiError
from husai.stability import (
    activation_covariance,
    default_ranks,
    effective_rank,
    participation_ratio,
    principal_directions,
    subspace_overlap,
    subspace_overlaps,
)

seeds = st.integers(0, 2**31)


def normal(rows, cols, seed=0):
    return torch.randn(
        (rows, cols), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def test_overlap_is_1_for_the_same_span_and_0_for_an_orthogonal_one():
    e = torch.eye(8)
    assert subspace_overlap(e[:3], 5 * e[[2, 0, 1]], 3) == pytest.approx(1.0)
    assert subspace_overlap(e[:3], e[3:6], 3) == pytest.approx(0.0, abs=1e-12)
    assert subspace_overlap(e[:2], e[1:3], 2) == pytest.approx(0.5)


@given(seeds, st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_equals_the_definition_by_singular_vectors(seed, rank):
    A, B = normal(9, 6, seed), normal(7, 6, seed + 1)
    U, V = (torch.linalg.svd(m, full_matrices=False).Vh.T[:, :rank] for m in (A, B))
    assert subspace_overlap(A, B, rank) == pytest.approx(
        float((U.T @ V).square().sum()) / rank, abs=1e-9
    )


def test_chance_is_rank_over_d_in():
    values = [subspace_overlap(normal(256, 64, i), normal(256, 64, i + 100), 16) for i in range(20)]
    assert sum(values) / 20 == pytest.approx(16 / 64, abs=0.02)


def test_fewer_features_than_dimensions_span_a_subspace_of_the_right_space():
    A, B = normal(64, 128, 1), normal(64, 128, 2)
    assert principal_directions(A).shape == (128, 64)
    assert subspace_overlap(A, B, 64) == pytest.approx(0.5, abs=0.03)
    assert principal_directions(normal(200, 128)).shape == (128, 128)


def test_ranks_run_from_8_to_d():
    assert default_ranks(128) == [8, 16, 32, 64, 128]
    assert default_ranks(100) == [8, 16, 32, 64, 100]
    assert default_ranks(128, 24) == [8, 16, 24]
    assert default_ranks(4) == [4]
    found = subspace_overlaps(normal(300, 32, 1), normal(300, 32, 2))
    assert list(found) == [8, 16, 32]
    assert found[32] == pytest.approx(1.0)


def test_impossible_requests_are_refused():
    A = normal(5, 8)
    for rank in (0, 6):
        with pytest.raises(HusaiError, match=f"rank {rank} is not between 1 and 5"):
            subspace_overlap(A, A, rank)
    with pytest.raises(HusaiError, match=r"\(5, 8\).*\(5, 7\)"):
        subspace_overlap(A, normal(5, 7), 2)
    with pytest.raises(HusaiError, match="NaN"):
        subspace_overlap(A, A * float("nan"), 2)


def test_effective_rank_counts_equal_directions():
    assert effective_rank(torch.ones(7)) == pytest.approx(7.0)
    assert participation_ratio(torch.ones(7)) == pytest.approx(7.0)
    assert effective_rank(torch.tensor([3.0, 0.0, 0.0])) == pytest.approx(1.0)


def test_effective_rank_of_a_known_spectrum():
    """lambda = (1/2, 1/4, 1/4): entropy 1.5 ln 2, so exp(H) = 2^1.5; participation ratio 1 / (1/4 +
    1/16 + 1/16) = 8/3.
    """
    spectrum = torch.tensor([2.0, 1.0, 1.0])
    assert effective_rank(spectrum) == pytest.approx(2**1.5)
    assert participation_ratio(spectrum) == pytest.approx(8 / 3)


def test_effective_rank_of_activations_is_that_of_their_centred_covariance():
    rows = normal(5000, 4, 3) * torch.tensor([2.0, 1.0, 1.0, 0.5], dtype=torch.float64) + 100.0
    expected = torch.linalg.eigvalsh(rows.T.cov())
    assert effective_rank(rows) == pytest.approx(effective_rank(expected), rel=1e-9)
    assert participation_ratio(rows) == pytest.approx(participation_ratio(expected), rel=1e-9)
    assert participation_ratio(rows) <= effective_rank(rows) <= 4


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_effective_rank_ignores_rotation_scale_and_offset(seed):
    rows = normal(40, 5, seed)
    Q = torch.linalg.qr(normal(5, 5, seed + 1)).Q
    assert effective_rank(7 * rows @ Q + 3) == pytest.approx(effective_rank(rows), rel=1e-8)


def test_arrays_are_activations_and_dictionaries_too():
    rows = normal(40, 5, 1)
    assert effective_rank(rows.numpy()) == effective_rank(rows)
    assert participation_ratio(torch.linalg.eigvalsh(rows.T.cov()).numpy()) == pytest.approx(
        participation_ratio(rows)
    )
    assert subspace_overlap(rows.numpy(), rows.float(), 3) == pytest.approx(1.0, abs=1e-5)


def test_covariance_is_streamed():
    rows = normal(1000, 3, 1).float() + 50

    class Store:
        n_rows = 1000

        def rows(self, start, stop):
            return rows[start:stop]

    assert torch.allclose(activation_covariance(rows, step=77), rows.double().T.cov(), atol=1e-9)
    assert torch.equal(
        activation_covariance(Store(), step=77), activation_covariance(rows, step=77)
    )


def test_activations_without_variance_are_refused():
    with pytest.raises(HusaiError, match="do not vary"):
        effective_rank(torch.ones(10, 3))
    with pytest.raises(HusaiError, match="too few"):
        effective_rank(torch.ones(1, 3))
    with pytest.raises(HusaiError, match="NaN"):
        effective_rank(torch.full((10, 3), math.nan))
