"""Folded norms: the same function, decoder rows of length one, and the selection of the file."""

import pytest
import torch

from husai.sae import SAE
from husai.sae.fold import decoder_norms, fold_for_file, fold_norms

D_IN, D_SAE = 12, 30


def made(architecture, scale, dtype=torch.float32, k=4):
    g = torch.Generator().manual_seed(1)
    W_enc, W_dec = torch.randn(D_IN, D_SAE, generator=g), torch.randn(D_SAE, D_IN, generator=g)
    W_dec = torch.nn.functional.normalize(W_dec, dim=1) * scale[:, None]
    b_enc, b_dec = torch.randn(D_SAE, generator=g) / 4, torch.randn(D_IN, generator=g)
    threshold = (
        torch.rand(D_SAE, generator=g) if architecture in ("jumprelu", "batchtopk") else None
    )
    k = k if architecture in ("topk", "transcoder") else None
    return SAE(architecture, W_enc, W_dec, b_enc, b_dec, threshold, k).to(dtype=dtype)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "batchtopk", "topk", "transcoder"])
def test_the_function_stays_and_codes_are_the_contributions_lengths(architecture):
    """Against float64: the folded code of a latent is its code times the length of its row."""
    scale = torch.logspace(-2, 2, D_SAE)
    sae, x = made(architecture, scale), torch.randn(500, D_IN, generator=torch.Generator())
    folded, exact = fold_norms(sae), sae.to(dtype=torch.float64)
    assert torch.allclose(folded.W_dec.norm(dim=1), torch.ones(D_SAE), atol=1e-6)
    codes = exact.encode(x.double()) * scale.double()
    assert torch.allclose(folded.encode(x).double(), codes, rtol=1e-4, atol=1e-4)
    assert torch.allclose(folded(x).double(), exact(x.double()), rtol=1e-4, atol=1e-3)
    assert folded.W_dec.dtype == torch.float32


def test_topk_keeps_the_latents_that_its_file_chooses():
    """Latent 0 has the larger pre-activation, latent 1 the larger contribution."""
    W_dec = torch.tensor([[1.0, 0.0], [0.0, 50.0]])
    sae = SAE("topk", torch.eye(2), W_dec, torch.zeros(2), torch.zeros(2), k=1)
    x = torch.tensor([[2.0, 1.0]])
    assert fold_norms(sae).encode(x).tolist() == [[2.0, 0.0]]
    assert fold_norms(sae).to(dtype=torch.float64).encode(x.double()).tolist() == [[2.0, 0.0]]


def test_unit_norms_are_left_alone_to_the_bit_and_half_precision_becomes_float32():
    sae = made("relu", torch.ones(D_SAE))
    assert fold_norms(sae) is sae
    assert bool((decoder_norms(sae) == 1).all())
    assert fold_norms(sae.to(dtype=torch.float16)).W_enc.dtype == torch.float32


def test_a_latent_that_writes_nothing_never_fires():
    scale = torch.ones(D_SAE)
    scale[3] = 0.0
    folded = fold_norms(made("relu", scale))
    assert float(folded.encode(torch.randn(200, D_IN))[:, 3].abs().max()) == 0.0


def test_what_a_file_cannot_hold_stays_as_it_was():
    scale = torch.logspace(-1, 1, D_SAE)
    sae = made("topk", scale)
    assert fold_for_file(sae) is sae
    assert torch.allclose(fold_for_file(made("relu", scale)).W_dec.norm(dim=1), torch.ones(D_SAE))
