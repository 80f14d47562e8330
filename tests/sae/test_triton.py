"""The fused kernels against PyTorch's: compiled for a CUDA device, or in Triton's interpreter."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton")

from sae_helpers import recipe, rows

from husai.sae import fused
from husai.sae.fused import select, update
from husai.sae.training import arithmetic
from husai.sae.training.arithmetic import FORMATS, Arithmetic, choose
from husai.sae.training.gradients import Settings, gradients
from husai.sae.training.members import Ensemble, Member
from husai.sae.training.optimiser import Optimiser

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
S, B, D_IN, D_OUT, D_SAE = 2, 12, 10, 7, 40


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def parameters():
    W_dec = torch.nn.functional.normalize(drawn(S, D_SAE, D_OUT, seed=1), dim=-1)
    return {
        "W_enc": drawn(S, D_SAE, D_IN),
        "b_enc": drawn(S, D_SAE, seed=2),
        "W_dec": W_dec,
        "b_dec": drawn(S, D_OUT),
    }


def by_row(values, columns, n_rows, k):
    """Codes as a dense matrix: entries of a row come in any order."""
    dense = torch.zeros(n_rows, S * D_SAE, device=DEVICE)
    return dense.scatter_add_(1, columns.view(n_rows, k).long(), values.view(n_rows, k))


@pytest.mark.parametrize("k", [1, 3, 16, 40])
def test_the_k_largest_positive_entries_are_found(k):
    pre, bias = drawn(S, B, D_SAE), drawn(S, D_SAE, seed=3)
    values, columns = select.top_k(pre, bias, k)
    x = pre + bias.unsqueeze(1)
    expected, place = x.relu().view(S * B, D_SAE).topk(k, dim=1)
    place = place + torch.arange(S, device=DEVICE).repeat_interleave(B).unsqueeze(1) * D_SAE
    assert torch.equal(by_row(values, columns, S * B, k), by_row(expected, place, S * B, k))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_among_equal_values_any_are_taken_but_no_more_than_k(k):
    pre = torch.tensor([2.0, 1.0, 1.0, 1.0, 0.0, -1.0, 1.0, 3.0], device=DEVICE).repeat(1, 2, 1)
    values, columns = select.top_k(pre, torch.zeros(1, 8, device=DEVICE), k)
    expected = pre[0].relu().topk(k, dim=1).values
    assert torch.equal(values.view(2, k).sort(descending=True).values, expected)
    taken = columns.view(2, k)[values.view(2, k) > 0]
    assert len(set(taken.tolist())) == min(k, 6)


@pytest.mark.parametrize("width", [1024, 4096, 4000])
@pytest.mark.parametrize("level", ["right", "too high", "too low"])
def test_wide_rows_are_searched_exactly_whatever_their_sample_says(monkeypatch, level, width):
    monkeypatch.setattr(select, "SMALLEST_SAMPLE", 32)
    pre, k = drawn(1, 6, width, seed=7), 16
    shift = {"right": 0.0, "too high": 5.0, "too low": -5.0}[level]
    pre[..., : 256 if width == 1024 else 1024] += shift
    values, columns = select.top_k(pre, torch.zeros(1, width, device=DEVICE), k)
    expected, place = pre[0].relu().topk(k, dim=1)
    assert torch.equal(values.view(6, k).sort(dim=1).values, expected.sort(dim=1).values)
    assert torch.equal(columns.view(6, k).sort(dim=1).values.long(), place.sort(dim=1).values)


@pytest.mark.parametrize("tile", [16, 16384])
@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "transcoder"])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradients_are_those_of_the_k_sparse_kernels(monkeypatch, tile, architecture, frozen):
    monkeypatch.setattr(update, "TILE", tile)
    p, x, y = parameters(), drawn(S, B, D_IN, seed=4), drawn(S, B, D_OUT, seed=5)
    if architecture != "transcoder":
        p |= {
            "W_dec": torch.nn.functional.normalize(drawn(S, D_SAE, D_IN, seed=1), dim=-1),
            "b_dec": drawn(S, D_IN),
        }
        y = x
    settings = Settings(architecture, 3, sparse=True, frozen_decoder=frozen, count_fired=True)
    a, b = gradients(settings._replace(fused=True), p, x, y), gradients(settings, p, x, y)
    torch.testing.assert_close(a.loss, b.loss)
    torch.testing.assert_close(a.residual, b.residual)
    assert torch.equal(a.fired, b.fired)
    assert a.by_name.keys() == b.by_name.keys()
    for name, value in b.by_name.items():
        torch.testing.assert_close(a.by_name[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("threshold", [False, True])
def test_the_optimiser_takes_the_same_steps(clip, frozen, threshold):
    ends = []
    for fused_steps in (True, False):
        p = {name: value.clone() for name, value in parameters().items()}
        p |= {"threshold": drawn(S, D_SAE).abs()} if threshold else {}
        optimiser = Optimiser(p, clip, ["W_dec"] if frozen else [])
        optimiser._fused = fused_steps
        for step in range(4):
            trained = {n: v for n, v in p.items() if not (frozen and n == "W_dec")}
            gradient = {n: drawn(*v.shape, seed=10 + step) for n, v in trained.items()}
            optimiser.step(gradient, torch.tensor(0.01, device=DEVICE))
        kept = {f"{kind} {n}": v for kind, own in optimiser.state().items() for n, v in own.items()}
        ends.append(p | kept)
    for name, value in ends[1].items():
        torch.testing.assert_close(ends[0][name], value, rtol=1e-4, atol=1e-6)


def test_fused_kernels_are_tried_first_and_trusted_only_when_right(monkeypatch, capsys):
    lane = Ensemble(recipe("topk"), [Member(0)], rows(500), device=DEVICE).lanes[0]
    told = lane.settings, FORMATS["float32"], lane.problem()
    monkeypatch.setattr(arithmetic, "fits_code", lambda p: True)
    monkeypatch.setattr(arithmetic, "_best_time", lambda s, p, c: 0.0 if c.fused else 1.0)
    monkeypatch.setattr(fused, "usable", lambda: True)
    assert choose(*told, measure=True) == Arithmetic(True, None, False, fused=True)
    right = update.decode
    monkeypatch.setattr(update, "decode", lambda *a: (right(*a)[0] * 1.1, *right(*a)[1:]))
    assert not choose(*told, measure=True).fused
    monkeypatch.setattr(update, "decode", lambda *a: 1 / 0)
    assert not choose(*told, measure=True).fused
    logged = capsys.readouterr().err.splitlines()
    lines = [line for line in logged if "fused k-sparse kernels" in line]
    assert len(lines) == 2 and lines[1].endswith("are not used: division by zero")
