"""What the jobs note of a confirmation: the recipe of every role before, the weights of every role
after.
"""

import compared_world as world
from derivable import ROLES, write_weights

from husai.gate.ledger import CONFIRMATION_LEDGER, read_ledger
from husai.jobs import attempt, train_recipe
from husai.jobs.confirm_train import confirm_train_job
from husai.planning.roles import role_recipe
from husai.planning.specs import ConfirmationSpec
from husai.provenance import sha256_file, write_json


def test_the_ledger_names_recipe_and_weights_of_every_role(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_recipe, "train_job", lambda *args, **options: None)
    recipe = ROLES["candidate"]
    spec = ConfirmationSpec(**world.CONFIRM)
    candidate = tmp_path / "selected_candidate.json"
    write_json(candidate, chosen(recipe))
    for role in ROLES:
        out = tmp_path / "results/confirmation" / role
        options = {"calibration": None, "device": "cpu", "dtype": "float32"}
        confirm_train_job(role, candidate, spec, out, **options)
        for seed in (1, 2):
            write_weights(out / f"seed{seed}/sae_weights.safetensors", f"{role} {seed}")
    attempt.finish(recipe, tmp_path / "results/confirmation", [])
    begun, ended = read_ledger(CONFIRMATION_LEDGER)
    assert begun["roles"] == {role: role_recipe(role, recipe, recipe, spec).hash for role in ROLES}
    assert len(set(begun["roles"].values())) == 4
    assert ended["weights"] == {
        role: sorted(map(sha256_file, (tmp_path / "results/confirmation" / role).rglob("*.safe*")))
        for role in ROLES
    }


def chosen(recipe):
    """The content of a ``selected_candidate.json``."""
    fields = recipe.to_dict()
    return {"recipe": fields, "resolved": fields, "recipe_hash": recipe.hash}
