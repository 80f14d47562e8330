"""Consensus SAEs: what recurs is kept and averaged, what is private goes, and groups share no
seed."""

import dataclasses

import pytest
import torch

from husai.activations import ActivationStore, write_store
from husai.errors import HusaiError
from husai.passport.consensus import consensus
from husai.passport.planted import KINDS, PlantedDesign, planted_sae, planted_world
from husai.passport.refit import refit
from husai.sae import SAE, evaluate_sae
from husai.stability import pwmcc

PLAN = PlantedDesign(
    d_in=32, d_sae=64, l0=4, cosine=0.85, duplicate=0.0, split=0.0, faint=0.0, n_rows=4000
)


def members(architecture="topk", n=8, seed=5):
    world = planted_world(dataclasses.replace(PLAN, architecture=architecture), seed)
    saes = [planted_sae(world, 100 + s)[0] for s in range(n)]
    if architecture == "relu":
        saes = [SAE("relu", s.W_enc, s.W_dec, s.b_enc - 0.8, s.b_dec) for s in saes]
    return saes, world


@pytest.fixture(scope="module")
def planted():
    return members()


def test_a_consensus_holds_what_recurs_and_lies_nearer_to_the_truth(planted):
    saes, world = planted
    (found,) = consensus([saes[:5]], world.rows, steps=50)
    shared = round(PLAN.shared * PLAN.d_sae)
    assert found.sae.d_sae == shared
    assert found.occurrences.tolist() == [5] * shared
    truth = (world.shared @ found.sae.W_dec.T).abs().amax(1)
    single = (world.shared @ saes[0].W_dec.T).abs().amax(1)
    assert float(truth.mean()) > float(single.mean()) + 0.02
    assert KINDS[0] == "shared"


def test_groups_agree_more_than_single_seeds(planted):
    saes, world = planted
    a, b = consensus([saes[:4], saes[4:]], world.rows, steps=0)
    shared = a.sae.d_sae
    assert pwmcc(a.sae.W_dec, b.sae.W_dec) > pwmcc(saes[0].W_dec[:shared], saes[4].W_dec) + 0.1


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "relu"])
def test_the_refit_keeps_l0_and_explains_more(architecture):
    saes, world = members(architecture)
    start, found = (consensus([saes[:4]], world.rows, steps=n)[0] for n in (0, 300))
    before, after = (evaluate_sae(one.sae, world.rows) for one in (start, found))
    assert after["explained_variance"] > before["explained_variance"]
    aim = min(found.sae.d_sae, sum(evaluate_sae(s, world.rows)["l0"] for s in saes[:4]) / 4)
    # never above the members' L0; below where fewer pre-activations are positive at all
    assert 0.85 * aim < after["l0"] <= 1.001 * aim
    assert found.sae.architecture == architecture
    assert torch.allclose(found.sae.W_dec.norm(dim=1), torch.ones(found.sae.d_sae), atol=1e-5)


def test_rows_may_lie_in_a_store(planted, tmp_path):
    saes, world = planted
    write_store(tmp_path / "rows", world.rows)
    (stored,) = consensus([saes[:3]], ActivationStore.open(tmp_path / "rows"), steps=20)
    (held,) = consensus([saes[:3]], world.rows, steps=20)
    assert torch.allclose(stored.sae.W_enc, held.sae.W_enc, atol=1e-5)


def test_min_share_decides_how_often_a_latent_must_occur(planted):
    saes, world = planted
    counts = [
        len(consensus([saes[:4]], world.rows, min_share=share, steps=0)[0].occurrences)
        for share in (0.5, 1.0)
    ]
    assert counts[0] >= counts[1]


def test_the_refit_holds_the_decoder_and_leaves_its_argument(planted):
    saes, world = planted
    before = saes[0].W_enc.clone()
    found = refit(saes[0], world.rows, l0=4, steps=5)
    assert torch.equal(found.W_dec, saes[0].W_dec)
    assert torch.equal(saes[0].W_enc, before)
    assert not torch.equal(found.W_enc, before)


def test_bad_groups_are_one_clear_line(planted):
    saes, world = planted
    relu = SAE("relu", saes[1].W_enc, saes[1].W_dec, saes[1].b_enc, saes[1].b_dec)
    copy = SAE("topk", saes[0].W_enc, saes[0].W_dec, saes[0].b_enc, saes[0].b_dec, k=4)
    for message, call in {
        "given twice": lambda: consensus([saes[:2], saes[1:3]], world.rows),
        "seed 7 is given twice": lambda: consensus(
            [saes[:2], saes[2:4]], world.rows, seeds=[[7, 1], [2, 7]]
        ),
        "no trainings of their own": lambda: consensus([saes[:2], [copy, saes[3]]], world.rows),
        "at least two": lambda: consensus([saes[:1]], world.rows),
        "relu and topk": lambda: consensus([[saes[0], relu]], world.rows),
        "min_share": lambda: consensus([saes[:2]], world.rows, min_share=0.0),
        "training rows": lambda: consensus([saes[:2]], world.rows[:500]),
    }.items():
        with pytest.raises(HusaiError, match=message):
            call()


def test_unrelated_members_have_no_consensus(planted):
    _, world = planted
    g = torch.Generator().manual_seed(0)
    W = [torch.nn.functional.normalize(torch.randn((64, 32), generator=g), dim=1) for _ in range(2)]
    pair = [SAE("topk", w.T.contiguous(), w, torch.zeros(64), torch.zeros(32), k=4) for w in W]
    with pytest.raises(HusaiError, match="lower min_share"):
        consensus([pair], world.rows)
