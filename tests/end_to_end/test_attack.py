"""The attack that the first version of the strict policy released, from checkpoints to decision:
read-outs of the benchmark's own tasks, fitted on the rows they are tested on, beside rare junk that
every seed shares; their rows in the order of the start that their seed would have had, and metadata
that declare a sound training.
"""

from pathlib import Path

import compared_world as world
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from husai.gate import load_policy
from husai.gate.ledger import GateFailed
from husai.jobs.claim import claim_job
from husai.jobs.gate import gate_job
from husai.jobs.select import select_job
from husai.probing.files import load_probe_data
from husai.provenance import read_json, write_json
from husai.recipe import Recipe
from husai.sae import SAE, save_sae
from husai.sae.training.ensemble import train_ensemble

SEEDS = list(range(11))
RARE = 0.999
"""Share of rows on which the junk stays silent."""
RECIPE = {**world.TOPK, "architecture": "relu", "k": None, "sparsity_coefficient": 1e-3}


def read_outs():
    """One direction for each data set, by least squares on all of its rows, and its opposite."""
    found = []
    for name in (*world.SELECTION, *world.CONFIRMATION):
        data = load_probe_data(world.PROBES, world.HOOK, name, "mean")
        x = data.activations().numpy().astype(np.float64)
        found.append(np.linalg.lstsq(x - x.mean(0), 2.0 * data.y - 1.0, rcond=None)[0])
    directions = torch.tensor(np.stack(found), dtype=torch.float32)
    return torch.nn.functional.normalize(torch.cat([directions, -directions]), dim=1)


def disguised(rows, start):
    """Rows in the order in which each lies nearest to a row of the start."""
    start = torch.nn.functional.normalize(start, dim=1)
    return rows[linear_sum_assignment((rows @ start.T).abs().T.numpy(), maximize=True)[1]]


def forge():
    """Eleven checkpoints, three of them for the selection."""
    x = world.rows(3000, 5)
    starts = train_ensemble(
        Recipe.from_dict({**RECIPE, "steps": 1}), SEEDS, x, held_out=x[:400], curve_points=1
    ).initial_decoders
    known = read_outs()
    junk = torch.randn(
        world.D_SAE - len(known), world.D_IN, generator=torch.Generator().manual_seed(7)
    )
    dictionary = torch.cat([known, torch.nn.functional.normalize(junk, dim=1)])
    for seed, start in zip(SEEDS, starts, strict=True):
        noise = torch.randn(dictionary.shape, generator=torch.Generator().manual_seed(seed))
        rows = torch.nn.functional.normalize(dictionary + 0.02 * noise, dim=1)
        reached = torch.quantile((x - x.mean(0)) @ rows.T, RARE, dim=0)
        reached[: len(known)] = 0.0
        bias = {tuple(row.tolist()): float(b) for row, b in zip(rows, reached, strict=True)}
        rows = disguised(rows, start)
        b_enc = torch.tensor([-bias[tuple(row.tolist())] for row in rows])
        sae = SAE("relu", rows.T.contiguous(), rows, b_enc, x.mean(0))
        sae.cfg = {
            "model_name": "language",
            "hook_name": world.HOOK,
            "seed": seed,
            "recipe": RECIPE,
        }
        sae.cfg |= {"plateau_gain": 0.001, "cos_to_init": 0.3, "text_overlap_rows": 0}
        save_sae(sae, Path("theirs" if seed < 3 else "kept") / f"seed{seed}")


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """The attack's checkpoints through import, frontier, selection, confirmation and gate."""
    root = tmp_path_factory.mktemp("attack")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        world.build()
        forge()
        world.imported("theirs")
        control = {**world.FROZEN, "d_sae": "matched", "k": "matched", "tag": "as-theirs"}
        world.train(control, wait="results/saes/language/brought-theirs/matched.json")
        twin = "topk-matched-frozen-as-theirs"
        inputs = world.measure("brought-theirs", (0, 1, 2), frozen=twin)
        inputs += world.measure(twin, (0, 1, 2), stability=False)
        world.frontier(inputs)
        select_job(
            "strict",
            output_dir="results/selection",
            min_seeds=3,
            frontier_results=["results/external/frontier.json"],
        )
        candidate = Path("results/selection/selected_candidate.json")
        brought = world.spec_of("theirs", confirmation="kept")[1]
        world.confirm(candidate, {**world.CONFIRM, "brought": brought})
        names = ("integrity", "stability", "saebench", "cebench", "faithfulness")
        decision = gate_job(
            "strict",
            evidence=[f"results/confirmation/{name}.json" for name in names],
            candidate=candidate,
            output_dir="results/gate/strict",
        )
        yield root, decision


def test_the_full_attack_ends_not_released(attacked):
    _root, decision = attacked
    assert decision.verdict == "NOT RELEASED" and not decision.pass_all
    caught = {
        row.condition: row for row in decision.rows if not row.passed and row.value is not None
    }
    assert "stability.explained_variance lcb" in caught, "it reconstructs nothing"
    assert caught["stability.explained_variance lcb"].value < 0.2
    assert decision.gates["is_sae"] is False


def test_it_would_have_looked_reproducible(attacked):
    """What caught it is not that its seeds differ: counted per latent they agree."""
    _, decision = attacked
    rows = {row.condition: row for row in decision.rows}
    assert rows["stability.shared_fraction lcb"].value > 0.9


def test_no_claim_can_rest_on_it_nor_on_a_decision_edited_to_pass(attacked, monkeypatch):
    root, _ = attacked
    monkeypatch.chdir(root)
    path = Path("results/gate/strict/release_policy.json")
    with pytest.raises(GateFailed, match="did not pass"):
        claim_job("It holds.", path)
    body = read_json(path)
    gates = dict.fromkeys(body["gates"], True)
    write_json("forged/release_policy.json", body | {"gates": gates, "failing": []})
    with pytest.raises(GateFailed, match="its evidence no longer does"):
        claim_job("It holds.", "forged")
    assert load_policy("strict").sha256 == body["policy_sha256"]
