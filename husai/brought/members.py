"""The members of a brought ensemble: read, measured on held-out rows, checked to be one recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import is_number
from husai.progress import log
from husai.recipe import FIXED_K, Recipe
from husai.sae import evaluate_sae, initial_decoder, load_sae, resolve
from husai.sae.fold import fold_for_file
from husai.sae.hooks import contradictions, remarks
from husai.stability import movement
from husai.stability.measure import pointing_rows
from husai.stability.origin import same_index_matrix
from husai.stability.similarity import pairwise_best
from husai.statistics import coincidence_limit
from husai.statistics.ensemble import CLONE

QUALITY = ("explained_variance", "l0", "dead_fraction")
DECLARED = ("plateau_gain", "cos_to_init", "text_overlap_rows")
"""Facts of a training that cannot be measured afterwards: numbers of a checkpoint's metadata."""


class ImportedSAE(NamedTuple):
    """One imported SAE."""

    path: Path
    sae: Any
    final: dict[str, Any]
    """What ``recipe.json`` says of it: seed, held-out quality, declared facts."""


def read_members(
    paths: Sequence[str | Path],
    seeds: Sequence[int],
    rows,
    device: torch.device,
    hook_name: str,
    subject: Mapping[str, Any] | None = None,
) -> list[ImportedSAE]:
    """The SAEs at ``paths`` in float32 with decoder norms folded into the encoder, as other
    software runs them, each measured on ``rows`` of the hook ``hook_name``; what their own notes
    say against ``subject`` (the ``config.json`` of a model that others trained) is logged.

    Raises
    ------
    HusaiError
        One of them is a transcoder, belongs to another hook by its own notes, reads another width
        than ``rows`` have, reconstructs them with NaN or infinity, or has no latent that fires on
        them.
    """
    found = []
    for path, seed in zip(map(resolve, paths), seeds, strict=True):
        sae = fold_for_file(load_sae(path, device))
        if sae.transcodes:
            raise HusaiError(
                f"{path}: a transcoder; external.candidates takes SAEs, which reconstruct the "
                "hook they read"
            )
        against = contradictions(sae.cfg, hook_name)
        if against:
            raise HusaiError(
                f"{path}: {' and '.join(against)}; give external.candidates the hook its SAEs "
                "belong to"
            )
        for remark in _remarks(sae, subject or {}):
            log(f"warning: {path}: {remark}")
        if sae.d_in != rows.d:
            raise HusaiError(
                f"{path}: the SAE reads {sae.d_in} dimensions but {rows.path} is {rows.d} wide; "
                "check subject and hook"
            )
        quality = {
            name: float(value) for name, value in evaluate_sae(sae, rows).items() if name in QUALITY
        }
        if not math.isfinite(quality["explained_variance"]):
            raise HusaiError(
                f"{path}: its reconstruction of the held-out rows at {rows.path} is not finite; "
                "check subject and hook"
            )
        if not quality["l0"]:
            raise HusaiError(
                f"{path}: none of its {sae.d_sae} latents fires on the held-out rows at "
                f"{rows.path}; check subject and hook"
            )
        log(
            f"{path}: {sae!r}, held-out explained variance {quality['explained_variance']:.3f}, "
            f"L0 {quality['l0']:.1f}"
        )
        about = {"seed": int(seed), "path": str(path), "format": sae.cfg.get("format", "husai")}
        found.append(ImportedSAE(path, sae, about | quality | known_facts(sae)))
    return found


def _remarks(sae, subject: Mapping[str, Any]) -> list[str]:
    special = subject.get("special")
    opens = bool(special["opening"]) if special and subject.get("task") == "next_token" else None
    return remarks(sae.cfg, subject.get("reference", {}).get("model"), opens)


def known_facts(sae) -> dict[str, float]:
    """What is known of an SAE's training, movement where its start can be made again."""
    said = {name: sae.cfg.get(name) for name in DECLARED}
    facts = {k: value for k, value in said.items() if is_number(value) and math.isfinite(value)}
    start = initial_of(sae)
    if start is not None:
        facts["cos_to_init"] = movement(sae.W_dec, start, pointing_rows(sae.W_dec))
    return facts


