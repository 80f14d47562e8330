"""SAEs of other trainers: which checkpoints a path stands for, the import, and the way through
frontier, selection, confirmation and gate.
"""

import json
import shutil
from pathlib import Path

import compared_world as world
import pytest
import torch
from compared_world import imported, spec_of
from safetensors.torch import save_file

from husai.config.brought import Brought, bring, seeds_of
from husai.errors import HusaiError
from husai.gate import load_evidence
from husai.gate.evaluate import evaluate
from husai.gate.ledger import read_ledger
from husai.gate.policy_files import load_policy
from husai.jobs.bring import confirm_brought
from husai.jobs.confirm_train import confirm_train_job
from husai.jobs.select import select_job
from husai.jobs.stability import stability_job
from husai.planning.roles import role_recipe
from husai.planning.specs import ConfirmationSpec
from husai.provenance import read_json, sha256_file, write_json
from husai.recipe import Recipe
from husai.sae import SAE, load_sae, save_sae
from husai.sae.training.ensemble import train_ensemble
from husai.sae_files import default_name, expand, sae_files
from husai.selection.chosen import read_candidate
from husai.stability.record import StabilityRecord
from husai.summaries.confirmation import integrity

STRICT = load_policy("strict")


def trained(seeds, **changes):
    """SAEs of another trainer, as far as their weights go."""
    recipe = Recipe.from_dict({**world.TOPK, **changes})
    return train_ensemble(
        recipe, seeds, world.rows(3000, 5), held_out=world.rows(400, 8), curve_points=1
    ).saes


def as_sparsify(sae, folder):
    """What sparsify 1.x writes."""
    folder.mkdir(parents=True)
    tensors = {
        "encoder.weight": sae.W_enc.T,
        "encoder.bias": sae.b_enc,
        "W_dec": sae.W_dec,
        "b_dec": sae.b_dec,
    }
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "sae.safetensors")
    settings = {
        "activation": "topk",
        "expansion_factor": 32,
        "num_latents": sae.d_sae,
        "k": sae.k,
        "d_in": sae.d_in,
    }
    (folder / "cfg.json").write_text(json.dumps(settings))


