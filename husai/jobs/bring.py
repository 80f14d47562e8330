"""Verb ``bring``: import SAEs that another trainer wrote as one ensemble, with what its controls
must match; and take its kept members where it is confirmed.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from husai import provenance
from husai.errors import HusaiError
from husai.jobs.arguments import add_compute, add_path, add_spec, describe
from husai.progress import log
from husai.provenance import folder
from husai.recipe import Recipe
from husai.sae_files import sae_files


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="SAE checkpoints, the activation store of their hook",
        writes="seed{n}/ in SAELens format, recipe.json, matched.json (what a control must match), "
        "manifest.json",
        costs="seconds",
    )
    add_spec(command)
    command.add_argument(
        "--activations",
        type=Path,
        required=True,
        help="activation folder of the hook they read, or its manifest",
    )
    add_path(command, "--out", "manifest to write", required=True)
    add_compute(command)


def run(args: Namespace) -> None:
    """Import the ensemble of ``--spec``."""
    from husai.planning.specs import BringSpec, read_spec

    bring_job(read_spec(BringSpec, args.spec), args.activations, args.out, device=args.device)


def bring_job(spec, store: str | Path, out: str | Path, *, device: str = "auto") -> dict:
    """Import the members of a :class:`husai.planning.specs.BringSpec` to the folder, or beside the
    manifest, ``out``: ``seed{n}/``, ``recipe.json`` and ``matched.json`` (width and L0 for
    controls).

    Raises
    ------
    HusaiError
        A checkpoint that cannot be read or does not fit the hook, members that differ in kind, one
        that never fires, one given twice.
    """
    from husai.brought import members as brought
    from husai.compute import resolve_device
    from husai.sae import resolve

    out, rows, config = folder(out), _rows(store), spec.values()
    paths = [resolve(path) for path in spec.members]
    files = [f for path in paths for f in sae_files(path)]
    manifest, about = out / "manifest.json", {"store": str(rows.path)}
    with provenance.job(manifest, config, seeds=spec.seeds, data_slice=about) as work:
        work.reads(*files, rows.path / "store.json")
        rows.check_origin(spec.subject, spec.hook_name)
        members = brought.read_members(
            paths, spec.seeds, rows, resolve_device(device), spec.hook_name, _subject(store)
        )
        brought.check_kind(members)
        same = brought.same_saes(members, members)
        if same:
            raise HusaiError(
                f"{same[0]} and {same[1]} are the same SAE up to order and sign of latents; one "
                "SAE is one observation"
            )
        recipe = brought.recipe_of(spec, members, brought.content_hash(files))
        described = brought.describe(recipe, members)
        work.writes(*_save(out, recipe, members))
        record = {
            "schema": "husai.matched/1",
            "default": {"k": int(recipe.matched_l0), "d_sae": recipe.d_sae},
            "rule": "width and mean held-out L0 of the brought SAE",
            "l0": [m.final["l0"] for m in members],
            "provenance": provenance.provenance(config, spec.seeds),
        }
        for name, value in (("recipe.json", described), ("matched.json", record)):
            provenance.write_json(out / name, value)
            work.writes(out / name)
    return described


def _rows(store: str | Path):
    from husai.activations import ActivationStore

    return ActivationStore.open(folder(store) / "held_out")


def _save(out: Path, recipe: Recipe, members: Sequence) -> list[Path]:
    from husai.brought.members import origin_of
    from husai.jobs.train_recipe import save_saes

    notes = [{"origin": origin_of(member)} for member in members]
    seeds = [member.final["seed"] for member in members]
    return save_saes(out, recipe, seeds, [member.sae for member in members], notes)


def _subject(store: str | Path) -> dict:
    """``config.json`` of the model that a store was made from; empty where it is not there."""
    path = folder(store).parents[1] / "model/config.json"
    return provenance.read_json(path) if path.is_file() else {}


def confirm_brought(
    recipe: Recipe,
    spec,
    out: str | Path,
    *,
    roles: Mapping[str, str] = MappingProxyType({}),
    device: str = "auto",
) -> dict:
    """The ``candidate`` role of a brought candidate: it cannot be trained again, so its members
    kept for this take its place.

    Without such members, or when they are not new, the SAEs that were selected are measured on the
    held-out data all the same; the record then says ``not_fresh`` and why, which fails the gate.
    ``roles`` and ``spec`` are those of :func:`husai.jobs.attempt.begin`.

    Raises
    ------
    HusaiError
        ``recipe`` is not the candidate that was selected, or ``spec`` names none of its id.
    """
    from husai.brought import members as brought
    from husai.compute import resolve_device
    from husai.jobs.attempt import begin

    out, about, where = folder(out), spec.brought.get(recipe.id), resolve_device(device)
    selected = Path("results/saes") / recipe.subject / recipe.id
    described = provenance.read_json(selected / "recipe.json")
    if about is None or described["hash"] != recipe.hash:
        raise HusaiError(
            f"{selected}: is not the candidate that was selected ({recipe.hash}); run the import "
            "and the selection again"
        )
    rows = _rows(Path("results/subjects") / recipe.subject / "activations" / recipe.hook_name)
    seen = described["seeds"]
    chosen = brought.read_members(
        [selected / f"seed{s}" for s in seen], seen, rows, where, recipe.hook_name
    )
    if about.members:
        members = brought.read_members(about.members, about.seeds, rows, where, recipe.hook_name)
        brought.check_kind([chosen[0], *members])
        not_fresh = _seen(chosen, members)
    else:
        members = chosen
        not_fresh = f"no fresh seeds: {recipe.id} was brought without members for the confirmation"
    files = [f for member in members for f in sae_files(member.path)]
    if not_fresh is None:
        data = {"datasets": spec.datasets, "members": brought.content_hash(files)}
        said = {"seeds": about.seeds, "data": data, "seen": seen, "roles": roles}
        begin(recipe, spec, at_least=2, **said)
    else:
        log(f"{recipe.id}: {not_fresh}; the integrity gate will fail")
    with provenance.job(
        out / "manifest.json", config=spec.values(), seeds=[m.final["seed"] for m in members]
    ) as work:
        work.reads(*files, selected / "recipe.json", rows.path / "store.json")
        confirmed = brought.describe(recipe, members, not_fresh=not_fresh)
        work.writes(*_save(out, recipe, members))
        provenance.write_json(out / "recipe.json", confirmed)
        work.writes(out / "recipe.json")
    return confirmed


def _seen(chosen: Sequence, members: Sequence) -> str | None:
    """Why members are no fresh ones: a seed or an SAE that took part in the selection."""
    from husai.brought.members import same_saes

    seeds = sorted({m.final["seed"] for m in chosen} & {m.final["seed"] for m in members})
    same = same_saes(chosen, members, changed=True)
    if same:
        return (
            f"no fresh seeds: {same[1]} took part in the selection as {same[0]}, or grew from "
            "the same start"
        )
    return f"no fresh seeds: seeds {seeds} took part in the selection" if seeds else None
