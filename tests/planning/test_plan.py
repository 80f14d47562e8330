"""Recipes shared by stages are trained once; every slice names exactly what a job depends on."""

import json
from pathlib import Path

import pytest

from husai.config import load
from husai.errors import HusaiError
from husai.planning.plan import Plan
from husai.planning.spec_builder import SpecBuilder
from husai.recipe import Recipe

ROOT = Path(__file__).parents[2]


def plan(override=None):
    return Plan(load([ROOT / "config/config.yaml"], override=override))


def test_a_recipe_two_stages_share_is_trained_once_with_the_union_of_seeds():
    p = plan()
    shared = p.trained["modular", "topk-d128-k32"]
    assert set(shared.seeds) == set(p.config.ablations.seeds) | set(p.config.consistency.seeds)


def test_changing_one_ablation_k_changes_only_that_recipe():
    before, after = plan(), plan({"ablations": {"k": [8, 16, 32, 48]}})
    assert not set(before.trained) - set(after.trained)
    assert set(after.trained) - set(before.trained) == {
        ("modular", "topk-d128-k48"),
        ("language", "topk-d384-k48"),
    }
    same = set(before.trained) & set(after.trained)
    assert all(SpecBuilder(before).train(*key) == SpecBuilder(after).train(*key) for key in same)


def test_a_stage_on_several_subjects_trains_on_each_and_shares_what_others_train():
    p = plan()
    trained, controls = (
        [(r.subject, r.d_sae, r.k) for r in p.baseline[0] if r.frozen_decoder is frozen]
        for frozen in (False, True)
    )
    assert trained == controls == [("modular", 1024, 32), ("language", 384, 32)]
    shared = p.trained["language", "topk-d384-k32"].seeds
    c = p.config
    stages = (c.baseline, c.ablations, c.calibration, c.consistency, c.frontier)
    assert set(shared) == {seed for stage in stages for seed in stage.seeds}


def test_one_subject_and_one_number_are_still_a_configuration():
    p = plan({"baseline": {"subject": "language", "d_sae": 64, "k": 8}})
    assert [(r.subject, r.id) for r in p.baseline[0]] == [
        ("language", "topk-d64-k8"),
        ("language", "topk-d64-k8-frozen"),
    ]


def test_slices_are_canonical_json():
    p = plan()
    text = SpecBuilder(p).train("modular", "topk-d128-k8")
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(HusaiError, match="did you mean 'topk-d128-k8'"):
        plan().get("modular", "topk-d128-k9")


def test_every_consistency_recipe_has_its_plain_twin_in_the_plan():
    p = plan()
    assert all((r.subject, r.plain_twin().id) in p.trained for r in p.consistency)


def test_frozen_control_of_a_frontier_recipe_is_trained():
    p = plan()
    for recipe in (*p.frontier, *p.scaling):
        control = p.frozen_control(recipe)
        assert (control.subject, control.id) in p.trained


ENTRIES = [
    {"architecture": "relu", "d_sae": 384, "l0": 16},
    {"architecture": "topk", "d_sae": 384, "l0": 16},
    {"architecture": "relu", "d_sae": 384, "l0": 16, "steps": 3000, "learning_rate": 5.0e-4},
    {"architecture": "topk", "d_sae": 192, "l0": 8, "steps": 1000},
    {"architecture": "matryoshka", "d_sae": 192, "l0": 8},
    {"architecture": "relu", "d_sae": 192, "l0": 8, "aligned": True, "weight_decay": 0.1},
    {"architecture": "topk", "d_sae": 192, "l0": 8, "soft_frozen": 0.8},
]


def test_the_frontier_compares_the_listed_recipes_and_shares_controls_of_equal_width_and_l0():
    at_16 = {"baseline": {"k": 16}}
    usual, p = plan(at_16), plan({"frontier": {"recipes": ENTRIES}, **at_16})
    assert [r.id for r in p.frontier] == [
        "relu-d384-l0_16",
        "topk-d384-k16",
        "relu-d384-l0_16-steps3000-lr0.0005",
        "topk-d192-k8",  # 1000 steps are the subject's own
        "matryoshka-d192-k8",
        "relu-d192-l0_8-aligned-decay0.1",
        "topk-d192-k8-soft0.8",
        "topk-d384-k16-frozen",
        "topk-d192-k8-frozen",
    ]
    assert (p.frontier[2].steps, p.frontier[2].learning_rate) == (3000, 5.0e-4)
    assert p.trained_control("language", "relu-d384-l0_16-steps3000-lr0.0005") == p.frontier[7]
    shared = ["topk-d384-k16", "topk-d384-k16-frozen"]  # the baseline stands on these
    assert [r.id for r in p.frontier if not p.may_fail(r)] == shared
    assert p.compared() == p.frontier and len(p.reproducible()) == 7
    plain = usual.recipe("language", "topk", 384, k=16)
    assert p.frontier[1].hash == plain.hash


