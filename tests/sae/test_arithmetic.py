"""The choice of kernels and number format: what fails its trial against float64 is not used, and
says so in one line.
"""

import pytest
import torch
from sae_helpers import recipe, rows

from husai.sae import kernels
from husai.sae.training import arithmetic
from husai.sae.training.arithmetic import (
    EXACT_LIMIT,
    FORMATS,
    ROUNDED_LIMIT,
    Arithmetic,
    Problem,
    Trial,
    choose,
)
from husai.sae.training.ensemble import train_ensemble
from husai.sae.training.gradients import Settings
from husai.sae.training.initialise import initial_parameters, measure_units
from husai.sae.training.members import Ensemble, Member

DATA, HELD_OUT = rows(1000), rows(300, seed=1)
KINDS = [("relu", False), ("jumprelu", False)] + [
    (a, s) for a in ("topk", "batchtopk") for s in (True, False)
]


def problem(architecture):
    r = (
        recipe(architecture, l0_target=4.0)
        if architecture in ("relu", "jumprelu")
        else recipe(architecture)
    )
    units = measure_units(r, DATA)
    members = [initial_parameters(r, seed, units) for seed in (0, 1)]
    x = units.sample_in.expand(2, -1, -1)
    return Settings(architecture, r.k), Problem(
        {n: torch.stack([m[n] for m in members]) for n in members[0]}, x, x, torch.ones(2)
    )


def logged(capsys):
    return capsys.readouterr().err.strip().splitlines()


@pytest.fixture
def wrong_kernels(monkeypatch):
    right = kernels.code_gradient
    monkeypatch.setattr(kernels, "code_gradient", lambda *a: right(*a) * 1.05)


@pytest.fixture
def coarse_products(monkeypatch):
    """Rounding to three bits of mantissa in the place of bfloat16."""
    monkeypatch.setitem(
        arithmetic.FORMATS, "bfloat16", arithmetic.Format(torch.float32, torch.float8_e5m2)
    )
    right = kernels.matmul

    def matmul(a, b, dtype=None):
        return (
            right(a, b)
            if dtype is None
            else right(a.to(dtype).to(a.dtype), b.to(dtype).to(b.dtype))
        )

    for module in ("husai.sae.kernels", "husai.sae.training.gradients"):
        monkeypatch.setattr(f"{module}.matmul", matmul)


@pytest.mark.parametrize(("architecture", "sparse"), KINDS)
def test_float32_is_all_but_exact_and_bfloat16_within_the_noise(architecture, sparse):
    trial = Trial(*problem(architecture))
    assert trial.error(Arithmetic(sparse, None, False)) < 1e-4 < EXACT_LIMIT
    assert 1e-4 < trial.error(Arithmetic(sparse, torch.bfloat16, False)) < ROUNDED_LIMIT


def test_the_noise_is_that_of_drawing_a_batch():
    """The unit of the trial against the spread of gradients over many disjoint batches of its
    size.
    """
    settings, one = problem("relu")
    trial = Trial(settings, one)
    many = measure_units(recipe("relu"), rows(64 * 512, seed=3), None)
    x = (rows(64 * 512, seed=3) - many.centre_in.float()) * many.scale_in
    drawn = [
        Problem(one.p, b.expand(2, -1, -1), b.expand(2, -1, -1), one.coefficient)
        for b in x.split(512)
    ]
    found = torch.stack(
        [d.gradients(settings, Arithmetic(False, None, False))["W_dec"][0] for d in drawn]
    )
    spread = (found - found.mean(0)).square().sum((1, 2)).mean().sqrt()
    assert 0.7 < float(trial._noise["W_dec"][0] / spread) < 1.4


def test_on_a_cpu_the_crossover_decides_and_nothing_is_tried(monkeypatch):
    monkeypatch.setattr(arithmetic, "Trial", None)
    settings, one = problem("topk")
    for k, expected in ((4, True), (24, False)):
        assert choose(settings._replace(k=k), FORMATS["float32"], one) == Arithmetic(
            expected, None, False
        )
    assert choose(settings, FORMATS["float32"], one, sparse=False) == Arithmetic(False, None, False)
    for architecture, sparse in (("relu", True), ("jumprelu", False)):
        settings, one = problem(architecture)
        expected = Arithmetic(sparse, None, False)
        assert choose(settings, FORMATS["float64"], one, sparse=True) == expected


