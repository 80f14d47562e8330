"""The roles of the confirmation: what is trained beside the candidate, given what was selected."""

from __future__ import annotations

from dataclasses import replace

from husai.errors import HusaiError
from husai.planning.specs import ConfirmationSpec
from husai.recipe import FIXED_K, OPTIONS, RANDOM, READ_ONLY, Recipe

ROLES = ("candidate", "frozen", "random_model", "transcoder")


def role_recipe(role: str, candidate: Recipe, resolved: Recipe, spec: ConfirmationSpec) -> Recipe:
    """The recipe trained for a role, given the candidate as configured and as resolved, with
    calibrated values filled in.

    ``candidate``: as selected. ``frozen``: TopK with a frozen decoder at its width and L0.
    ``random_model``: the same recipe on the randomised subject (of a brought candidate: its
    architecture trained here at its width and L0, TopK for one that is not trained here).
    ``transcoder``: TopK from MLP input to MLP output at its width and L0.

    Raises
    ------
    HusaiError
        The role is not one of :data:`ROLES`.
    """
    if role not in ROLES:
        raise HusaiError(f"confirm: role '{role}' is not one of {', '.join(ROLES)}")
    if role == "candidate":
        return candidate
    l0 = round(resolved.matched_l0)
    if resolved.brought:
        kind = "topk" if resolved.architecture in READ_ONLY else resolved.architecture
        sparsity = (
            {"k": l0, "l0_target": None} if kind in FIXED_K else {"k": None, "l0_target": float(l0)}
        )
        resolved = replace(resolved, architecture=kind, brought="", content="", **sparsity)
    if role == "frozen":
        return replace(
            resolved.without_consensus,
            architecture="topk",
            k=l0,
            l0_target=None,
            sparsity_coefficient=None,
            frozen_decoder=True,
            **OPTIONS,
        )
    if role == "random_model":
        # The same L0 on other activations takes another coefficient.
        coefficient = None if resolved.l0_target else resolved.sparsity_coefficient
        return replace(
            resolved, subject=resolved.subject + RANDOM, sparsity_coefficient=coefficient
        )
    stress = spec.stress
    return Recipe(
        subject=stress.transcoder_subject,
        hook_name=stress.transcoder_hooks[0],
        target_hook_name=stress.transcoder_hooks[1],
        architecture="transcoder",
        d_sae=resolved.d_sae,
        k=l0,
        n_rows=resolved.n_rows,
        **spec.training[stress.transcoder_subject].model_dump(),
    )
