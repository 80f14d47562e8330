"""Passports of whole ensembles: what is certified, what must not change it, and what is refused."""

import dataclasses

import pytest
import torch

from husai.errors import HusaiError
from husai.passport import Kin, certify
from husai.passport.planted import (
    KINDS,
    PlantedDesign,
    campaign,
    mean_outcome,
    planted_sae,
    planted_world,
)
from husai.sae import SAE
from husai.stability import planted_decoders

PLAN = PlantedDesign(d_in=32, d_sae=64, l0=4, cosine=0.9, n_rows=1500, n_seeds=5)
PRIVATE, SHARED = KINDS.index("private"), KINDS.index("shared")


@pytest.fixture(scope="module")
def planted():
    world = planted_world(PLAN, 3)
    made = [planted_sae(world, seed) for seed in range(PLAN.n_seeds)]
    return [sae for sae, _ in made], [kind for _, kind in made], world.rows


@pytest.fixture(scope="module")
def found(planted):
    saes, _, rows = planted
    return certify(saes, rows, seeds=range(5))


def rearranged(sae, seed=0, flip=True, noise=0.0):
    """The same SAE with its latents in another order and, with its encoder, some signs turned."""
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(sae.d_sae, generator=g)
    sign = torch.ones(sae.d_sae)
    if flip:
        sign = torch.where(torch.rand(sae.d_sae, generator=g) < 0.5, -1.0, 1.0)
    W_dec = (sae.W_dec * sign[:, None])[order]
    W_dec = W_dec + noise * torch.randn(W_dec.shape, generator=g)
    W_enc = (sae.W_enc * sign)[:, order]
    k = {"k": sae.k, "threshold": None if sae.threshold is None else sae.threshold[order]}
    return SAE(sae.architecture, W_enc, W_dec, (sae.b_enc * sign)[order], sae.b_dec, **k), order


def test_shared_latents_are_certified_and_private_ones_are_not(planted, found):
    _, kinds, _ = planted
    for table, kind in zip(found.tables, kinds, strict=True):
        assert table.certified[kind == SHARED].double().mean() > 0.8
        assert not table.certified[kind == PRIVATE].any()
        assert table.others == tuple(f"seed{s}" for s in range(5) if f"seed{s}" != table.name)
    assert found.remarks == []
    assert found.n_rows == 1500


def test_a_row_says_what_its_columns_say(planted, found):
    saes, _, rows = planted
    table, columns = found.tables[0], found.tables[0].columns()
    assert columns["latent"].tolist() == list(range(64))
    latent = int(table.certified.nonzero()[0])
    other, match = saes[2], int(columns["match:seed2"][latent])
    cosine = torch.nn.functional.cosine_similarity
    decoder = cosine(saes[0].W_dec[latent], other.W_dec[match], dim=0)
    encoder = cosine(saes[0].W_enc[:, latent], other.W_enc[:, match], dim=0)
    codes = torch.stack([saes[0].encode(rows)[:, latent], other.encode(rows)[:, match]])
    assert columns["decoder_cosine:seed2"][latent] == pytest.approx(float(decoder), abs=1e-6)
    assert columns["encoder_cosine:seed2"][latent] == pytest.approx(float(encoder), abs=1e-6)
    r = float(torch.corrcoef(codes)[0, 1])
    assert columns["activation_r:seed2"][latent] == pytest.approx(r, abs=1e-5)
    assert columns["density"][latent] == pytest.approx(float((codes[0] > 0).double().mean()))
    assert columns["max_activation"][latent] == pytest.approx(float(codes[0].max()))
    assert columns["p_value"][latent] == max(
        columns["p_crowding"][latent], columns["p_covariance"][latent]
    )
    counts = sum(columns[f"reappears:{name}"] for name in table.others)
    assert (counts == columns["reappearances"]).all()


def test_the_order_of_latents_changes_nothing(planted, found):
    saes, _, rows = planted
    moved = [rearranged(sae, seed, flip=False) for seed, sae in enumerate(saes)]
    again = certify([sae for sae, _ in moved], rows, seeds=range(5))
    for before, after, (_, order) in zip(found.tables, again.tables, moved, strict=True):
        assert torch.equal(before.reappears[order], after.reappears)
        assert torch.equal(before.certified[order], after.certified)
        assert torch.allclose(before.theta[order], after.theta)


