"""Codes without their dense form, against the dense form, and the ranking of latents against the
official arithmetic restated.
"""

import pytest
import torch

from husai.probing import codes
from husai.probing.encoders import SAEEncoder
from husai.sae import SAE


def sae_of(architecture, d_sae, k, seed=0, d_in=12):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(d_in, d_sae, generator=g)
    threshold = (
        torch.randn(d_sae, generator=g) if architecture in ("jumprelu", "batchtopk") else None
    )
    return SAE(
        architecture,
        W,
        W.T.clone(),
        torch.randn(d_sae, generator=g),
        torch.randn(d_in, generator=g),
        threshold,
        k,
    )


@pytest.mark.parametrize("architecture", ["topk", "transcoder", "relu", "jumprelu", "batchtopk"])
@pytest.mark.parametrize(("d_sae", "k"), [(60, 5), (256, 32), (301, 40), (130, 130), (150, 1)])
@torch.inference_mode()
def test_class_sums_and_columns_are_those_of_the_dense_code(architecture, d_sae, k):
    sae = sae_of(architecture, d_sae, k)
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(600, 12, generator=g), torch.randint(0, 2, (600,), generator=g)
    x[7] = sae.b_dec - 100 * sae.W_enc.mean(1)  # few positive pre-activations
    z, code = sae.encode(x), codes.ClassSums(sae, x, y)
    latents = torch.randperm(d_sae, generator=g)[:20]
    torch.testing.assert_close(code.columns(latents), z[:, latents])
    torch.testing.assert_close(code.fired, (z != 0).sum(0).float())
    torch.testing.assert_close(
        code.sums, torch.stack([z[y == 0].sum(0), z[y == 1].sum(0)]), rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close(codes.columns(sae, x, latents), z[:, latents])


@torch.inference_mode()
def test_of_latents_that_tie_for_the_last_place_the_sums_have_those_the_sae_keeps():
    sae = sae_of("topk", 64, 8, seed=4)
    for j in range(20, 40):
        sae.W_enc[:, j], sae.b_enc[j] = sae.W_enc[:, 3], sae.b_enc[3]
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(300, 12, generator=g), torch.randint(0, 2, (300,), generator=g)
    z, code = sae.encode(x), codes.ClassSums(sae, x, y)
    assert float(code.fired.sum()) == int((z != 0).sum())
    torch.testing.assert_close(code.sums.sum(), z.sum(), rtol=1e-5, atol=1e-3)


def official_order(z, y):
    """``mean_act_normalization`` and ``get_sorted_indices`` of sae-probes 0.4.2, on all latents at
    once.
    """
    z = z / (z.abs().sum(0) / ((z != 0).sum(0) + 1e-6) + 1e-6)
    return torch.argsort(torch.abs(z[y == 1].mean(0) - z[y == 0].mean(0)), descending=True)


@pytest.mark.parametrize("architecture", ["topk", "relu", "jumprelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.inference_mode()
def test_best_latents_are_the_official_ones(architecture, dtype):
    sae = sae_of(architecture, 256, 32, seed=2).to(dtype=dtype)
    g = torch.Generator().manual_seed(3)
    x, y = torch.randn(700, 12, generator=g), torch.randint(0, 2, (700,), generator=g)
    found, columns = SAEEncoder(sae).best(x.to(dtype), y, 16)
    z = sae.encode(x.to(dtype)).float()
    assert found.tolist() == official_order(z, y)[:16].tolist()
    torch.testing.assert_close(columns, z[:, found])
