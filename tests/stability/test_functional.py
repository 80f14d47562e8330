"""Activation agreement against numpy's correlation, and its independence of how rows are
batched.
"""

import numpy as np
import pytest
import torch

from husai.errors import HusaiError
from husai.stability import Match, activation_agreement, agreement_matrix


class Coder:
    """ReLU of a linear map: all that agreement needs of an SAE."""

    def __init__(self, W_dec):
        self.W_dec = W_dec

    def encode(self, x):
        return (x @ self.W_dec.T).relu()


def identity(n):
    return Match(torch.arange(n), torch.arange(n), torch.ones(n, dtype=torch.float64), n, n)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_equals_the_correlation_of_the_codes():
    a, b, rows = Coder(normal(6, 4, seed=1)), Coder(normal(6, 4, seed=2)), normal(500, 4, seed=3)
    za, zb = a.encode(rows).double().numpy(), b.encode(rows).double().numpy()
    expected = np.mean([np.corrcoef(za[:, i], zb[:, i])[0, 1] for i in range(6)])
    assert activation_agreement(a, b, rows, identity(6)) == pytest.approx(expected, abs=1e-6)


def test_matched_copies_agree_perfectly_whatever_their_order():
    weights, rows = normal(12, 6, seed=1), normal(300, 6, seed=2)
    assert activation_agreement(
        Coder(weights), Coder(3 * weights[torch.randperm(12)]), rows
    ) == pytest.approx(1.0, abs=1e-6)


def test_batches_do_not_change_the_result():
    coders, rows = [Coder(normal(8, 4, seed=i)) for i in range(3)], normal(501, 4, seed=9) + 5
    matches = {(0, 1): identity(8), (0, 2): identity(8), (1, 2): identity(8)}
    small, large = (
        agreement_matrix(coders, rows, matches, batch_size=7),
        agreement_matrix(coders, rows, matches, batch_size=1000),
    )
    assert torch.allclose(small, large, atol=1e-6)
    assert torch.equal(small, small.T)
    assert torch.equal(small.diagonal(), torch.ones(3, dtype=torch.float64))


def test_a_latent_that_never_changes_counts_as_no_agreement():
    silent = normal(4, 4, seed=1)
    silent[0] = 0
    a, b = Coder(normal(4, 4, seed=1)), Coder(silent)
    assert activation_agreement(a, b, normal(200, 4, seed=2), identity(4)) == pytest.approx(
        0.75, abs=1e-6
    )


def test_rows_may_come_from_a_store():
    rows = normal(100, 4, seed=1)

    class Store:
        n_rows = 100
        d = 4

        def __len__(self):
            return 100

        def rows(self, start, stop):
            return rows[start:stop]

    a, b = Coder(normal(5, 4, seed=2)), Coder(normal(5, 4, seed=3))
    assert activation_agreement(a, b, Store(), identity(5)) == activation_agreement(
        a, b, rows, identity(5)
    )


def test_too_few_rows_are_refused():
    a = Coder(normal(5, 4))
    with pytest.raises(HusaiError, match="0 rows are too few"):
        activation_agreement(a, a, torch.empty(0, 4))