@pytest.mark.parametrize("activations", [True, False])
def test_the_signs_of_latents_change_nothing(planted, activations):
    saes, _, rows = planted
    saes = [SAE("relu", s.W_enc, s.W_dec, s.b_enc - 0.3, s.b_dec) for s in saes]
    rows = rows if activations else None
    moved = [rearranged(sae, seed) for seed, sae in enumerate(saes)]
    before = certify(saes, rows, null_draws=0).tables[0]
    after = certify([saes[0], *(sae for sae, _ in moved[1:])], rows, null_draws=0).tables[0]
    assert int(before.reappearances.sum()) > 50
    assert torch.equal(before.reappearances, after.reappearances)


def test_the_order_of_saes_changes_nothing(planted, found):
    saes, _, rows = planted
    again = certify(saes[::-1], rows, seeds=range(4, -1, -1))
    assert torch.equal(found.tables[1].certified, again.tables[3].certified)
    assert torch.allclose(found.tables[1].theta, again.tables[3].theta)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_clone_certifies_nothing(planted, noise):
    saes, _, rows = planted
    clone = SAE("topk", saes[0].W_enc, saes[0].W_dec + noise * torch.randn(64, 32), *_rest(saes[0]))
    shuffled, _ = rearranged(saes[0])
    copies = [saes[0], clone] if noise else [saes[0], clone, shuffled]
    found = certify(copies, rows)
    assert not any(bool(t.certified.any()) for t in found.tables)
    assert len(found.kin) >= 1
    assert "no trainings of their own" in found.remarks[0]


def test_a_clone_adds_nothing_to_independent_seeds(planted, found):
    saes, _, rows = planted
    shuffled, _ = rearranged(saes[0], flip=False)
    again = certify([*saes, shuffled], rows)
    assert [(k.a, k.b) for k in again.kin] == [(0, 5)]
    for table in again.tables[:5]:
        assert len(table.others) == 4
    assert torch.equal(again.tables[1].certified, found.tables[1].certified)
    assert "sae5" not in again.tables[1].others


def test_a_copy_with_some_latents_replaced_is_no_reproduction(planted):
    saes, _, rows = planted
    W_enc, W_dec = saes[0].W_enc.clone(), saes[0].W_dec.clone()
    W_dec[:5], W_enc[:, :5] = saes[1].W_dec[:5], saes[1].W_enc[:, :5]
    mixed, _ = rearranged(SAE("topk", W_enc, W_dec, *_rest(saes[0])), flip=False)
    kin = certify([saes[0], mixed, saes[2], saes[3]], rows).kin
    assert [(k.a, k.b) for k in kin] == [(0, 1)]
    assert "identical" in kin[0].reason


def test_planted_dictionaries_that_share_a_part_exactly_are_no_copies(planted):
    _, _, rows = planted
    zeros = torch.zeros(64), torch.zeros(32)
    saes = [SAE("topk", W.T, W, *zeros, k=4) for W in planted_decoders(5, 64, 32, 0.75)]
    found = certify(saes, rows, null_draws=0)
    assert found.kin == []
    assert [int(t.certified.sum()) for t in found.tables] == [48] * 5


def test_a_common_start_is_no_reproduction(planted):
    saes, _, rows = planted
    g = torch.Generator().manual_seed(1)
    moved = saes[0].W_dec + 0.12 * torch.randn((64, 32), generator=g)
    kin = certify([saes[0], SAE("topk", moved.T, moved, *_rest(saes[0])), *saes[2:]], rows).kin
    assert [(k.a, k.b) for k in kin] == [(0, 1)]
    assert "their own index" in kin[0].reason


def test_pairs_known_to_be_related_count_as_one(planted, found):
    saes, _, rows = planted
    again = certify(saes, rows, related=[Kin(0, 3, "the same seed (42)")], null_draws=0)
    assert len(again.tables[0].others) == 3
    assert "sae3" not in again.tables[1].others
    assert len(again.tables[1].others) == 3
    assert "no trainings of their own" in again.remarks[0]


def test_without_activations_cosines_are_told_and_nothing_is_certified(planted, found):
    saes, _, _ = planted
    bare = certify(saes)
    table = bare.tables[0]
    assert not table.certified.any()
    assert torch.allclose(table.decoder_cosine, found.tables[0].decoder_cosine, equal_nan=True)
    assert torch.isfinite(table.theta).all()
    assert torch.isfinite(table.p_crowding).all()
    for unknown in (table.density, table.variance_share, table.p_covariance, table.activation_r):
        assert torch.isnan(unknown).all()
    assert "Without activations" in bare.remarks[0]


def test_two_saes_have_matches_but_no_certificates(planted):
    saes, _, rows = planted
    two = certify(saes[:2], rows)
    assert int(two.tables[0].reappearances.sum()) > 10
    assert torch.isnan(two.tables[0].theta).all()
    assert not two.tables[0].certified.any()
    assert "1 comparison" in two.remarks[0]


