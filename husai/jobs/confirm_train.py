"""Training one role of the confirmation on fresh seeds (``husai train --role``)."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from husai.errors import HusaiError


def run(args: Namespace) -> None:
    """Train the role that ``--role`` names."""
    from husai.planning.specs import ConfirmationSpec, read_spec

    if args.candidate is None:
        raise HusaiError("--role needs --candidate; give results/selection/selected_candidate.json")
    spec = read_spec(ConfirmationSpec, args.spec)
    options = {"calibration": args.calibration, "device": args.device, "dtype": args.dtype}
    confirm_train_job(args.role, args.candidate, spec, args.out, **options)


def confirm_train_job(
    role: str,
    candidate: Path,
    spec,
    out: Path,
    *,
    calibration: Path | None,
    device: str,
    dtype: str,
) -> None:
    """Train one role on the confirmation seeds; the candidate's attempt goes into the ledger.

    A brought candidate is not trained: its members kept for the confirmation take its place.
    """
    from husai.jobs.attempt import begin
    from husai.jobs.bring import confirm_brought
    from husai.jobs.train_recipe import resolve, train_job
    from husai.planning.roles import ROLES, role_recipe
    from husai.planning.specs import TrainSpec
    from husai.selection.chosen import read_candidate

    configured, resolved = read_candidate(candidate)
    known = resolve(resolved, calibration)
    recipe = role_recipe(role, configured, known, spec)
    if role == "candidate":
        roles = {name: role_recipe(name, configured, known, spec).hash for name in ROLES}
        if recipe.brought:
            confirm_brought(recipe, spec, out, roles=roles, device=device)
            return
        about = {"seeds": spec.seeds, "data": spec.datasets, "seen": spec.selection_seeds}
        begin(recipe, spec, roles=roles, dtype=dtype, **about)
    seeds = spec.seeds if role in ("candidate", "frozen") else spec.stress.seeds
    # The search for the L0 would train the same seed on the same rows again.
    found = resolved.sparsity_coefficient if role == "candidate" else None
    train_job(
        TrainSpec(recipe=recipe, seeds=seeds),
        Path("results/subjects") / recipe.subject / "activations" / recipe.hook_name,
        out,
        calibration=calibration,
        coefficient=found,
        device=device,
        dtype=dtype,
    )