def test_the_search_varies_width_l0_architecture_and_regulariser_with_five_seeds_each():
    p = Plan(load([ROOT / "config/config.yaml", ROOT / "config/search.yaml"]))
    tried = [r for r in p.frontier if not r.frozen_decoder]
    assert len(tried) >= 24 and len(p.config.frontier.seeds) >= 5
    assert {r.d_sae for r in tried} == {192, 384, 768, 1536}
    assert {r.matched_l0 for r in tried} == {8.0, 16.0, 24.0, 32.0}
    assert {r.architecture for r in tried} == {"relu", "topk", "batchtopk", "matryoshka"}
    assert all(p.trained_control("language", r.id) in p.frontier for r in tried)
    assert not any(r.needs_calibration for r in p.frontier)


def test_without_a_list_the_frontier_is_every_architecture_at_one_l0():
    p = plan({"frontier": {"recipes": None}})
    listed = [
        {"architecture": a, "d_sae": p.config.frontier.d_sae, "l0": p.config.frontier.k}
        for a in p.config.frontier.architectures
    ]
    assert plan({"frontier": {"recipes": listed}}).frontier == p.frontier


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (ENTRIES[0], r"frontier.recipes.7: relu-d384-l0_16 is frontier.recipes.0 already"),
        ({**ENTRIES[1], "steps": 1000}, r"frontier.recipes.7: .* is frontier.recipes.1 already"),
        ({**ENTRIES[0], "step": 7}, r"frontier.recipes.7.step: unknown key.*did you mean 'steps'"),
        ({"architecture": "relu", "d_sae": 8}, r"frontier.recipes.7.l0: missing"),
        ({**ENTRIES[1], "d_sae": 8}, r"frontier.recipes.7.l0: k = 16 is larger than d_sae = 8"),
    ],
)
def test_an_entry_that_is_no_recipe_of_its_own_is_refused_in_one_line(entry, message):
    with pytest.raises(HusaiError, match=message) as caught:
        plan({"frontier": {"recipes": [*ENTRIES, entry]}})
    assert "\n" not in str(caught.value)


CONSENSUS = {
    "architecture": "relu",
    "d_sae": 200,
    "l0": 13,
    "consensus": {"d_sae": 384, "groups": 3, "members": 4, "min_share": 0.75},
}


def test_a_consensus_is_an_ordinary_recipe_with_a_control_at_its_own_width():
    p = plan({"frontier": {"recipes": [ENTRIES[0], CONSENSUS]}})
    recipe = p.frontier[1]
    assert recipe.id == "relu-d200-l0_13-consensus4x384"
    assert p.get("language", recipe.id).seeds == p.config.frontier.seeds[:3]
    assert recipe.member.to_dict() == p.recipe("language", "relu", 384, l0_target=13.0).to_dict()
    control = p.trained_control("language", recipe.id)
    assert (control.d_sae, control.k, control.consensus_members) == (200, 13, 0)
    assert recipe in p.reproducible() and p.may_fail(recipe)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_recipes_without_a_consensus_have_the_hash_they_had():
    plain = Recipe("s", "h", "topk", d_sae=64, k=8)
    assert not any("consensus" in name for name in plain.to_dict())
    assert plain.hash == "37fe955b3d79b071"
    assert Recipe("s", "h", "relu", d_sae=64, l0_target=8.0).hash == "8f8f342af6fc9723"


@pytest.mark.parametrize(
    ("consensus", "message"),
    [
        ({"d_sae": 384, "members": 1}, r"consensus.members"),
        ({"d_sae": 384, "groups": 99}, r"consensus.groups: 99 groups, but frontier.seeds has"),
        ({"d_sae": 384, "min_share": 0}, r"consensus.min_share"),
        ({}, r"consensus.d_sae: missing"),
    ],
)
def test_a_consensus_that_cannot_be_made_is_refused_in_one_line(consensus, message):
    with pytest.raises(HusaiError, match=message) as caught:
        plan({"frontier": {"recipes": [{**CONSENSUS, "consensus": consensus}]}})
    assert "\n" not in str(caught.value)


@pytest.fixture
def brought(tmp_path, monkeypatch):
    """A plan with one brought ensemble of two, at a hook that no recipe uses."""
    monkeypatch.chdir(tmp_path)
    for seed in (3, 5):
        (tmp_path / f"mine/seed{seed}").mkdir(parents=True)
        (tmp_path / f"mine/seed{seed}/ae.pt").write_bytes(b"")
    entry = {"path": "mine", "subject": "language", "hook": "blocks.3.hook_mlp_out"}
    return plan({"external": {"candidates": [entry]}})