def as_saelens(sae, folder, **metadata):
    """What SAELens 6 writes."""
    sae.cfg = metadata
    save_sae(sae, folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Activations, data sets and pairs; three sparsify SAEs, eight more kept back, and one SAELens
    ReLU SAE.
    """
    root = tmp_path_factory.mktemp("brought")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        world.build()
        for i, sae in enumerate(trained(range(11))):
            as_sparsify(sae, Path("theirs" if i < 3 else "kept") / f"seed{i}")
        (relu,) = trained([5], architecture="relu", k=None, l0_target=6.0)
        as_saelens(relu, Path("lone"), model_name="language")
        yield root


@pytest.fixture
def here(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def test_a_path_stands_for_its_checkpoints(tmp_path):
    for name in ("seed2", "seed10", "seed1"):
        (tmp_path / "ensemble" / name).mkdir(parents=True)
        (tmp_path / "ensemble" / name / "ae.pt").write_bytes(b"")
    (tmp_path / "sae_seed7.pt").write_bytes(b"")
    assert [p.name for p in expand(str(tmp_path / "ensemble"))] == ["seed1", "seed2", "seed10"]
    (tmp_path / "nested/seed0/layers.3").mkdir(parents=True)
    (tmp_path / "nested/seed0/layers.3/sae.safetensors").write_bytes(b"")
    assert expand(tmp_path / "nested") == [tmp_path / "nested/seed0/layers.3"]
    mixed = expand([str(tmp_path / "sae_seed7.pt"), str(tmp_path / "ensemble")])
    assert [p.name for p in mixed] == ["sae_seed7.pt", "seed1", "seed2", "seed10"]
    assert expand([]) == []


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (
            ["sae_weights.safetensors", "cfg.json", "runner_cfg.json"],
            ["cfg.json", "sae_weights.safetensors"],
        ),
        (["sae.safetensors", "cfg.json", "optimizer.pt"], ["cfg.json", "sae.safetensors"]),
        (["ae.pt", "config.json"], ["config.json", "ae.pt"]),
        (["sae_final.pt", "notes.txt"], ["sae_final.pt"]),
    ],
)
def test_the_files_of_a_checkpoint_are_those_that_are_read(tmp_path, names, wanted):
    for name in names:
        (tmp_path / name).write_text("x")
    assert [p.name for p in sae_files(tmp_path)] == wanted
    assert sae_files(tmp_path / wanted[-1]) in (
        [tmp_path / name for name in wanted],
        [tmp_path / wanted[-1]],
    )


def test_names_and_seeds(tmp_path):
    assert default_name("runs/my sae/seed3") == "seed3"
    assert [default_name(p) for p in ("a/b/topk.pt", "a/b/ae.pt", ["x/y z", "q"], "a/v1.5")] == [
        "topk",
        "b",
        "y-z",
        "v1.5",
    ]
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, seed in zip(folders, (42, 123), strict=True):
        folder.mkdir()
        (folder / "cfg.json").write_text(json.dumps({"metadata": {"seed": seed}}))
    assert seeds_of(folders) == [42, 123]
    (folders[1] / "cfg.json").write_text(json.dumps({"metadata": {"seed": 42}}))
    assert seeds_of(folders) == [0, 1], "one seed for both tells them apart no more"
    assert seeds_of([tmp_path / "sae_seed7.pt", tmp_path / "x_seed3.pt"]) == [7, 3]
    assert seeds_of([tmp_path / "a.pt", tmp_path / "seed3"], first=5) == [5, 6]
    (folders[0] / "cfg.json").write_text("{broken")
    assert seeds_of(folders) == [0, 1]


def test_members_for_the_confirmation_are_numbered_on():
    found = bring(None, ["a.pt", "b.pt"], "language", "h", ["c.pt", "d.pt"])
    assert (found.id, found.seeds, found.fresh_seeds) == ("brought-a", (0, 1), (2, 3))
    assert isinstance(found, Brought)


def test_the_import_leaves_what_a_training_leaves(here):
    described = imported("theirs")
    folder = Path("results/saes/language/brought-theirs")
    assert sorted(p.name for p in folder.iterdir()) == [
        "manifest.json",
        "matched.json",
        "recipe.json",
        "seed0",
        "seed1",
        "seed2",
    ]
    recipe = Recipe.from_dict(described["recipe"])
    assert (recipe.id, recipe.architecture, recipe.d_sae, recipe.k, described["hash"]) == (
        "brought-theirs",
        "topk",
        32,
        4,
        recipe.hash,
    )
    x = world.rows(400, 8)
    for seed, final in enumerate(described["final"]):
        ours, theirs = load_sae(folder / f"seed{seed}"), load_sae(Path("theirs") / f"seed{seed}")
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)
        assert (
            0.3 < final["explained_variance"] < 1
            and 0 < final["l0"] <= 4
            and final["format"] == "sparsify"
        )
        assert "plateau_gain" not in final and "cos_to_init" not in final
    matched = read_json(folder / "matched.json")["default"]
    assert matched == {"k": round(sum(f["l0"] for f in described["final"]) / 3), "d_sae": 32}
    manifest = read_json(folder / "manifest.json")
    assert {r["path"]: r["sha256"] for r in manifest["inputs"]}[
        "theirs/seed1/sae.safetensors"
    ] == sha256_file("theirs/seed1/sae.safetensors")
    assert {"recipe.json", "matched.json", "seed2/sae_weights.safetensors"} <= {
        r["path"] for r in manifest["outputs"]
    }


def test_other_bytes_are_another_recipe(here, tmp_path):
    before = imported("theirs")
    shutil.copytree("theirs", tmp_path / "theirs")
    assert imported(str(tmp_path / "theirs"))["hash"] == before["hash"], (
        "where the files lie does not matter"
    )
    weights = tmp_path / "theirs/seed1/cfg.json"
    weights.write_text(weights.read_text() + "\n")
    assert imported(str(tmp_path / "theirs"))["hash"] != before["hash"]
    imported("theirs")


def test_what_its_metadata_say_of_the_training_is_taken_over(here, tmp_path):
    """An SAE that HUSAI trained elsewhere names its recipe, seed and plateau; movement is measured
    against the start made again.
    """
    record = world.train({**world.TOPK, "steps": 30}, [3, 4])
    source = Path("results/saes/language/topk-d32-k4")
    final = imported(str(source), "own")["final"]
    assert [f["seed"] for f in final] == [3, 4]
    for mine, there in zip(final, record["final"], strict=True):
        assert mine["cos_to_init"] == pytest.approx(
            there["cos_to_init"], abs=1e-3
        )  # two ways to take the median of an even number
        assert mine["plateau_gain"] == there["plateau_gain"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: as_sparsify(
                SAE(
                    "topk", torch.eye(8, 16), torch.eye(16, 8), torch.zeros(16), torch.zeros(8), k=2
                ),
                p,
            ),
            r"the SAE reads 8 dimensions but .*held_out is 12 wide; check subject and hook",
        ),
        (
            lambda p: (
                p.mkdir(),
                (p / "sae_weights.safetensors").write_bytes(b"broken"),
                (p / "cfg.json").write_text("{}"),
            ),
            "not a whole safetensors file",
        ),
        (lambda p: p.mkdir(), "no SAE here"),
        (
            lambda p: as_saelens(
                SAE(
                    "transcoder",
                    torch.eye(12, 16),
                    torch.eye(16, 12),
                    torch.zeros(16),
                    torch.zeros(12),
                    k=2,
                ),
                p,
            ),
            "a transcoder; external.candidates takes SAEs",
        ),
        (
            lambda p: as_saelens(
                SAE(
                    "relu",
                    torch.eye(12, 16),
                    torch.eye(16, 12),
                    torch.full((16,), -99.0),
                    torch.zeros(12),
                ),
                p,
            ),
            "none of its 16 latents fires",
        ),
    ],
    ids=["width", "damaged", "empty", "transcoder", "silent"],
)
def test_what_cannot_be_imported_is_one_line(here, tmp_path, make, message):
    make(tmp_path / "sae")
    with pytest.raises(HusaiError, match=message) as caught:
        imported(str(tmp_path / "sae"), "bad")
    assert "\n" not in str(caught.value) and str(tmp_path / "sae") in str(caught.value)
    assert not Path("results/saes/language/brought-bad/manifest.json").exists()


def test_members_must_be_one_kind_of_sae_and_all_different(here, tmp_path):
    with pytest.raises(
        HusaiError, match=r"theirs/seed0 and lone differ in architecture \(topk and relu\)"
    ):
        imported(["theirs", "lone"], "mixed")
    clone = load_sae("theirs/seed0")
    order, sign = torch.randperm(32), torch.where(torch.rand(32) < 0.5, -1.0, 1.0)[:, None]
    copy = SAE(
        "topk",
        clone.W_enc[:, order],
        (clone.W_dec * sign)[order],
        clone.b_enc[order],
        clone.b_dec,
        k=4,
    )
    as_sparsify(copy, tmp_path / "copy")
    with pytest.raises(
        HusaiError,
        match="are the same SAE up to order and sign of latents; one SAE is one observation",
    ):
        imported(["theirs", str(tmp_path / "copy")], "twice")


@pytest.fixture(scope="module")
def table(place):
    """The frontier of a recipe trained here, a brought ensemble and a brought single SAE, each with
    its control.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        imported("theirs")
        imported("lone", "lone")
        world.train(world.TOPK)
        world.train(world.FROZEN)
        inputs = world.measure("topk-d32-k4", (0, 1, 2), frozen="topk-d32-k4-frozen")
        inputs += world.measure("topk-d32-k4-frozen", (0, 1, 2), stability=False)
        for name, seeds in (("theirs", (0, 1, 2)), ("lone", (0,))):
            control = {**world.FROZEN, "d_sae": "matched", "k": "matched", "tag": f"as-{name}"}
            world.train(control, wait=f"results/saes/language/brought-{name}/matched.json")
            twin = f"topk-matched-frozen-as-{name}"
            inputs += world.measure(f"brought-{name}", seeds, stability=len(seeds) > 1, frozen=twin)
            inputs += world.measure(twin, (0, 1, 2), stability=False)
        return world.frontier(inputs)


def test_the_control_has_the_width_and_l0_that_the_import_found(here, table):
    for name in ("theirs", "lone"):
        matched = read_json(f"results/saes/language/brought-{name}/matched.json")["default"]
        control = read_json(f"results/saes/language/topk-matched-frozen-as-{name}/recipe.json")
        assert (control["recipe"]["k"], control["resolved"]["k"], control["resolved"]["d_sae"]) == (
            "matched",
            matched["k"],
            matched["d_sae"],
        )


def test_brought_saes_are_rows_of_the_frontier(here, table):
    by_id = {r["recipe"]: r for r in table["rows"]}
    assert set(by_id) == {"topk-d32-k4", "brought-theirs", "brought-lone"}
    assert by_id["brought-theirs"]["n_seeds"] == 3 and by_id["brought-theirs"][
        "delta_vs_frozen"
    ].lcb > -float("inf")
    assert by_id["brought-theirs"]["S"].n == 3
    assert by_id["brought-lone"]["n_seeds"] == 1
    assert by_id["brought-lone"]["delta_vs_frozen"].lcb == -float("inf")
    assert by_id["brought-lone"]["architecture"] == "relu" and "S" not in by_id["brought-lone"]
    stability = read_json("results/stability/language/brought-theirs.json")
    assert (
        set(stability["nulls"]) == {"gaussian", "covariance", "crowding", "frozen"}
        and "not known" in stability["nulls_missing"]["init"]
    )
    assert (
        "shared_init_pairs" not in stability["metrics"]
        and "cos_to_init" not in stability["metrics"]
    )


def test_both_selectors_read_them_and_say_why_a_single_sae_cannot_be_chosen(here, table):
    files = {"frontier_results": ["results/external/frontier.json"]}
    for policy in ("strict", "cycle3"):
        found = select_job(policy, output_dir=f"results/select-{policy}", min_seeds=3, **files)
        assert {e.name for e in found.ordered} == {"topk-d32-k4", "brought-theirs"}
        chosen = read_json(f"results/select-{policy}/selected_candidate.json")
        assert chosen["left_out"] == {"brought-lone": "one seed gives no interval; 3 are needed"}
        assert (
            "- `brought-lone`: one seed gives no interval"
            in Path(f"results/select-{policy}/selection.md").read_text()
        )


@pytest.fixture
def confirmed(here, table, tmp_path, monkeypatch):
    """Runs the confirmation of the brought ensemble in a copy of the place, with or without members
    kept back; gives the decision.
    """
    shutil.copytree(here, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    records = [r for r in table["records"] if r["condition_id"].startswith("brought-theirs")]
    write_json("only.json", {"records": records})
    select_job(
        "strict", output_dir="results/selection", min_seeds=3, frontier_results=["only.json"]
    )
    candidate = Path("results/selection/selected_candidate.json")

    def run(confirmation):
        spec = {**world.CONFIRM, "brought": spec_of("theirs", confirmation=confirmation)[1]}
        world.confirm(candidate, spec)
        evidence = [
            f"results/confirmation/{name}.json"
            for name in ("integrity", "stability", "saebench", "cebench")
        ]
        about = {"recipe_hash": read_json(candidate)["recipe_hash"]}
        return evaluate(STRICT, load_evidence(evidence, recipe_hash=about["recipe_hash"]), about)

    return run


def test_members_kept_back_take_the_place_of_a_second_training(confirmed):
    decision = confirmed("kept")
    candidate = read_json("results/confirmation/candidate/recipe.json")
    assert candidate["seeds"] == list(range(3, 11)) and candidate["not_fresh"] is None
    assert (
        candidate["hash"] == read_json("results/selection/selected_candidate.json")["recipe_hash"]
    )
    entries = read_ledger("results/confirmation/ledger.jsonl")
    assert [e["event"] for e in entries] == ["started", "finished"] and entries[0]["seeds"] == list(
        range(3, 11)
    )
    records = {
        name: read_json(f"results/confirmation/{name}.json")
        for name in ("integrity", "stability", "saebench", "cebench", "faithfulness")
    }
    assert all(
        r["recipe_hash"] == candidate["hash"] and r["provenance"]["seeds"] == list(range(3, 11))
        for r in records.values()
    )
    assert "status" not in records["integrity"]
    reason = decision.reasons["integrity"]
    for name in ("plateau_gain", "cos_to_init", "text_overlap_rows", "shared_init_pairs"):
        assert (
            records["integrity"]["metrics"][name]["value"] is None and f"integrity.{name}" in reason
        )
    assert (
        "not known of SAEs that were not trained here: their metadata give no plateau_gain"
        in reason
    )
    assert (
        not decision.gates["integrity"]
        and "leak_excess" not in reason
        and "dead_fraction" not in reason
    )
    rows = {row.condition: row for row in decision.rows}
    assert rows["stability.S lcb"].n == 8 and rows["saebench.delta_vs_dense lcb"].value is not None


def test_without_members_kept_back_the_integrity_gate_fails_with_that_reason(confirmed):
    decision = confirmed(())
    assert not decision.gates["integrity"]
    assert (
        "no fresh seeds: brought-theirs was brought without members for the confirmation"
        in decision.reasons["integrity"]
    )
    assert not Path("results/confirmation/ledger.jsonl").exists(), "it was no attempt"
    assert (
        decision.metrics["stability.S"]["n"] == 3
        and decision.metrics["saebench.delta_vs_frozen"]["value"] is not None
    )
    assert {"integrity"} < set(decision.failing)


@pytest.mark.parametrize("how", ["in another order", "with noise"])
def test_members_that_were_selected_are_not_fresh(confirmed, tmp_path, how):
    chosen = load_sae("theirs/seed1")
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    if how == "in another order":
        copy = SAE(
            "topk",
            chosen.W_enc[:, order],
            chosen.W_dec[order],
            chosen.b_enc[order],
            chosen.b_dec,
            k=4,
        )
    else:
        noise = 0.02 * torch.randn(chosen.W_dec.shape, generator=torch.Generator().manual_seed(0))
        copy = SAE("topk", chosen.W_enc, chosen.W_dec + noise, chosen.b_enc, chosen.b_dec, k=4)
    as_sparsify(copy, tmp_path / "copy/seed77")
    decision = confirmed(["kept", str(tmp_path / "copy")])
    assert (
        "no fresh seeds" in decision.reasons["integrity"]
        and "took part in the selection as" in decision.reasons["integrity"]
    )


def test_facts_that_the_metadata_declare_count_and_are_marked_as_declared(
    here, tmp_path, monkeypatch
):
    """Eleven SAEs that HUSAI trained elsewhere, whose owner also declares that their training text
    was disjoint.
    """
    recipe = {**world.TOPK, "steps": 200, "tag": "elsewhere"}
    world.train(recipe, range(20, 31))
    elsewhere = Path("results/saes/language/topk-d32-k4-elsewhere")
    for cfg in elsewhere.glob("seed*/cfg.json"):
        settings = read_json(cfg)
        settings["metadata"]["text_overlap_rows"] = 0
        write_json(cfg, settings)
    imported([str(elsewhere / f"seed{s}") for s in range(20, 23)], "own")
    described = read_json("results/saes/language/brought-own/recipe.json")
    own = Recipe.from_dict(described["recipe"])
    shutil.copytree("results", tmp_path / "results")
    fresh = [str(Path.cwd() / elsewhere / f"seed{s}") for s in range(23, 31)]
    monkeypatch.chdir(tmp_path)
    spec = ConfirmationSpec(**world.CONFIRM, brought=spec_of(fresh[:1], "own", fresh)[1])
    folder = Path("results/confirmation")
    confirm_brought(own, spec, folder / "candidate", device="cpu")
    stability_job(
        folder / "candidate", world.STORE, folder / "stability/candidate.json", split="confirmation"
    )
    candidate = read_json(folder / "candidate/recipe.json")
    stability = StabilityRecord(folder / "stability/candidate.json")
    metrics = integrity(spec, own, folder / "candidate/recipe.json", stability)["metrics"]
    for name in ("plateau_gain", "cos_to_init", "text_overlap_rows"):
        assert metrics[name].value == max(f[name] for f in candidate["final"])
        assert metrics[name].method.endswith("(declared by the brought SAEs)")
    assert metrics["shared_init_pairs"].value == 0.0 and "init" in stability.data["nulls"]


def test_a_second_set_of_members_is_a_second_attempt(confirmed):
    confirmed("kept")
    kept = [f"kept/seed{s}" for s in range(3, 10)]
    spec = ConfirmationSpec(**world.CONFIRM, brought=spec_of("theirs", confirmation=kept)[1])
    with pytest.raises(HusaiError, match="one attempt per configuration"):
        confirm_train_job(
            "candidate",
            Path("results/selection/selected_candidate.json"),
            spec,
            Path("results/confirmation/candidate"),
            calibration=None,
            device="cpu",
            dtype="float32",
        )


def test_stress_roles_of_a_brought_candidate_are_trained_here_at_its_width_and_l0(here, table):
    for name, architecture in (("theirs", "topk"), ("lone", "relu")):
        described = read_json(f"results/saes/language/brought-{name}/recipe.json")
        write_json(
            "candidate.json", {"recipe": described["recipe"], "recipe_hash": described["hash"]}
        )
        configured, resolved = read_candidate("candidate.json")
        l0 = read_json(f"results/saes/language/brought-{name}/matched.json")["default"]["k"]
        random_model = role_recipe(
            "random_model", configured, resolved, ConfirmationSpec(**world.CONFIRM)
        )
        assert (random_model.subject, random_model.architecture, random_model.d_sae) == (
            "language-random",
            architecture,
            32,
        )
        assert (random_model.k, random_model.l0_target) == (
            (l0, None) if architecture == "topk" else (None, float(l0))
        )
        frozen, transcoder = (
            role_recipe(role, configured, resolved, ConfirmationSpec(**world.CONFIRM))
            for role in ("frozen", "transcoder")
        )
        assert (frozen.architecture, frozen.k, frozen.frozen_decoder, frozen.brought) == (
            "topk",
            l0,
            True,
            "",
        )
        assert (transcoder.k, transcoder.d_sae, transcoder.steps) == (
            l0,
            32,
            world.TRAINING["steps"],
        )


def test_a_topk_stands_in_for_a_brought_architecture_that_is_not_trained_here():
    brought = Recipe(
        "language", world.HOOK, "abstopk", 32, k=4, l0_target=3.9, brought="b", content="c"
    )
    found = role_recipe("random_model", brought, brought, ConfirmationSpec(**world.CONFIRM))
    assert (found.architecture, found.k, found.l0_target, found.brought) == ("topk", 4, None, "")
