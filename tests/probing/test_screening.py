"""The code found from 8-bit products against the one of the float32 product."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.errors import RecipeFailed
from husai.probing import codes, screening
from husai.probing.encoders import SAEEncoder
from husai.sae import SAE


def multiply_in_float64(a, b, out):
    out.copy_((a.double() @ b.double()).int())


@pytest.fixture(autouse=True, params=["bytes", "float64"], scope="module")
def products(request):
    """Both the product of the machine and one that every machine has; without limits on what may be
    left in doubt.
    """
    if request.param == "bytes" and not screening.has_byte_products():
        pytest.skip("the processor has no fast byte products")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "float64":
            patch.setattr(screening, "multiply", multiply_in_float64)
        patch.setattr(screening, "has_byte_products", lambda: True)
        patch.setattr(screening, "DOUBTFUL", 1000)
        patch.setattr(screening, "PER_ROW", 1000)
        yield


def sae_of(W, b, k, b_dec=None, architecture="topk"):
    b_dec = torch.zeros(len(W)) if b_dec is None else b_dec
    return SAE(architecture, W, W.T.clone(), b, b_dec, None, k)


def whole_numbers(seed, n, d_in, d_sae, k, copies, most=6):
    """An SAE and rows of whole numbers, whose float32 sums are exact, with copies of latents, a row
    of zeros and equal rows.
    """
    rng = np.random.default_rng(seed)
    W, b = rng.integers(-most, most + 1, (d_in, d_sae)), rng.integers(-most, most + 1, d_sae)
    for _ in range(copies):
        i, j = rng.integers(0, d_sae, 2)
        W[:, i], b[i] = W[:, j], b[j]
    x = rng.integers(-most, most + 1, (n, d_in))
    x[n // 2], x[-1] = 0, x[0]
    W, b, x = (torch.from_numpy(a).float() for a in (W, b, x))
    b_dec = torch.from_numpy(rng.integers(-2, 3, d_in)).float()
    return (
        sae_of(W, b, k, b_dec, str(rng.choice(["topk", "transcoder"]))),
        x,
        torch.from_numpy(rng.integers(0, 2, n)),
        rng,
    )


@given(
    st.integers(0, 10_000),
    st.integers(2, 300),
    st.integers(1, 40),
    st.integers(1, 400),
    st.floats(0, 1),
    st.sampled_from([0, 5, 500]),
)
@settings(max_examples=150, deadline=None)
@torch.inference_mode()
def test_exact_sums_give_the_same_code_to_the_last_bit_ties_included(
    seed, n, d_in, d_sae, share, copies
):
    k = max(1, round(share * d_sae))
    sae, x, y, rng = whole_numbers(seed, n, d_in, d_sae, k, copies)
    screen, plain = screening.Screen(sae), codes.ClassSums(sae, x, y)
    found = screen.class_sums(x, y)
    latents = torch.from_numpy(rng.permutation(d_sae)[:20])
    assert torch.equal(found.sums, plain.sums) and torch.equal(found.fired, plain.fired)
    assert torch.equal(found.columns(latents), plain.columns(latents))
    assert torch.equal(screen.columns(x, latents), codes.top_k_columns(sae, x, latents))


@given(
    st.integers(0, 10_000),
    st.sampled_from([1e-35, 1e-12, 1.0, 1e12]),
    st.sampled_from([1e-12, 1.0, 1e12]),
    st.sampled_from(
        [
            "even",
            "one large dimension",
            "one large latent",
            "latents of all sizes",
            "negative biases",
        ]
    ),
    st.sampled_from([1, 8, 40]),
)
@settings(max_examples=120, deadline=None)
@torch.inference_mode()
def test_codes_differ_from_float64_only_where_float32_cannot_tell(
    seed, size, size_of_weights, kind, k
):
    g = torch.Generator().manual_seed(seed)
    x, W, b = (torch.randn(shape, generator=g) for shape in ((70, 48), (48, 200), (200,)))
    if kind == "one large dimension":
        x[:, 3] *= 1000
    if kind == "one large latent":
        W[:, 7] *= 1e4
    if kind == "latents of all sizes":
        W *= 10 ** torch.linspace(-8, 0, 200)
    if kind == "negative biases":
        b -= 20
    x, W, b = x * size, W * size_of_weights, b * size * size_of_weights
    screen, latents = screening.Screen(sae_of(W, b, k)), torch.randperm(200, generator=g)
    y = torch.randint(0, 2, (70,), generator=g)
    exact = x.double() @ W.double() + b.double()
    rounding = (
        64
        * 2.0**-24
        * (x.double().norm(dim=1, keepdim=True) * W.double().norm(dim=0) + b.double().abs())
        + 1e-37
    )
    clear = (exact - exact.topk(k).values[:, -1:]).abs() > 2 * rounding.amax(1, keepdim=True)
    kept = torch.where(exact >= exact.topk(k).values[:, -1:], exact.relu(), 0.0)
    for found in (screen.class_sums(x, y).columns(latents), screen.columns(x, latents)):
        wrong = (found.double() - kept[:, latents]).abs() > rounding[:, latents]
        assert not (wrong & clear[:, latents]).any()
    assert torch.equal(screen.class_sums(x, y).columns(latents), screen.columns(x, latents))


@torch.inference_mode()
def test_copies_of_a_latent_have_equal_columns_wherever_they_are_computed():
    g = torch.Generator().manual_seed(0)
    W, b, x = torch.randn(67, 300, generator=g), torch.zeros(300), torch.randn(400, 67, generator=g)
    copies = torch.tensor([5, 6, 100, 199, 255, 256, 299])
    W[:, copies] = W[:, :1]
    screen = screening.Screen(sae_of(W, b, 40))
    for columns in (
        screen.columns(x, copies),
        screen.class_sums(x, torch.zeros(400, dtype=torch.long)).columns(copies),
    ):
        assert (columns > 0).any() and torch.equal(columns, columns[:, :1].expand(-1, len(copies)))


def likely_case(seed=0, d_in=64, d_sae=600, k=20, n=500):
    g = torch.Generator().manual_seed(seed)
    sae = sae_of(
        torch.randn(d_in, d_sae, generator=g),
        torch.randn(d_sae, generator=g),
        k,
        torch.randn(d_in, generator=g),
    )
    y = torch.randint(0, 2, (n,), generator=g)
    return sae, torch.randn(n, d_in, generator=g) + 0.5 * y.unsqueeze(1), y


def without_screen(sae):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(screening, "has_byte_products", lambda: False)
        return SAEEncoder(sae)


@torch.inference_mode()
def test_the_same_latents_are_the_best_with_and_without_screening():
    sae, x, y = likely_case()
    assert screening.applies(sae)
    mine, plain = SAEEncoder(sae), without_screen(sae)
    (found, columns), (expected, of_expected) = mine.best(x, y, 16), plain.best(x, y, 16)
    assert found.tolist() == expected.tolist()
    torch.testing.assert_close(columns, of_expected)
    torch.testing.assert_close(mine.columns(x, found), plain.columns(x, found))


@pytest.mark.parametrize("limit", ["DOUBTFUL", "PER_ROW"])
@torch.inference_mode()
def test_where_too_much_is_in_doubt_the_float32_product_decides(limit, monkeypatch):
    sae, x, y = likely_case()
    monkeypatch.setattr(screening, limit, 0)
    screen = screening.Screen(sae)
    assert screen.class_sums(x, y) is None and (
        limit == "PER_ROW" or screen.columns(x, torch.arange(4)) is None
    )
    mine, plain = SAEEncoder(sae), without_screen(sae)
    (found, columns), (expected, of_expected) = mine.best(x, y, 16), plain.best(x, y, 16)
    assert torch.equal(found, expected) and torch.equal(columns, of_expected)
    if limit == "DOUBTFUL":
        assert torch.equal(mine.columns(x, found), plain.columns(x, found))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e38])
@pytest.mark.parametrize("where", ["rows", "weights"])
def test_codes_with_nan_or_infinity_are_refused(bad, where):
    sae, x, y = likely_case()
    (x if where == "rows" else sae.W_enc)[3] = bad
    if bad == 1e38:
        x[3], sae.W_enc[3] = 10.0, bad
    with pytest.raises(RecipeFailed, match="NaN or infinite"):
        SAEEncoder(sae).best(x, y, 16)


def test_screening_is_for_wide_encoders_with_finite_float32_weights():
    assert screening.applies(likely_case()[0])
    assert not screening.applies(likely_case(d_in=16)[0]) and not screening.applies(
        likely_case(k=100)[0]
    )
    for change in (torch.nan, torch.inf):
        sae = likely_case()[0]
        sae.b_enc[2] = change
        assert not screening.applies(sae)
    sae = likely_case()[0]
    sae.W_enc = sae.W_enc.double()
    assert not screening.applies(sae)