def test_a_brought_ensemble_is_compared_with_a_control_that_waits_for_its_import(brought):
    (mine,) = brought.brought
    assert (mine.id, mine.seeds) == ("brought-mine", (3, 5))
    control = brought.trained_control("language", "brought-mine")
    assert control.frozen_decoder and (control.d_sae, control.k, control.hook_name) == (
        "matched",
        "matched",
        "blocks.3.hook_mlp_out",
    )
    assert control.id == "topk-matched-frozen-blocks.3.mlp_out-as-mine"
    assert brought.waits_for(control) == "results/saes/language/brought-mine/matched.json"
    assert brought.get("language", control.id).seeds == list(brought.config.frontier.seeds)
    assert control.resolve(9, 77).to_dict() == {**control.to_dict(), "k": 9, "d_sae": 77}
    assert brought.trained_control("language", control.id) is None
    assert (
        mine in brought.compared()
        and mine in brought.reproducible()
        and control in brought.compared()
    )
    assert "blocks.3.hook_mlp_out" in brought.pool_hooks()


def test_bringing_an_sae_changes_no_training(brought):
    before = plan()
    assert {key: SpecBuilder(before).train(*key) for key in before.trained}.items() <= {
        k: SpecBuilder(brought).train(*k) for k in brought.trained
    }.items()
    assert set(brought.trained) - set(before.trained) == {
        ("language", "topk-matched-frozen-blocks.3.mlp_out-as-mine")
    }
    assert json.loads(SpecBuilder(brought).bring("brought-mine"))["members"] == [
        "mine/seed3",
        "mine/seed5",
    ]
    assert json.loads(SpecBuilder(brought).confirmation())["brought"] == {
        "brought-mine": {"members": [], "seeds": []}
    }
    assert json.loads(SpecBuilder(before).confirmation())["brought"] == {}


def test_a_brought_recipe_is_known_by_name_and_content():
    fields = {
        "subject": "s",
        "hook_name": "h",
        "architecture": "topk",
        "d_sae": 64,
        "k": 8,
        "l0_target": 5.4,
    }
    recipe = Recipe(**fields, brought="mine", content="abc")
    assert (recipe.id, recipe.matched_l0) == ("brought-mine", 5.0)
    assert recipe.hash != Recipe(**fields, brought="mine", content="abd").hash
    assert recipe == Recipe.from_dict(recipe.to_dict())
    assert "brought" not in Recipe(**fields).to_dict() and Recipe(**fields).matched_l0 == 8.0
    with pytest.raises(HusaiError, match="needs the hash of its files and its measured L0"):
        Recipe(**fields, brought="mine")
    with pytest.raises(HusaiError, match="matched together"):
        Recipe(**{**fields, "d_sae": "matched"})


def test_recipe_hash_covers_every_field_and_id_is_readable():
    base = {"subject": "s", "hook_name": "h", "architecture": "topk", "d_sae": 64, "k": 4}
    recipe = Recipe(**base)
    assert recipe.id == "topk-d64-k4"
    assert recipe.hash == Recipe.from_dict(recipe.to_dict()).hash
    changes = {
        "steps": 7,
        "learning_rate": 0.5,
        "batch_size": 3,
        "hook_name": "g",
        "auxk_coefficient": 0.0,
        "frozen_decoder": True,
        "tag": "x",
        "d_sae": 65,
    }
    hashes = {Recipe(**{**base, key: value}).hash for key, value in changes.items()}
    assert len(hashes | {recipe.hash}) == len(changes) + 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k must be a positive integer"),
        ({"k": 65}, "k = 65 is larger than d_sae = 64"),
        ({"architecture": "topkk"}, "not one of"),
        ({"consistency_weight": 0.1}, "needs reference_seed"),
        ({"architecture": "relu", "k": None}, "needs l0_target or sparsity_coefficient"),
    ],
)
def test_unsound_recipes_are_refused_in_one_line(fields, message):
    with pytest.raises(HusaiError, match=message):
        Recipe(
            **{
                "subject": "s",
                "hook_name": "h",
                "architecture": "topk",
                "d_sae": 64,
                "k": 4,
                **fields,
            }
        )


def test_a_run_may_leave_stages_out():
    few = {"stages": ["frontier"], "gate": {"policies": ["strict"]}}
    assert set(plan({**few, "frontier": {"recipes": None, "k": 8}}).trained) == {
        ("language", r.id) for r in plan({**few, "frontier": {"recipes": None, "k": 8}}).frontier
    }
    with pytest.raises(HusaiError, match="calibrated"):
        plan({**few, "frontier": {"recipes": None, "k": "calibrated"}})
