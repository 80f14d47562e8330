"""Best matches, agreement of activations, firing and the nulls, against answers worked by hand or
by numpy."""

import numpy as np
import pytest
import torch

from husai.passport.agreement import matched_agreement
from husai.passport.chance import p_values
from husai.passport.matching import Kin, best_matches, origins
from husai.sae import SAE
from husai.stability import similarity
from husai.stability.firing import firing
from husai.stability.nulls.crowding import activation_span, crowding_decoder
from husai.stability.rows import UnitRows
from husai.stability.subspace import activation_covariance


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def relu_sae(W_enc, W_dec=None, b_enc=None):
    W_dec = W_enc.T.contiguous() if W_dec is None else W_dec
    zeros = torch.zeros(W_enc.shape[1]) if b_enc is None else b_enc
    return SAE("relu", W_enc, W_dec, zeros, torch.zeros(W_enc.shape[0]))


def test_best_matches_are_those_of_the_whole_table(monkeypatch):
    monkeypatch.setattr("husai.passport.matching.CPU_BLOCK", (4, 5))
    A, B = (
        torch.randn((11, 6), generator=generator(1)),
        torch.randn((13, 6), generator=generator(2)),
    )
    (value_a, index_a), (value_b, index_b) = best_matches(UnitRows(A), UnitRows(B))
    table = torch.nn.functional.cosine_similarity(A[:, None], B[None], dim=2).abs()
    assert torch.equal(index_a, table.argmax(1))
    assert torch.equal(index_b, table.argmax(0))
    assert torch.allclose(value_a, table.amax(1))
    best = similarity.best_cosines(UnitRows(A), UnitRows(B))
    assert torch.allclose(value_b, best[1])


def test_origins_follow_chains():
    assert origins(5, [Kin(0, 2, ""), Kin(2, 4, "")]) == [0, 1, 0, 3, 0]
    assert origins(4, [Kin(2, 3, ""), Kin(0, 3, "")]) == [0, 1, 0, 0]
    assert origins(3, []) == [0, 1, 2]


def test_agreement_is_the_correlation_of_the_activations():
    rows = torch.randn((300, 5), generator=generator(3))
    saes = [relu_sae(torch.randn((5, 4), generator=generator(s))) for s in (4, 5)]
    a, b = torch.tensor([0, 1, 3]), torch.tensor([2, 2, 0])
    pairs = {(0, 1): (a, b, torch.zeros(3, dtype=torch.bool))}
    found = matched_agreement(saes, rows, pairs, batch_size=7)[0, 1]
    left, right = saes[0].encode(rows)[:, a].numpy(), saes[1].encode(rows)[:, b].numpy()
    want = [np.corrcoef(left[:, k], right[:, k])[0, 1] for k in range(3)]
    assert found.numpy() == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("architecture", ["relu", "topk", "jumprelu"])
def test_a_mirrored_latent_agrees_as_if_it_had_the_other_sign(architecture):
    rule = {"topk": {"k": 2}, "jumprelu": {"threshold": torch.full((3,), 0.2)}}.get(
        architecture, {}
    )
    W = torch.eye(3)
    rows = torch.randn((500, 3), generator=generator(6))
    zeros = torch.zeros(3)
    turned = torch.tensor([1.0, 1.0, -1.0])
    saes = [
        SAE(architecture, W * s, (W * s).T.contiguous(), zeros, zeros, **rule)
        for s in (torch.ones(3), turned)
    ]
    index = torch.arange(3)
    plain, mirrored = (
        matched_agreement(saes, rows, {(0, 1): (index, index, flag)})[0, 1]
        for flag in (torch.zeros(3, dtype=torch.bool), turned < 0)
    )
    assert plain[2] < 0
    assert mirrored[2] > 0.7
    assert torch.equal(plain[:2], mirrored[:2])


def test_shares_of_orthogonal_latents_are_their_variances():
    # x = (x1, x2, 0) with variances 3 and 1, each coordinate read by a latent of its own (and its
    # negative part by another): the shares are 3/8, 3/8, 1/8, 1/8, and an unused latent has none.
    ones = torch.tensor([-1.0, 1.0]).repeat(400)
    x = torch.stack([3**0.5 * ones, ones.reshape(2, -1).T.flatten(), 0 * ones], 1)
    W = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]])
    found = firing(relu_sae(W.T.contiguous()), x, batch_size=64)
    assert found.variance_share.tolist() == pytest.approx([3 / 8, 3 / 8, 1 / 8, 1 / 8, 0], abs=1e-6)
    assert found.explained_variance == pytest.approx(1.0)
    assert found.density.tolist() == [0.5, 0.5, 0.5, 0.5, 0.0]
    assert found.mean.tolist() == pytest.approx([3**0.5, 3**0.5, 1, 1, 0])
    assert found.l0 == 2.0
    assert found.alive.tolist() == [True, True, True, True, False]