def initial_of(sae) -> torch.Tensor | None:
    """The untrained decoder ``(d_sae, d_out)``, float32 on the CPU, of an SAE that HUSAI trained,
    from the recipe and the seed in its metadata; None when they do not say.
    """
    recipe, origin = sae.cfg.get("recipe"), sae.cfg.get("origin")
    seed = origin.get("seed") if isinstance(origin, dict) else sae.cfg.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not isinstance(recipe, dict):
        return None
    try:
        decoder = initial_decoder(Recipe.from_dict(recipe), seed, sae.d_in, sae.d_out)
    except (HusaiError, TypeError):  # another trainer's idea of a recipe
        return None
    return decoder if decoder.shape == sae.W_dec.shape else None


def check_kind(members: Sequence[ImportedSAE]) -> None:
    """Check that the members are of one kind, as those of one recipe are.

    Raises
    ------
    HusaiError
        A member's architecture, width (``d_sae``) or k is not that of the first.
    """
    first, *rest = members
    for other in rest:
        for name in ("architecture", "d_sae", "k"):
            ours, theirs = getattr(first.sae, name), getattr(other.sae, name)
            if ours != theirs:
                raise HusaiError(
                    f"{first.path} and {other.path} differ in {name} ({ours} and {theirs}); give "
                    "each kind of SAE its own external.candidates entry"
                )


def same_saes(
    a: Sequence[ImportedSAE], b: Sequence[ImportedSAE], changed: bool = False
) -> tuple[Path, Path] | None:
    """Paths of two members whose decoders are the same up to order and sign of rows, if there are
    any.

    With ``changed`` also of two that agree row by row: a copy with noise or trained on, or two
    trainings from one initialisation. (Within one ensemble that is left to the gate, which counts
    such pairs as ``clone_pairs``.)"""
    limit = coincidence_limit(len(a) + len(b))
    for i, one in enumerate(a):
        for other in b[i + 1 :] if b is a else b:
            decoders = [m.sae.W_dec for m in (one, other)]
            alive = [pointing_rows(d) for d in decoders]
            best = pairwise_best(decoders, alive)
            if int(alive[0].sum()) == int(alive[1].sum()) and float(best.matrix[0, 1]) >= CLONE:
                return one.path, other.path
            if changed and int(same_index_matrix(decoders, best, alive)[0, 1]) >= limit:
                return one.path, other.path
    return None


def content_hash(files: Sequence[str | Path]) -> str:
    """One hash over the bytes of files, whatever their order; 16 hex digits."""
    return provenance.hash_json(sorted(provenance.sha256_file(f) for f in files))[:16]


def recipe_of(spec, members: Sequence[ImportedSAE], content: str) -> Recipe:
    """The members as a recipe: measured L0, hash of their files, how their controls are trained."""
    sae, l0 = members[0].sae, sum(m.final["l0"] for m in members) / len(members)
    k = {"k": sae.k or max(1, round(l0))} if sae.architecture in FIXED_K else {}
    sizes = {"architecture": sae.architecture, "d_sae": sae.d_sae, "l0_target": l0, **k}
    return Recipe(
        spec.subject,
        spec.hook_name,
        **sizes,
        **spec.training.model_dump(),
        brought=spec.name,
        content=content,
    )


def describe(recipe: Recipe, members: Sequence[ImportedSAE], **extra: Any) -> dict:
    """Content of ``recipe.json``."""
    sae = members[0].sae
    return recipe.describe(recipe, [m.final["seed"] for m in members]) | {
        "d_in": sae.d_in,
        "d_out": sae.d_out,
        "final": [m.final for m in members],
        **extra,
    }


def origin_of(member: ImportedSAE) -> dict[str, Any]:
    """Where an SAE came from: what it says itself where it was imported before."""
    cfg = member.sae.cfg
    if isinstance(cfg.get("origin"), dict):
        return cfg["origin"]
    format = cfg.get("format", "husai")
    return {"path": str(member.path), "format": format, "seed": cfg.get("seed")}
