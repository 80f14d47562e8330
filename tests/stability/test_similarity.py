"""PWMCC: the known answers of docs/method.md, its invariances, its orientation, its memory, and
what it refuses.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.errors import HusaiError
from husai.stability import (
    feature_stability,
    mean_to_others,
    movement,
    pairwise,
    pairwise_best,
    pwmcc,
    similarity,
)
from husai.stability.similarity import UnitRows, best_cosines, reappearance_matrix

sizes = st.integers(2, 12)
seeds = st.integers(0, 2**31)


def normal(rows, cols, seed=0, dtype=torch.float32):
    return torch.randn((rows, cols), generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(A, B):
    """PWMCC as written in docs/method.md section 1, in float64 and in one piece."""
    A, B = (torch.nn.functional.normalize(m.double(), dim=1) for m in (A, B))
    C = (A @ B.T).abs()
    return float((C.max(1).values.mean() + C.max(0).values.mean()) / 2)


@given(sizes, sizes, st.integers(1, 9), seeds)
@settings(max_examples=40, deadline=None)
def test_equals_its_definition(n_a, n_b, d_in, seed):
    A, B = normal(n_a, d_in, seed), normal(n_b, d_in, seed + 1)
    assert pwmcc(A, B) == pytest.approx(by_definition(A, B), abs=1e-6)


@pytest.mark.parametrize("extra", [(0, 0), (1, 1), (-1, 3)])
def test_blocks_do_not_change_the_value(extra, monkeypatch):
    monkeypatch.setattr(similarity, "CPU_BLOCK", (64, 100))
    A, B = normal(64 + extra[0], 8, 1), normal(200 + extra[1], 8, 2)
    assert pwmcc(A, B) == pytest.approx(by_definition(A, B), abs=1e-6)


@given(sizes, st.integers(2, 9), seeds)
@settings(max_examples=40, deadline=None)
def test_order_and_sign_of_rows_and_their_length_do_not_matter(n, d_in, seed):
    A, B = normal(n, d_in, seed), normal(n, d_in, seed + 1)
    g = torch.Generator().manual_seed(seed)
    flips = torch.randint(0, 2, (n, 1), generator=g) * 2.0 - 1
    changed = (A * flips * (torch.rand((n, 1), generator=g) * 100 + 1e-3))[
        torch.randperm(n, generator=g)
    ]
    assert pwmcc(A, changed) == pytest.approx(1.0, abs=1e-6)
    assert pwmcc(changed, B) == pytest.approx(pwmcc(A, B), abs=1e-6)


@given(sizes, sizes, st.integers(1, 9), seeds)
@settings(max_examples=40, deadline=None)
def test_is_symmetric_and_between_0_and_1(n_a, n_b, d_in, seed):
    A, B = normal(n_a, d_in, seed), normal(n_b, d_in, seed + 1)
    assert pwmcc(A, B) == pytest.approx(pwmcc(B, A), abs=1e-6)
    assert 0.0 <= pwmcc(A, B) <= 1.0


@given(st.integers(2, 6), seeds)
@settings(max_examples=25, deadline=None)
def test_more_seeds_leave_existing_pairs_bit_for_bit_alone(n, seed):
    decoders = [normal(9, 5, seed + i) for i in range(n + 2)]
    assert torch.equal(pairwise(decoders)[:n, :n], pairwise(decoders[:n]))


def test_pairwise_matrix_is_made_of_the_pairs():
    decoders = [normal(9, 5, i) for i in range(3)]
    matrix = pairwise(decoders)
    for i in range(3):
        assert matrix[i, i] == 1.0
        for j in range(3):
            assert i == j or matrix[i, j] == pytest.approx(
                by_definition(decoders[i], decoders[j]), abs=1e-6
            )
    assert float(mean_to_others(matrix)[0]) == pytest.approx(float(matrix[0, 1] + matrix[0, 2]) / 2)


def test_fewer_features_than_dimensions_are_still_features_as_rows():
    """64 features in 128 dimensions: nearly orthogonal. Read the other way, 128 vectors in R^64
    score far higher.
    """
    A, B = normal(64, 128, 1), normal(64, 128, 2)
    assert pwmcc(A, B) == pytest.approx(by_definition(A, B), abs=1e-6)
    assert by_definition(A.T, B.T) - pwmcc(A, B) > 0.1
    copy = A[torch.randperm(64)]
    assert pwmcc(A, copy) == pytest.approx(1.0, abs=1e-6)


def test_wrong_shapes_are_refused_and_both_are_named():
    with pytest.raises(HusaiError, match=r"\(64, 128\).*\(128, 64\)"):
        pwmcc(normal(64, 128), normal(128, 64))
    with pytest.raises(HusaiError, match=r"\(4, 3\).*\(4, 2\)"):
        pairwise([normal(4, 3), normal(4, 2)])
    with pytest.raises(HusaiError, match=r"\(3, 4, 5\)"):
        pwmcc(torch.ones(3, 4, 5), normal(4, 5))
    with pytest.raises(HusaiError, match="list"):
        pwmcc([[1.0]], normal(4, 5))


def test_bad_rows_are_refused_in_one_line():
    good, bad = normal(5, 3), normal(5, 3)
    bad[2] = 0
    with pytest.raises(HusaiError, match=r"1 of 5 rows are zero \(first: row 2\)"):
        pwmcc(good, bad)
    bad[2, 1] = float("nan")
    with pytest.raises(HusaiError, match="NaN or infinite"):
        pwmcc(bad, good)
    bad[2, 1] = float("inf")
    with pytest.raises(HusaiError, match="NaN or infinite"):
        pwmcc(bad, good)
    with pytest.raises(HusaiError, match=r"\(0, 3\) holds no features"):
        pwmcc(good, torch.empty(0, 3))
    with pytest.raises(HusaiError, match="at least two SAEs"):
        pairwise([good])


def test_dead_latents_are_left_out_and_all_dead_is_an_error():
    A, B = normal(6, 4, 1), normal(6, 4, 2)
    alive = torch.tensor([True, False, True, True, False, True])
    assert pwmcc(A, B, alive, None) == pytest.approx(by_definition(A[alive], B), abs=1e-6)
    assert pairwise([A, B], [alive, ~alive])[0, 1] == pytest.approx(
        by_definition(A[alive], B[~alive]), abs=1e-6
    )
    with pytest.raises(HusaiError, match="all 6 latents are dead"):
        pwmcc(A, B, torch.zeros(6, dtype=torch.bool))
    with pytest.raises(HusaiError, match=r"bool of shape \(6,\)"):
        pwmcc(A, B, torch.ones(5, dtype=torch.bool))
    dead_row = A.clone()
    dead_row[1] = 0
    assert pwmcc(dead_row, B, alive) == pytest.approx(by_definition(A[alive], B), abs=1e-6)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)]
)
def test_number_formats(dtype, tolerance):
    A, B = normal(30, 7, 1).to(dtype), normal(30, 7, 2).to(dtype)
    assert pwmcc(A, B) == pytest.approx(by_definition(A, B), abs=tolerance)
    assert pwmcc(A, B.float()) == pytest.approx(by_definition(A, B), abs=1e-6)


def test_arrays_parameters_and_whole_numbers_are_dictionaries_too():
    A, B = normal(30, 7, 1), normal(30, 7, 2)
    expected = pwmcc(A, B)
    assert pwmcc(A.numpy(), B.numpy()) == expected
    assert pwmcc(torch.nn.Parameter(A), B) == expected
    assert pwmcc(A.double().numpy(), B.double()) == pytest.approx(by_definition(A, B), abs=1e-12)
    read_only = A.numpy().copy()
    read_only.flags.writeable = False
    assert pwmcc(read_only[::-1], B.numpy()) == pytest.approx(expected, abs=1e-7)
    assert pwmcc(np.eye(3, dtype=int), torch.eye(3)) == 1.0
    assert torch.equal(pairwise(np.stack([A, B])), pairwise([A, B]))
    assert pwmcc(A.numpy(), B, np.arange(30) < 20) == pwmcc(A[:20], B)
    for wrong in (
        np.array([["a"]]),
        np.ones((2, 7), dtype=complex),
        torch.ones((2, 7), dtype=torch.complex64),
    ):
        with pytest.raises(HusaiError, match=r"numpy array|real numbers"):
            pwmcc(wrong, B)


def test_a_feature_and_its_negative_are_one():
    A = torch.eye(3)
    assert best_cosines(UnitRows(A), UnitRows(-A))[0].tolist() == [1.0, 1.0, 1.0]


def test_feature_stability_counts_the_seeds_in_which_a_feature_reappears():
    e = torch.eye(6)
    decoders = [e[[0, 1, 2]], e[[2, 0, 3]], e[[0, 4, 5]]]
    sigma = feature_stability(decoders)
    assert [s.tolist() for s in sigma] == [[1.0, 0.0, 0.5], [0.5, 1.0, 0.0], [1.0, 0.0, 0.0]]
    share = reappearance_matrix(pairwise_best(decoders).best)
    assert share[0, 1] == pytest.approx(2 / 3)
    assert share[0, 2] == pytest.approx(1 / 3)


def test_a_match_at_the_threshold_is_no_match():
    decoders = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])]
    assert feature_stability(decoders, threshold=0.59)[0].item() == 1.0
    assert feature_stability(decoders, threshold=0.61)[0].item() == 0.0


def test_movement_is_the_median_cosine_to_the_initial_row():
    initial = torch.eye(3)
    moved = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 4.0], [1.0, 0.0, 0.0]])
    assert movement(moved, initial) == pytest.approx(0.6)
    assert movement(moved, initial, torch.tensor([True, True, False])) == pytest.approx(0.8)
    with pytest.raises(HusaiError, match=r"\(3, 3\).*\(2, 3\)"):
        movement(moved, initial[:2])


MEMORY = """
import resource, sys, torch
from husai.stability import pwmcc
A = torch.randn(12288, 64)
pwmcc(A[:64], A[:64])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pwmcc(A, A)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_memory_does_not_hold_the_cosine_matrix():
    """The whole matrix would take 590 MB here, and 17 GB at 65536 x 65536."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 130 * 1024