def test_shares_are_the_mean_of_first_in_and_last_out():
    g = generator(7)
    x = torch.randn((400, 4), generator=g) + 1.0
    W = 0.4 * torch.randn((4, 6), generator=g)
    sae = relu_sae(W, W.T + 0.1 * torch.randn((6, 4), generator=g))
    sae.b_dec = torch.tensor([0.3, 0.0, -0.2, 0.1])
    found = firing(sae, x, batch_size=50)
    z, centred = sae.encode(x).double(), (x - x.mean(0)).double()
    part = [(z[:, [i]] - z[:, [i]].mean(0)) * sae.W_dec[i].double() for i in range(6)]
    whole = sum(part)

    def explained(fit):
        return float(centred.square().sum() - (centred - fit).square().sum())

    first = [explained(p) for p in part]
    last = [explained(whole) - explained(whole - p) for p in part]
    own = np.add(first, last) / 2
    assert own.sum() == pytest.approx(explained(whole))
    assert found.variance_share.numpy() == pytest.approx(own / own.sum(), abs=1e-5)


def test_firing_does_not_depend_on_the_batch_size():
    x = torch.randn((1000, 4), generator=generator(8))
    sae = relu_sae(0.3 * torch.randn((4, 9), generator=generator(9)))
    one, many = firing(sae, x, batch_size=1000), firing(sae, x, batch_size=37)
    assert one.explained_variance > 0
    assert torch.allclose(one.variance_share, many.variance_share, atol=1e-6)
    assert torch.equal(one.density, many.density)


def test_the_crowding_null_is_as_crowded_as_the_dictionary():
    D = torch.nn.functional.normalize(torch.randn((20, 6), generator=generator(10)), dim=1)
    turned = crowding_decoder(D, seed=3)
    assert torch.allclose(turned @ turned.T, D @ D.T, atol=1e-5)
    assert not torch.allclose(turned, D, atol=0.1)
    assert not torch.allclose(turned, crowding_decoder(D, seed=4), atol=0.1)


def test_the_crowding_null_stays_in_the_span_of_the_activations():
    x = torch.randn((200, 6), generator=generator(11))
    x[:, 4:] = 0
    span = activation_span(activation_covariance(x))
    assert span.shape == (6, 4)
    turned = crowding_decoder(torch.eye(6), seed=1, span=span)
    assert torch.allclose(turned[:, 4:], torch.zeros(6, 2), atol=1e-6)
    assert torch.allclose(turned[4:], torch.zeros(2, 6), atol=1e-6)
    assert torch.allclose(turned[:4].norm(dim=1), torch.ones(4), atol=1e-5)


def test_p_values_are_uniform_where_matches_are_chance():
    g = generator(12)
    level = torch.rand(2000, generator=g, dtype=torch.float64)
    draws = level[:, None] + 0.1 * torch.randn((2000, 9), generator=g, dtype=torch.float64)
    p = p_values(draws[:, 0], draws[:, 1:])
    assert float((p < 0.05).double().mean()) == pytest.approx(0.05, abs=0.02)
    assert float((p < 0.5).double().mean()) == pytest.approx(0.5, abs=0.04)


def test_p_values_by_hand():
    # Two latents, two draws: each draw less the latent's other draw gives -0.2, 0.2, 0, 0.
    chance = torch.tensor([[0.4, 0.6], [0.1, 0.1]], dtype=torch.float64)
    # 0.6 is 0.1 above the first one's mean (reached once: 2/5); 0.05 is below (reached three times).
    found = p_values(torch.tensor([0.6, 0.05], dtype=torch.float64), chance)
    assert found.tolist() == pytest.approx([2 / 5, 4 / 5])


def test_shares_are_undefined_where_nothing_is_explained():
    x = torch.randn((100, 3), generator=generator(13))
    found = firing(relu_sae(torch.eye(3), -torch.eye(3)), x)
    assert found.explained_variance < 0
    assert torch.isnan(found.variance_share).all()