def test_where_kernels_are_measured_the_faster_is_taken(monkeypatch, capsys):
    for fast in (True, False):
        monkeypatch.setattr(
            arithmetic, "_best_time", lambda s, p, c, fast=fast: 1.0 if c.sparse is fast else 2.0
        )
        assert choose(
            problem("topk")[0], FORMATS["bfloat16"], problem("topk")[1], measure=True
        ) == Arithmetic(fast, torch.bfloat16, False)
    assert not logged(capsys)


def test_wrong_kernels_are_replaced_by_dense_products(wrong_kernels, monkeypatch, capsys):
    monkeypatch.setattr(arithmetic, "_best_time", lambda s, p, c: 1.0 if c.sparse else 2.0)
    assert choose(
        problem("topk")[0], FORMATS["float32"], problem("topk")[1], measure=True
    ) == Arithmetic(False, None, False)
    lines = logged(capsys)
    assert len(lines) == 1 and "k-sparse kernels in float32 are not used: gradients are" in lines[0]


def test_a_format_that_rounds_too_much_is_replaced_by_float32(coarse_products, capsys):
    coarse = train_ensemble(recipe(steps=30), [0, 1], DATA, held_out=HELD_OUT, dtype="bfloat16")
    lines = [line for line in logged(capsys) if "not used" in line]
    assert (
        len(lines) == 1
        and "k-sparse kernels in float8_e5m2 are not used: gradients are" in lines[0]
    )
    plain = train_ensemble(recipe(steps=30), [0, 1], DATA, held_out=HELD_OUT)
    assert all(torch.equal(a.W_enc, b.W_enc) for a, b in zip(coarse.saes, plain.saes, strict=True))


def test_a_format_that_passes_is_used_and_trains_as_well(capsys):
    rounded = train_ensemble(recipe(steps=150), [0], DATA, held_out=HELD_OUT, dtype="bfloat16")
    plain = train_ensemble(recipe(steps=150), [0], DATA, held_out=HELD_OUT)
    assert not [line for line in logged(capsys) if "not used" in line]
    assert not torch.equal(rounded.saes[0].W_enc, plain.saes[0].W_enc)
    assert rounded.final[0]["explained_variance"] == pytest.approx(
        plain.final[0]["explained_variance"], abs=0.02
    )


def test_a_resumed_run_keeps_the_arithmetic_it_began_with():
    first = Ensemble(recipe(), [Member(0)], DATA, dtype="bfloat16")
    assert first.lanes[0].settings.matmul_dtype == torch.bfloat16
    second = Ensemble(recipe(), [Member(0)], DATA, sparse=False)
    second.lanes[0].restore(first.lanes[0].state())
    resumed = second.lanes[0].settings
    assert (resumed.matmul_dtype, resumed.sparse) == (torch.bfloat16, True)


def test_tf32_is_on_for_products_of_the_step_alone(monkeypatch):
    seen = []
    right = kernels.pre_activations
    monkeypatch.setattr(
        kernels,
        "pre_activations",
        lambda *a: seen.append(torch.backends.cuda.matmul.allow_tf32) or right(*a),
    )
    ensemble = Ensemble(recipe(), [Member(0)], DATA, dtype="tf32")
    seen.clear()
    ensemble.lanes[0].step()
    assert seen == [True] and not torch.backends.cuda.matmul.allow_tf32


def test_float32_is_float32_in_a_program_that_allows_tf32(monkeypatch):
    seen = []
    right = kernels.pre_activations
    monkeypatch.setattr(
        kernels,
        "pre_activations",
        lambda *a: seen.append(torch.backends.cuda.matmul.allow_tf32) or right(*a),
    )
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        lane = Ensemble(recipe(), [Member(0)], DATA).lanes[0]
        lane.step()
        Trial(lane.settings, lane.problem()).error(Arithmetic(True, None, False))
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
    assert seen and not any(seen)
