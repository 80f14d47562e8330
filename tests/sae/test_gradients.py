"""Hand-written gradients against float64 autograd of short definitions, and the sparse kernels
against dense ones.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.sae import kernels
from husai.sae.training.gradients import Settings, gradients
from husai.sae.training.objectives import ConsistencyPenalty, auxk, matryoshka_groups
from husai.sae.training.optimiser import remove_parallel

S, B, D_IN, D_SAE, K = 2, 24, 10, 32, 3


def problem(architecture, d_out=D_IN):
    g = torch.Generator().manual_seed(5)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    p = {
        "W_enc": draw(S, D_SAE, D_IN),
        "b_enc": 0.1 * draw(S, D_SAE),
        "W_dec": draw(S, D_SAE, d_out),
        "b_dec": draw(S, d_out),
    }
    p["W_dec"] /= p["W_dec"].norm(dim=-1, keepdim=True)
    if architecture == "jumprelu":
        p["threshold"] = draw(S, D_SAE).abs() * 2
    return p, draw(S, B, D_IN), draw(S, B, d_out)


class _Gate(torch.autograd.Function):
    """Heaviside step with the rectangle pseudo-derivative (2407.14435, eq. 11 and 12); ``z`` is pre
    * gate, ``count`` the gate itself.
    """

    @staticmethod
    def forward(ctx, pre, threshold, bandwidth):
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre * (pre > threshold), (pre > threshold).double()

    @staticmethod
    def backward(ctx, dz, dcount):
        pre, threshold = ctx.saved_tensors
        near = ((pre - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return dz * (pre > threshold), -(near * (threshold * dz + dcount)).sum(0), None


def reference_loss(architecture, p, x, y, coefficient, bandwidth):
    """The definition, for one member."""
    centre = 0 if architecture == "transcoder" else p["b_dec"]
    pre = (x - centre) @ p["W_enc"].t() + p["b_enc"]
    penalty = 0.0
    if architecture in ("topk", "transcoder"):
        z = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, pre.topk(K).values.relu())
    elif architecture in ("batchtopk", "matryoshka"):
        z = torch.where(pre >= pre.flatten().topk(K * len(x)).values[-1], pre, 0.0).relu()
    elif architecture == "relu":
        z = pre.relu()
        penalty = coefficient * z.sum(1).mean()
    else:
        z, count = _Gate.apply(pre, p["threshold"], bandwidth)
        penalty = coefficient * count.sum(1).mean()
    ends = matryoshka_groups(D_SAE) if architecture == "matryoshka" else [D_SAE]
    errors = [z[:, :end] @ p["W_dec"][:end] + p["b_dec"] - y for end in ends]
    return (sum(e.square().sum(1).mean() for e in errors) + penalty) / y.shape[1]


CASES = [("relu", False), ("relu", True), ("jumprelu", False)] + [
    (a, s) for a in ("topk", "batchtopk", "matryoshka", "transcoder") for s in (True, False)
]


@pytest.mark.parametrize(("architecture", "sparse"), CASES)
def test_gradients_equal_float64_autograd_of_the_definition(architecture, sparse, monkeypatch):
    monkeypatch.setattr("husai.sae.training.gradients.MEASURED_CROSSOVER", 1.0)
    d_out = 6 if architecture == "transcoder" else D_IN
    p, x, y = problem(architecture, d_out)
    y = y if architecture == "transcoder" else x
    coefficient = torch.tensor([0.7, 1.9], dtype=torch.float64)
    bandwidth = 0.8
    groups = matryoshka_groups(D_SAE) if architecture == "matryoshka" else ()
    settings = Settings(
        architecture, K, sparse, groups=groups, bandwidth=bandwidth, count_fired=True
    )
    b_dec = p["b_dec"].unsqueeze(1)
    got = gradients(
        settings, p, x if architecture == "transcoder" else x - b_dec, y - b_dec, coefficient
    )
    for s in range(S):
        leaves = {n: v[s].clone().requires_grad_() for n, v in p.items()}
        loss = reference_loss(architecture, leaves, x[s], y[s], coefficient[s], bandwidth)
        loss.backward()
        torch.testing.assert_close(got.loss[s], loss.detach(), rtol=1e-12, atol=1e-12)
        assert set(got.by_name) == set(leaves)
        for name, leaf in leaves.items():
            torch.testing.assert_close(
                got.by_name[name][s],
                leaf.grad,
                rtol=1e-9,
                atol=1e-11,
                msg=lambda m, n=name: f"{n}: {m}",
            )


def test_a_relu_step_uses_sparse_kernels_only_while_few_latents_are_active(monkeypatch):
    p, x, _ = problem("relu")
    coefficient, used = torch.ones(S, dtype=torch.float64), []
    make = kernels.positive_code
    monkeypatch.setattr(kernels, "positive_code", lambda pre: used.append(pre) or make(pre))
    for bias in (0.0, -4.0):  # half of the latents, and hardly one
        p["b_enc"][:] = bias
        sparse, dense = (
            gradients(Settings("relu", sparse=s), p, x, x, coefficient) for s in (1, 0)
        )
        for name, value in dense.by_name.items():
            torch.testing.assert_close(sparse.by_name[name], value)
        assert len(used) == (bias < 0)


def test_frozen_decoder_has_no_gradient_and_leaves_the_others_unchanged():
    p, x, _ = problem("topk")
    for sparse in (True, False):
        full, frozen = (
            gradients(Settings("topk", K, sparse, f), p, x, x).by_name for f in (False, True)
        )
        assert set(full) - set(frozen) == {"W_dec"}
        assert all(torch.equal(full[n], frozen[n]) for n in frozen)


@pytest.mark.parametrize("n_dead", [1, 4, 12])
def test_auxk_equals_autograd(n_dead):
    p, x, _ = problem("topk")
    one = {n: v[0] for n, v in p.items()}
    dead, residual = torch.randperm(D_SAE)[:n_dead], torch.randn(B, D_IN, dtype=torch.float64)
    leaves = {n: v.clone().requires_grad_() for n, v in one.items()}
    pre = ((x[0] - leaves["b_dec"] + one["b_dec"]) @ leaves["W_enc"].t() + leaves["b_enc"])[:, dead]
    k_aux = D_IN // 2
    kept = torch.zeros_like(pre).scatter(
        1, pre.topk(min(k_aux, n_dead)).indices, pre.topk(min(k_aux, n_dead)).values
    )
    error = kept @ leaves["W_dec"][dead] + residual
    loss = 0.25 * min(n_dead / k_aux, 1.0) * error.square().mean()
    loss.backward()
    found = {n: torch.zeros_like(v) for n, v in one.items()}
    got = auxk(one, found, x[0], residual, dead, 0.25)
    torch.testing.assert_close(got, loss.detach())
    for name, leaf in leaves.items():
        torch.testing.assert_close(found[name], leaf.grad, rtol=1e-9, atol=1e-12)


def test_consistency_gradient_equals_autograd_on_the_sphere():
    p, _, _ = problem("topk")
    reference = torch.randn(D_SAE, D_IN, dtype=torch.float64)
    penalty = ConsistencyPenalty(reference, 0.3, 10)
    penalty.renew(0, p["W_dec"])
    got = torch.zeros_like(p["W_dec"])
    value = penalty.add(p["W_dec"], got)
    remove_parallel(got, p["W_dec"])
    W = p["W_dec"].clone().requires_grad_()
    cosine = torch.nn.functional.cosine_similarity(W, reference[penalty.assignment], dim=-1)
    expected = 0.3 * (1 - cosine.abs().mean(1))
    expected.sum().backward()
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(got, W.grad, rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.sampled_from([8, 30, 64, 256]), st.data())
def test_top_k_picks_the_largest_values_also_with_ties(n_rows, d_sae, data):
    k = data.draw(st.integers(1, d_sae))
    levels = data.draw(st.sampled_from([2, 5, 10_000]))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    pre = torch.randint(-levels, levels, (n_rows, d_sae), generator=generator).float()
    values, columns = kernels.top_k(pre, k)
    assert torch.equal(values.sort(1, descending=True).values, pre.topk(k).values)
    assert torch.equal(pre.gather(1, columns), values)
    assert all(len(set(row)) == k for row in columns.tolist())


@pytest.mark.parametrize("ties", [False, True])
def test_batch_top_k_is_exact(ties):
    generator = torch.Generator().manual_seed(0)
    pre = torch.randn(300, 512, generator=generator)
    pre = pre.round(decimals=1) if ties else pre
    for n in (1, 1200, 4800, pre.numel()):
        values, place = kernels.batch_top_k(pre, n)
        assert torch.equal(values.sort(descending=True).values, pre.flatten().topk(n).values)
        assert torch.equal(pre.flatten()[place], values)
        assert bool((place.diff() > 0).all())


def test_k_equal_to_d_sae_keeps_every_positive_pre_activation():
    x, W = torch.randn(1, 20, 6), torch.randn(1, 16, 6)
    code = kernels.top_k_code(x, W, torch.zeros(1, 16), 16)
    dense = torch.zeros(20, 16).index_put_((code.rows, code.columns), code.values)
    torch.testing.assert_close(dense, (x[0] @ W[0].t()).relu())


def test_code_gradient_agrees_with_the_gpu_formula():
    p, x, y = problem("topk")
    code = kernels.top_k_code(x, p["W_enc"], p["b_enc"], K)
    decoder = p["W_dec"].reshape(-1, D_IN)
    g = y.reshape(-1, D_IN)
    other = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        g, decoder, code.columns, code.starts[:-1], code.rows, 0
    )
    torch.testing.assert_close(
        kernels.code_gradient(code, g, p["W_dec"]), other * (code.values > 0)
    )
