"""Import of SAEs that another trainer wrote: measured on held-out rows, saved as a trained recipe
is, with what their controls must match.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import is_number
from husai.jobs.compare import initial_of
from husai.jobs.stability import folder
from husai.progress import log
from husai.recipe import FIXED_K, Recipe
from husai.sae_files import sae_files

QUALITY = ("explained_variance", "l0", "dead_fraction")
DECLARED = ("plateau_gain", "cos_to_init", "text_overlap_rows")
"""Facts of a training that cannot be measured afterwards; taken from a checkpoint's metadata where
they are numbers there.
"""


class Member(NamedTuple):
    """One imported SAE."""

    path: Path
    sae: Any
    final: dict[str, Any]
    """What ``recipe.json`` says of it: seed, held-out quality, declared facts."""


def bring_job(spec: dict, store: str | Path, out: str | Path, *, device: str = "auto") -> dict:
    """Import ``spec["members"]`` into ``results/saes/{subject}/brought-{name}``.

    Parameters
    ----------
    spec : dict
        ``name``, ``subject``, ``hook_name``, ``members`` (paths), ``seeds`` (one per member),
        ``training`` (how controls are trained).
    store : path
        ``results/subjects/{subject}/activations/{hook}`` or its manifest.
    out : path
        Manifest to write, or its folder; ``seed{n}/``, ``recipe.json`` and ``matched.json`` (width
        and L0 for controls) go beside it.

    Raises
    ------
    HusaiError
        A checkpoint that cannot be read or does not fit the hook, members that differ in kind, one
        that never fires, one given twice.
    """
    out, rows = folder(out), _rows(store)
    from husai.sae import resolve

    members = [resolve(path) for path in spec["members"]]
    files = [f for path in members for f in sae_files(path)]
    with provenance.job(
        out / "manifest.json",
        config=spec,
        seeds=spec["seeds"],
        data_slice={"store": str(rows.path)},
    ) as work:
        work.reads(*files, rows.path / "store.json")
        rows.check_origin(spec["subject"], spec["hook_name"])
        members = read_members(members, spec["seeds"], rows, device, spec["hook_name"])
        check_kind(members)
        same = same_saes(members, members)
        if same:
            raise HusaiError(
                f"{same[0]} and {same[1]} are the same SAE up to order and sign of latents; one "
                "SAE is one observation"
            )
        recipe = recipe_of(spec, members, content_hash(files))
        described = describe(recipe, members)
        work.writes(*save_members(members, recipe, out))
        matched = {"k": int(recipe.matched_l0), "d_sae": recipe.d_sae}
        why = {
            "rule": "width and mean held-out L0 of the brought SAE",
            "l0": [m.final["l0"] for m in members],
        }
        record = {
            "schema": "husai.matched/1",
            "default": matched,
            **why,
            "provenance": provenance.provenance(spec, spec["seeds"]),
        }
        for name, value in (("recipe.json", described), ("matched.json", record)):
            provenance.write_json(out / name, value)
            work.writes(out / name)
    return described


def read_members(
    paths: Sequence[str | Path], seeds: Sequence[int], rows, device: str, hook_name: str
) -> list[Member]:
    """The SAEs at ``paths`` in float32, each measured on ``rows`` of the hook ``hook_name``."""
    import torch

    from husai.compute import resolve_device
    from husai.sae import evaluate_sae, load_sae, resolve
    from husai.sae.hooks import contradictions

    found = []
    for path, seed in zip(map(resolve, paths), seeds, strict=True):
        sae = load_sae(path, resolve_device(device)).to(dtype=torch.float32)
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
        final = {
            "seed": int(seed),
            "path": str(path),
            "format": sae.cfg.get("format", "husai"),
            **quality,
            **known_facts(sae),
        }
        log(
            f"{path}: {sae!r}, held-out explained variance {quality['explained_variance']:.3f}, "
            f"L0 {quality['l0']:.1f}"
        )
        found.append(Member(path, sae, final))
    return found


def known_facts(sae) -> dict[str, float]:
    """What is known of an SAE's training: declared in its metadata; movement is measured where the
    start can be made again.
    """
    from husai.stability import movement
    from husai.stability.measure import pointing_rows

    facts = {
        name: sae.cfg[name]
        for name in DECLARED
        if is_number(sae.cfg.get(name)) and math.isfinite(sae.cfg[name])
    }
    start = initial_of(sae)
    return (
        facts
        if start is None
        else {**facts, "cos_to_init": movement(sae.W_dec, start, pointing_rows(sae.W_dec))}
    )


def check_kind(members: Sequence[Member]) -> None:
    """Refuse members of different architecture, width or k: they are not one recipe."""
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
    a: Sequence[Member], b: Sequence[Member], changed: bool = False
) -> tuple[Path, Path] | None:
    """Paths of two members whose decoders are the same up to order and sign of rows, if there are
    any.

    With ``changed`` also of two that agree row by row: a copy with noise or trained on, or two
    trainings from one initialisation. (Within one ensemble that is left to the gate, which counts
    such pairs as ``clone_pairs``.)"""
    from husai.stability.measure import pointing_rows
    from husai.stability.origin import same_index_matrix
    from husai.stability.similarity import pairwise_best
    from husai.statistics import coincidence_limit
    from husai.statistics.ensemble import CLONE

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


def recipe_of(spec: dict, members: Sequence[Member], content: str) -> Recipe:
    """What the members are, as a recipe: measured L0, the hash of their files, and how their
    controls are trained.
    """
    sae, l0 = members[0].sae, sum(m.final["l0"] for m in members) / len(members)
    k = {"k": sae.k or max(1, round(l0))} if sae.architecture in FIXED_K else {}
    sizes = {"architecture": sae.architecture, "d_sae": sae.d_sae, "l0_target": l0, **k}
    return Recipe(
        spec["subject"],
        spec["hook_name"],
        **sizes,
        **spec["training"],
        brought=spec["name"],
        content=content,
    )


def describe(recipe: Recipe, members: Sequence[Member], **extra: Any) -> dict:
    """Content of ``recipe.json``."""
    return {
        "schema": "husai.recipe/1",
        "id": recipe.id,
        "hash": recipe.hash,
        "recipe": recipe.to_dict(),
        "resolved": recipe.to_dict(),
        "d_in": members[0].sae.d_in,
        "d_out": members[0].sae.d_out,
        "seeds": [m.final["seed"] for m in members],
        "final": [m.final for m in members],
        **extra,
    }


def save_members(members: Sequence[Member], recipe: Recipe, out: Path) -> list[Path]:
    """Write ``seed{n}/`` in SAELens format and return the files written; those of an earlier import
    go.
    """
    from husai.sae import save_sae

    for stale in out.glob("seed*"):
        shutil.rmtree(stale)
    written = []
    for member in members:
        sae, seed = member.sae, member.final["seed"]
        known = sae.cfg.get("origin")
        new = {
            "path": str(member.path),
            "format": sae.cfg.get("format", "husai"),
            "seed": sae.cfg.get("seed"),
        }
        origin = known if isinstance(known, dict) else new
        sae.cfg.update(
            subject=recipe.subject,
            hook_name=recipe.hook_name,
            recipe_id=recipe.id,
            recipe_hash=recipe.hash,
            seed=seed,
            origin=origin,
        )
        save_sae(sae, out / f"seed{seed}")
        written += sorted(p for p in (out / f"seed{seed}").iterdir() if p.is_file())
    return written


def _rows(store: str | Path):
    from husai.activations import ActivationStore

    return ActivationStore.open(folder(store) / "held_out")


def confirm_brought(recipe: Recipe, spec: dict, out: str | Path, *, device: str = "auto") -> dict:
    """The ``candidate`` role of a brought candidate: it cannot be trained again, so its members
    kept for this take its place.

    Without such members, or when they are not new, the SAEs that were selected are measured on the
    held-out data all the same; the record then says ``not_fresh`` and why, which fails the gate.
    """
    out, about = folder(out), (spec.get("brought") or {}).get(recipe.id)
    selected = Path("results/saes") / recipe.subject / recipe.id
    described = provenance.read_json(selected / "recipe.json")
    if about is None or described["hash"] != recipe.hash:
        raise HusaiError(
            f"{selected}: is not the candidate that was selected ({recipe.hash}); run the import "
            "and the selection again"
        )
    rows = _rows(Path("results/subjects") / recipe.subject / "activations" / recipe.hook_name)
    chosen = read_members(
        [selected / f"seed{s}" for s in described["seeds"]],
        described["seeds"],
        rows,
        device,
        recipe.hook_name,
    )
    members = (
        read_members(about["members"], about["seeds"], rows, device, recipe.hook_name)
        if about["members"]
        else chosen
    )
    files = [f for member in members for f in sae_files(member.path)]
    not_fresh = (
        None
        if about["members"]
        else f"no fresh seeds: {recipe.id} was brought without members for the confirmation"
    )
    if about["members"]:
        check_kind([chosen[0], *members])
        not_fresh = _seen(chosen, members)
    if not_fresh is None:
        _begin(recipe, spec, about, content_hash(files), described["seeds"])
    else:
        log(f"{recipe.id}: {not_fresh}; the integrity gate will fail")
    with provenance.job(
        out / "manifest.json", config=spec, seeds=[m.final["seed"] for m in members]
    ) as work:
        work.reads(*files, selected / "recipe.json", rows.path / "store.json")
        confirmed = describe(recipe, members, not_fresh=not_fresh)
        work.writes(*save_members(members, recipe, out))
        provenance.write_json(out / "recipe.json", confirmed)
        work.writes(out / "recipe.json")
    return confirmed


def _seen(chosen: Sequence[Member], members: Sequence[Member]) -> str | None:
    """Why members are no fresh ones: a seed or an SAE that took part in the selection."""
    seeds = sorted({m.final["seed"] for m in chosen} & {m.final["seed"] for m in members})
    same = same_saes(chosen, members, changed=True)
    if same:
        return (
            f"no fresh seeds: {same[1]} took part in the selection as {same[0]}, or grew from "
            "the same start"
        )
    return f"no fresh seeds: seeds {seeds} took part in the selection" if seeds else None


def _begin(recipe: Recipe, spec: dict, about: dict, content: str, seen: Sequence[int]) -> None:
    from husai.gate.ledger import begin_confirmation

    data = {"datasets": spec.get("datasets"), "members": content}
    begin_confirmation(
        recipe.hash,
        seeds=about["seeds"],
        data=data,
        selection_seeds=list(seen),
        force=spec["force"],
        at_least=2,
        subject=recipe.subject,
    )