def test_a_dead_latent_is_listed_and_not_certified(planted):
    saes, _, rows = planted
    W_enc, b_enc = saes[0].W_enc.clone(), saes[0].b_enc.clone()
    b_enc[5] = -100.0
    table = certify([SAE("topk", W_enc, saes[0].W_dec, b_enc, saes[0].b_dec, k=4), *saes[1:]], rows)
    table = table.tables[0]
    assert not table.alive[5]
    assert table.density[5] == 0
    assert not table.certified[5]
    assert table.match[5].tolist() == [-1] * 4
    assert torch.isnan(table.theta[5])


def test_other_behaviour_on_the_rows_is_no_reappearance(planted):
    saes, _, rows = planted
    alone = [SAE("relu", s.W_enc, s.W_dec, s.b_enc - 0.2, s.b_dec) for s in saes]
    b_enc = alone[0].b_enc + 50.0  # every latent always on: a shift, not a feature
    b_enc[:32] = alone[0].b_enc[:32]
    dense = SAE("relu", alone[0].W_enc, alone[0].W_dec, b_enc, alone[0].b_dec)
    before, after = (
        certify([s, *alone[1:]], rows, null_draws=0).tables[0] for s in (alone[0], dense)
    )
    assert torch.equal(before.reappears[:32], after.reappears[:32])
    strong = before.activation_r[32:] > 0.2
    assert (
        after.activation_r[32:][strong] < before.activation_r[32:][strong]
    ).double().mean() > 0.9


def test_bad_input_is_one_clear_line(planted):
    saes, _, rows = planted
    narrow = SAE("relu", torch.eye(8), torch.eye(8), torch.zeros(8), torch.zeros(8))
    broken = SAE("topk", saes[0].W_enc * torch.nan, saes[0].W_dec, *_rest(saes[0]))
    W = torch.randn((32, 64))
    coder = SAE("transcoder", W, torch.randn((64, 8)), torch.zeros(64), torch.zeros(8), k=3)
    for message, call in {
        "1 SAE cannot show": lambda: certify(saes[:1], rows),
        "seed 1 appears twice": lambda: certify(saes[:3], rows, seeds=[1, 2, 1]),
        "3 SAEs but 2 seeds": lambda: certify(saes[:3], rows, seeds=[1, 2]),
        "different models or hooks": lambda: certify([saes[0], narrow], rows),
        r"d_in = 32": lambda: certify(saes[:3], rows[:, :20]),
        "NaN": lambda: certify([broken, *saes[1:]], rows),
        "transcoder": lambda: certify([coder, *saes[1:]], rows),
        "between 0 and 1": lambda: certify(saes, rows, fdr=0.0),
        "null_draws": lambda: certify(saes, rows, null_draws=1),
        "too few": lambda: certify(saes, rows[:1]),
    }.items():
        with pytest.raises(HusaiError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_the_summary_is_json(found):
    import json

    from husai.provenance import finite

    text = json.dumps(finite(found.summary()), allow_nan=False)
    assert json.loads(text)["saes"][0]["living"] == int(found.tables[0].alive.sum())


@pytest.mark.parametrize(
    "changes",
    [
        {"cosine": 0.85},
        {"architecture": "jumprelu", "cosine": 0.8},
        {"shared": 0.0, "duplicate": 0.0, "split": 0.5, "faint": 0.3},
    ],
)
def test_certificates_hold_on_planted_truth(changes):
    plan = dataclasses.replace(PLAN, d_sae=96, n_rows=600, n_seeds=8, **changes)
    found = [campaign(plan, seed, n_fresh=24) for seed in range(8)]
    false, error, power = mean_outcome(found)
    assert false <= 0.05 + 2 * error
    assert sum(c.false_private for c in found) == 0
    assert plan.shared == 0 or power >= 0.8


def test_unrelated_seeds_certify_nothing():
    plan = dataclasses.replace(PLAN, shared=0.0, duplicate=0.0, split=0.0, faint=0.0)
    world = planted_world(dataclasses.replace(plan, shared=0.3), 1)._replace(plan=plan)
    nothing = world.shared[:0]
    world = world._replace(shared=nothing)
    found = certify([planted_sae(world, s)[0] for s in range(6)], world.rows)
    assert not any(bool(t.certified.any()) for t in found.tables)


def _rest(sae):
    """What follows the two matrices in an SAE's arguments."""
    return sae.b_enc, sae.b_dec, sae.threshold, sae.k
