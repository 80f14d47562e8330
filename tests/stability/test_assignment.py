"""One-to-one matching: optimal, one to one, signed; PW-MCC and the shared fraction read off it."""

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.errors import HusaiError
from husai.stability import hungarian, pw_mcc, pwmcc, shared_fraction

seeds = st.integers(0, 2**31)


def normal(rows, cols, seed=0):
    return torch.randn((rows, cols), generator=torch.Generator().manual_seed(seed))


def cosines(A, B):
    A, B = (torch.nn.functional.normalize(m.double(), dim=1) for m in (A, B))
    return A @ B.T


@given(st.integers(1, 5), st.integers(1, 6), seeds)
@settings(max_examples=40, deadline=None)
def test_is_the_best_of_all_matchings(n, d_in, seed):
    A, B = normal(n, d_in, seed), normal(n, d_in, seed + 1)
    C = cosines(A, B)
    best = max(float(sum(C[i, p[i]] for i in range(n))) for p in permutations(range(n)))
    match = hungarian(A, B)
    assert sorted(match.cols.tolist()) == list(range(n))
    assert float(match.cosine.sum()) == pytest.approx(best, abs=1e-5)
    assert pw_mcc(A, B) == pytest.approx(best / n, abs=1e-5)


@given(st.integers(2, 12), seeds)
@settings(max_examples=30, deadline=None)
def test_a_permuted_copy_is_found_and_a_flipped_sign_is_not_the_same_feature(n, seed):
    A = normal(n, 16, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert pw_mcc(A, A[order]) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(hungarian(A, A[order]).cols, torch.argsort(order))
    assert pw_mcc(A, -A) < 0.9
    assert pwmcc(A, -A) == pytest.approx(1.0, abs=1e-6)


@given(st.integers(1, 8), st.integers(1, 8), seeds)
@settings(max_examples=30, deadline=None)
def test_is_symmetric_for_any_two_sizes(n_a, n_b, seed):
    A, B = normal(n_a, 5, seed), normal(n_b, 5, seed + 1)
    assert pw_mcc(A, B) == pytest.approx(pw_mcc(B, A), abs=1e-6)
    assert shared_fraction(A, B) == pytest.approx(shared_fraction(B, A))
    assert len(hungarian(A, B).rows) == min(n_a, n_b)


def test_each_feature_is_used_once():
    """Both rows of A are closest to the first of B; PWMCC counts it twice, PW-MCC cannot."""
    A = torch.tensor([[1.0, 0.1], [1.0, -0.1]])
    B = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert pwmcc(A, B) == pytest.approx((0.99503719 + (0.99503719 + 0.09950372) / 2) / 2, abs=1e-6)
    assert pw_mcc(A, B) == pytest.approx((0.99503719 + 0.09950372) / 2, abs=1e-6)


def test_row_numbers_are_those_of_the_whole_dictionary():
    A = normal(6, 8, 1)
    B = A.flip(0).clone()
    alive_a = torch.tensor([False, True, True, False, True, True])
    match = hungarian(A, B, alive_a, None)
    assert match.rows.tolist() == [1, 2, 4, 5]
    assert match.cols.tolist() == [4, 3, 1, 0]
    assert (match.n_a, match.n_b) == (4, 6)


@pytest.mark.parametrize(("n_a", "n_b"), [(300, 300), (260, 300), (300, 260)])
def test_the_method_for_large_dictionaries_is_one_to_one_and_close_to_the_optimum(n_a, n_b):
    A, B = normal(n_a, 24, 1), normal(n_b, 24, 2)
    exact, sparse = hungarian(A, B), hungarian(A, B, exact_limit=100)
    assert len(set(sparse.rows.tolist())) == len(set(sparse.cols.tolist())) == min(n_a, n_b)
    assert torch.allclose(cosines(A, B)[sparse.rows, sparse.cols], sparse.cosine, atol=1e-6)
    assert (
        0.999 * float(exact.cosine.sum())
        <= float(sparse.cosine.sum())
        <= float(exact.cosine.sum()) + 1e-4
    )


def test_the_method_for_large_dictionaries_finds_every_copy():
    A = normal(400, 24, 1)
    order = torch.randperm(400)
    match = hungarian(A, A[order], exact_limit=64)
    assert torch.equal(match.cols, torch.argsort(order))


def test_rows_that_all_want_the_same_partners_are_still_placed():
    """More near-copies of one direction than candidates per row: most rows find no free
    candidate.
    """
    A = torch.nn.functional.normalize(torch.ones(200, 4) + 1e-3 * normal(200, 4, 1), dim=1)
    B = torch.cat([A[:20], normal(180, 4, 2)])
    match = hungarian(A, B, exact_limit=50)
    assert sorted(match.cols.tolist()) == list(range(200))


def test_shared_fraction_needs_both_decoder_and_encoder():
    e = torch.eye(4)
    decoder_b = e[[0, 1, 2, 3]]
    encoder_b = torch.stack([e[0], e[1], e[0], -e[3]])
    assert shared_fraction(e, decoder_b) == 1.0
    assert shared_fraction(e, decoder_b, e, encoder_b) == 0.5
    with pytest.raises(HusaiError, match="both encoders or neither"):
        shared_fraction(e, e, e)


def test_encoders_that_hold_nan_are_refused_and_a_silent_encoder_shares_nothing():
    e = torch.eye(4)
    broken, silent = e.clone(), e.clone()
    broken[1, 1], silent[1] = float("nan"), 0
    with pytest.raises(HusaiError, match="encoders: hold NaN"):
        shared_fraction(e, e, e, broken)
    assert shared_fraction(e, e, e, silent) == 0.75
    assert shared_fraction(e.numpy(), e.numpy(), e.numpy(), silent.numpy()) == 0.75


def test_a_match_must_exceed_0_7_and_leftover_latents_are_not_shared():
    A = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    B = torch.tensor([[0.71, (1 - 0.71**2) ** 0.5], [-0.5, 0.5]])
    assert shared_fraction(A[:1], B[:1]) == 1.0
    assert shared_fraction(A[:1], B[:1], threshold=0.72) == 0.0
    assert shared_fraction(A, A[:1]) == 0.5


def test_encoders_the_wrong_way_round_are_refused_and_both_shapes_named():
    dec, enc = normal(64, 128), normal(64, 128)
    with pytest.raises(HusaiError, match=r"encoder B \(128, 64\) and decoder B \(64, 128\)"):
        shared_fraction(dec, dec, enc, enc.T)
    assert shared_fraction(dec, dec, enc, enc) == 1.0


def test_a_transcoder_has_encoders_of_another_width():
    dec, enc = normal(10, 6, 1), normal(10, 8, 2)
    assert shared_fraction(dec, dec, enc, enc) == 1.0
    with pytest.raises(HusaiError, match=r"\(10, 8\).*\(10, 9\)"):
        shared_fraction(dec, dec, enc, normal(10, 9))
