"""Options of training: an aligned encoder, weight decay, and the controls of which only a part is
trained.
"""

from dataclasses import replace

import pytest
import torch
from sae_helpers import recipe, rows

from husai.errors import HusaiError
from husai.planning.roles import role_recipe
from husai.planning.specs import ConfirmationSpec
from husai.sae import initial_decoder
from husai.sae.training.constraints import align, align_gradients, keep_near
from husai.sae.training.ensemble import train_ensemble
from husai.sae.training.initialise import initial_parameters, measure_units
from husai.sae.training.objectives import matryoshka_groups, weight_decay
from husai.sae.training.optimiser import remove_parallel

S, D_SAE, D = 2, 9, 6
DATA, HELD_OUT = rows(1000), rows(300, seed=1)
OPTIONS = [
    {"aligned": True},
    {"weight_decay": 0.05},
    {"whitening": True},
    {"frozen_encoder": True},
    {"soft_frozen": 0.99},
]


def train(r, seeds=(0,)):
    return train_ensemble(r, list(seeds), DATA, held_out=HELD_OUT)


def drawn(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def on_constraint():
    p = {"W_enc": drawn(S, D_SAE, D), "W_dec": drawn(S, D_SAE, D, seed=1)}
    p["W_dec"] /= p["W_dec"].norm(dim=-1, keepdim=True)
    align(p)
    return p


def test_alignment_moves_the_encoder_along_the_decoder_alone():
    before = drawn(S, D_SAE, D)
    p = on_constraint()
    torch.testing.assert_close((p["W_enc"] * p["W_dec"]).sum(-1), torch.ones(S, D_SAE).double())
    moved = p["W_enc"] - before
    along = (moved * p["W_dec"]).sum(-1, keepdim=True) * p["W_dec"]
    torch.testing.assert_close(moved, along)


def test_aligned_gradients_equal_autograd_of_the_reparameterised_encoder():
    p, target = on_constraint(), drawn(S, D_SAE, 2 * D, seed=2)
    u, raw = (p[n].clone().requires_grad_() for n in ("W_enc", "W_dec"))
    d = raw / raw.norm(dim=-1, keepdim=True)
    e = u + (1 - (u * d).sum(-1, keepdim=True)) * d

    def loss(e, d):
        return (torch.cat([e * d, d.square() + e], -1) * target).sum().sin()

    loss(e, d).backward()
    free = {n: v.clone().requires_grad_() for n, v in p.items()}
    loss(free["W_enc"], free["W_dec"]).backward()
    found = {n: v.grad.clone() for n, v in free.items()}
    align_gradients(p, found)
    remove_parallel(found["W_dec"], p["W_dec"])
    torch.testing.assert_close(found["W_enc"], u.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found["W_dec"], raw.grad, rtol=1e-10, atol=1e-12)


def test_weight_decay_equals_autograd_of_the_penalty():
    p = on_constraint()
    leaves = {n: v.clone().requires_grad_() for n, v in p.items()}
    penalty = 0.3 / D * sum(v.square().sum((1, 2)) for v in leaves.values())
    penalty.sum().backward()
    found = {n: torch.zeros_like(v) for n, v in p.items()}
    torch.testing.assert_close(weight_decay(p, found, 0.3), penalty.detach())
    torch.testing.assert_close(found["W_enc"], leaves["W_enc"].grad)
    on_sphere = leaves["W_dec"].grad.clone()
    remove_parallel(on_sphere, p["W_dec"])
    torch.testing.assert_close(on_sphere, found["W_dec"])


def test_rows_that_left_their_cone_come_back_to_its_nearest_point():
    start, W = on_constraint()["W_dec"], drawn(S, D_SAE, D, seed=3)
    W /= W.norm(dim=-1, keepdim=True)
    W[0, 0] = start[0, 0]
    kept = W.clone()
    keep_near(kept, start, 0.8)
    cosine, before = (kept * start).sum(-1), (W * start).sum(-1)
    inside = before >= 0.8
    assert bool(inside[0, 0]) and torch.equal(kept[inside], W[inside])
    torch.testing.assert_close(cosine[~inside], torch.full_like(cosine[~inside], 0.8))
    torch.testing.assert_close(kept.norm(dim=-1), torch.ones(S, D_SAE).double())
    # The nearest point of a cone lies in the plane of its axis and the point.
    angle = before.arccos() - torch.tensor(0.8).double().arccos()
    torch.testing.assert_close((kept * W).sum(-1)[~inside], angle.cos()[~inside])


@pytest.mark.parametrize("option", OPTIONS, ids=str)
@pytest.mark.parametrize("architecture", ["topk", "relu"])
def test_a_member_equals_training_it_alone_with_an_option(architecture, option):
    r = recipe(architecture, steps=100, dead_after_rows=1000, **option)
    together, alone = train(r, [3, 5]), train(r, [5])
    for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
        a, b = (getattr(saes[-1], name) for saes in (together.saes, alone.saes))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
    plain = train(recipe(architecture, steps=100, dead_after_rows=1000), [5])
    assert not torch.equal(alone.saes[0].W_dec, plain.saes[0].W_dec)


@pytest.mark.parametrize("architecture", ["topk", "matryoshka", "relu", "jumprelu"])
def test_an_aligned_sae_has_inner_products_of_one(architecture):
    sae = train(recipe(architecture, aligned=True)).saes[0]
    torch.testing.assert_close((sae.W_enc.T * sae.W_dec).sum(1), torch.ones(48))


def test_weight_decay_makes_encoder_weights_smaller():
    sizes = [
        train(recipe("relu", steps=150, weight_decay=w)).saes[0].W_enc.norm() for w in (0, 0.05)
    ]
    assert sizes[1] < 0.95 * sizes[0]


def whitened(x, units):
    return (x.double() - units.centre_in) @ units.whitening


def test_whitened_rows_have_unit_variance_in_every_direction():
    units = measure_units(recipe(whitening=True, b_dec_init="mean"), DATA)
    covariance = torch.cov(whitened(DATA, units).T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(16).double(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("architecture", ["relu", "topk", "matryoshka", "jumprelu"])
def test_training_with_whitening_is_training_on_whitened_rows_folded_into_the_weights(
    architecture, monkeypatch
):
    monkeypatch.setattr("husai.sae.training.initialise.WHITENING_FLOOR", 1e-15)
    r = recipe(architecture, whitening=True, b_dec_init="mean", steps=30)
    units = measure_units(r, DATA)
    ours = train_ensemble(r, [0], DATA, held_out=HELD_OUT, dtype="float64").saes[0]
    plain = replace(r, whitening=False)
    rows_, held = (whitened(x, units) for x in (DATA, HELD_OUT))
    theirs = train_ensemble(plain, [0], rows_, held_out=held, dtype="float64").saes[0]
    z = theirs.encode(held)
    torch.testing.assert_close(ours.encode(HELD_OUT), z, rtol=1e-7, atol=1e-9)
    raw = theirs.decode(z) @ torch.linalg.inv(units.whitening) + units.centre_in
    torch.testing.assert_close(ours(HELD_OUT), raw, rtol=1e-7, atol=1e-9)


def test_of_a_frozen_encoder_everything_else_is_trained():
    r = recipe(steps=60, frozen_encoder=True)
    result = train(r, [4])
    start = initial_parameters(r, 4, measure_units(r, DATA))
    torch.testing.assert_close(result.saes[0].W_enc.T, start["W_enc"])
    assert result.final[0]["cos_to_init"] < 0.999
    assert result.curves[-1]["explained_variance"] > result.curves[0]["explained_variance"]


def test_a_soft_frozen_decoder_moves_no_further_than_its_cosine():
    def cosines(**option):
        r = recipe(steps=300, learning_rate=0.01, **option)
        return (train(r, [4]).saes[0].W_dec * initial_decoder(r, 4, 16)).sum(1)

    held = cosines(soft_frozen=0.8)
    assert held.min() >= 0.8 - 1e-5 and (held < 0.801).any() and cosines().min() < 0.7


def test_options_are_named_in_the_id_and_leave_other_recipes_as_they_were():
    plain = recipe("relu")
    assert not {"aligned", "weight_decay", "frozen_encoder", "soft_frozen"} & set(plain.to_dict())
    found = recipe("relu", aligned=True, weight_decay=0.05)
    assert found.id == "relu-d48-c0.5-aligned-decay0.05" and not found.is_control
    assert found.hash != plain.hash and type(found).from_dict(found.to_dict()) == found
    assert recipe(soft_frozen=0.8).is_control and recipe(frozen_encoder=True).is_control


def test_the_frozen_control_of_a_confirmation_has_no_option():
    r = recipe("relu", aligned=True, weight_decay=0.05, sparsity_coefficient=None, l0_target=4.0)
    control = role_recipe("frozen", r, r, ConfirmationSpec.model_construct())
    assert control.id == "topk-d48-k4-frozen"
    assert role_recipe("random_model", r, r, ConfirmationSpec.model_construct()).aligned


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": -1.0}, "weight_decay must be >= 0"),
        ({"soft_frozen": 1.0}, r"a cosine in \[0, 1\)"),
        ({"frozen_encoder": True, "aligned": True}, "can be neither aligned nor decayed"),
        ({"frozen_decoder": True, "soft_frozen": 0.8}, "a frozen decoder leaves no"),
        ({"architecture": "transcoder", "aligned": True}, "need one space"),
        (
            {"whitening": True, "consistency_weight": 1.0, "reference_seed": 1},
            "no reference decoder of raw rows",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(HusaiError, match=message):
        recipe(changes.pop("architecture", "topk"), **changes)


def test_matryoshka_groups_double_and_the_last_holds_the_rest():
    assert matryoshka_groups(384) == (12, 36, 84, 180, 384)
    assert matryoshka_groups(65536) == (2048, 6144, 14336, 30720, 65536)  # 2503.17547
    assert matryoshka_groups(8) == (1, 2, 4, 8) and matryoshka_groups(1) == (1,)


def test_the_first_group_of_a_matryoshka_sae_reconstructs_better_than_of_a_batch_top_k_sae():
    def explained(architecture):
        sae = train(recipe(architecture, steps=300, batch_size=128)).saes[0]
        z = sae.encode(HELD_OUT)
        z[:, matryoshka_groups(48)[2] :] = 0
        return 1 - float(
            (sae.decode(z) - HELD_OUT).square().sum() / (HELD_OUT - HELD_OUT.mean(0)).square().sum()
        )

    assert explained("matryoshka") > explained("batchtopk") + 0.05
