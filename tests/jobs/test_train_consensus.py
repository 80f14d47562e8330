"""A consensus recipe through the train job: one SAE per seed, made of a group that shares no seed
with any other, and measured like any SAE."""

import json

import pytest
import torch

from husai.activations import write_store
from husai.errors import HusaiError, RecipeFailed
from husai.jobs.stability import stability_job
from husai.jobs.train_recipe import train_job
from husai.passport.train_consensus import member_seeds, train_consensus
from husai.planning.roles import role_recipe
from husai.planning.specs import ConfirmationSpec, TrainSpec
from husai.provenance import read_json
from husai.sae import Recipe, evaluate_sae, load_sae

D, HOOK = 24, "blocks.0.hook_resid_post"
RECIPE = {"subject": "tiny", "hook_name": HOOK, "architecture": "topk", "d_sae": 28, "k": 3}
RECIPE |= {"steps": 300, "batch_size": 256, "learning_rate": 3e-3}
RECIPE |= {"consensus_members": 3, "consensus_min_share": 0.6, "consensus_d_sae": 40}
SEEDS = [3, 5, 8]


@pytest.fixture(scope="module")
def rows():
    """Sparse combinations of 32 unit directions: something every seed finds."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(32, D, generator=generator), dim=1)
    active = torch.rand(9000, 32, generator=generator) < 0.07
    return (active * torch.rand(9000, 32, generator=generator).add(0.5)) @ directions


@pytest.fixture(scope="module")
def store(tmp_path_factory, rows):
    root = tmp_path_factory.mktemp("activations")
    write_store(root / HOOK / "train", rows[:7000])
    write_store(root / HOOK / "held_out", rows[7000:])
    return root / HOOK


@pytest.fixture(scope="module")
def trained(tmp_path_factory, store):
    out = tmp_path_factory.mktemp("saes") / "consensus"
    train_job(TrainSpec(recipe=RECIPE, seeds=SEEDS), store, out, device="cpu")
    return out


def test_each_seed_is_one_sae_of_the_width_asked_for(trained, rows):
    record = read_json(trained / "recipe.json")
    assert record["id"] == "topk-d28-k3-consensus3x40"
    assert record["seeds"] == SEEDS
    for final in record["final"]:
        sae = load_sae(trained / f"seed{final['seed']}")
        assert (sae.d_sae, sae.k, sae.cfg["recipe_hash"]) == (28, 3, record["hash"])
        found = evaluate_sae(sae, rows[7000:])
        assert found["explained_variance"] == pytest.approx(final["explained_variance"], abs=1e-4)
        assert final["dead_fraction"] == 0
        assert 0 < final["cos_to_init"] < 1


def test_groups_share_no_seed(trained):
    members = [final["members"] for final in read_json(trained / "recipe.json")["final"]]
    flat = [seed for group in members for seed in group]
    assert len(set(flat)) == len(flat) == 9
    assert members == [member_seeds(seed, 3) for seed in SEEDS]


def test_groups_agree_more_than_single_seeds_and_are_no_copies(trained, store, tmp_path):
    found = stability_job(trained, store, tmp_path / "consensus.json")["metrics"]
    plain = Recipe.from_dict(RECIPE).member
    train_job(TrainSpec(recipe=plain, seeds=SEEDS), store, tmp_path / "plain", device="cpu")
    single = stability_job(tmp_path / "plain", store, tmp_path / "plain.json")["metrics"]
    assert found["shared_fraction"].value > single["shared_fraction"].value
    assert found["shared_init_pairs"].value == 0


def test_a_seed_given_twice_is_refused(rows):
    with pytest.raises(HusaiError, match="groups must not share seeds"):
        train_consensus(Recipe.from_dict(RECIPE), [3, 5, 3], rows[:7000], held_out=rows[7000:])


def test_more_latents_than_recur_are_a_failed_recipe_where_recipes_are_compared(store, tmp_path):
    wide = {**RECIPE, "d_sae": 39, "consensus_min_share": 1.0}
    spec = TrainSpec(recipe=wide, seeds=[3, 5], may_fail=True)
    train_job(spec, store, tmp_path / "compared", device="cpu")
    record = json.loads((tmp_path / "compared/recipe.json").read_text())
    assert record["status"] == "failed"
    assert "d_sae asks for 39; lower d_sae or min_share" in record["reason"]
    with pytest.raises(RecipeFailed, match="all members together"):
        none = {**wide, "d_sae": 130, "steps": 40}
        train_job(TrainSpec(recipe=none, seeds=[3]), store, tmp_path / "none", device="cpu")


def test_where_an_answer_is_wanted_latents_of_fewer_members_make_up_the_number(store, tmp_path):
    wide = {**RECIPE, "d_sae": 60, "steps": 40}
    train_job(TrainSpec(recipe=wide, seeds=[3, 5]), store, tmp_path / "made", device="cpu")
    assert load_sae(tmp_path / "made/seed3").d_sae == 60


def test_controls_of_a_consensus_are_trained_plainly_and_its_random_twin_is_a_consensus():
    recipe = Recipe.from_dict(RECIPE)
    spec = ConfirmationSpec.model_construct()
    frozen = role_recipe("frozen", recipe, recipe, spec)
    assert (frozen.d_sae, frozen.k, frozen.consensus_members) == (28, 3, 0)
    assert frozen.frozen_decoder
    twin = role_recipe("random_model", recipe, recipe, spec)
    assert (twin.subject, twin.consensus_members) == ("tiny-random", 3)
    assert role_recipe("candidate", recipe, recipe, spec) == recipe
