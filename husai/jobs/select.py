"""Verb ``select``: choose one candidate from frontier and scaling."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError, nearest
from husai.evidence import new_record
from husai.jobs.arguments import add_paths, add_spec, describe, positive
from husai.shown import printable

SELECTORS = ("cycle3", "strict")


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="frontier, scaling and assignment results, this pipeline's or the original's",
        writes="selected_candidate.json, selection.md",
        costs="seconds",
    )
    command.add_argument(
        "--policy", default="strict", help="cycle3 or strict (default %(default)s)"
    )
    for name in ("frontier", "scaling", "assignment"):
        add_paths(command, f"--{name}-results", f"{name} results", metavar="F")
    command.add_argument(
        "--seed-level", action="store_true", help="cycle3: rank single SAEs instead of conditions"
    )
    fewest = "fewest seeds of a condition (default: 5 strict, 3 cycle3)"
    command.add_argument("--min-seeds", type=positive, help=fewest)
    command.add_argument(
        "--require-both-external",
        action="store_true",
        help="a condition needs both SAEBench and CE-Bench",
    )
    command.add_argument("--output-dir", type=Path, required=True)
    add_spec(command)


def run(args: Namespace) -> None:
    """Choose the candidate and say which."""
    from husai.planning.specs import SelectionSpec, read_spec

    spec = read_spec(SelectionSpec, args.spec)
    given = ("frontier_results", "scaling_results", "assignment_results", "seed_level", "min_seeds")
    options = {name: getattr(args, name) for name in (*given, "require_both_external")}
    selection = select_job(args.policy, output_dir=args.output_dir, spec=spec, **options)
    chosen = selection.selected
    text = (
        f"selected {chosen.name} (score {chosen.score:.6g}, {len(chosen.members)} seeds) of "
        f"{len(selection.ordered)} by {selection.policy}"
    )
    written = f"written to {args.output_dir / 'selected_candidate.json'} and selection.md"
    print(f"{printable(text)}\n{printable(written)}")


def select_job(
    policy: str,
    *,
    output_dir: str | Path,
    frontier_results: Sequence[str | Path] = (),
    scaling_results: Sequence[str | Path] = (),
    assignment_results: Sequence[str | Path] = (),
    seed_level: bool = False,
    min_seeds: int | None = None,
    require_both_external: bool = False,
    spec=None,
):
    """Choose one candidate and write ``selected_candidate.json`` (and ``selection.md``) to
    ``output_dir``.

    ``min_seeds`` is the fewest seeds of a condition: that of ``spec``, a
    :class:`husai.planning.specs.SelectionSpec`, unless given. Returns a
    :class:`husai.selection.candidates.Selection`.

    Raises
    ------
    HusaiError
        The policy has no selector, ``seed_level`` is asked of the strict one, or no candidate can
        be chosen.
    """
    from husai.cycle3.candidates import load_candidates
    from husai.cycle3.selector import select_cycle3
    from husai.gate.policy_files import load_policy
    from husai.planning.specs import SelectionSpec
    from husai.selection.strict import select_strict

    if policy not in SELECTORS:
        raise HusaiError(
            f"policy '{policy}' has no selector; known: "
            f"{', '.join(SELECTORS)}{nearest(policy, SELECTORS)}"
        )
    if policy == "strict" and seed_level:
        raise HusaiError(
            "the strict selector compares conditions over seeds; --seed-level belongs to --policy "
            "cycle3"
        )
    if min_seeds is None:
        spec = spec or SelectionSpec()
        min_seeds = spec.cycle3_min_seeds if policy == "cycle3" else spec.min_seeds
    paths = [*frontier_results, *scaling_results, *assignment_results]
    options = {
        "seed_level": seed_level,
        "min_seeds": min_seeds,
        "require_both_external": require_both_external,
    }
    config = {"policy": policy, **options}
    output_dir = Path(output_dir)
    with provenance.job(output_dir / "selection.manifest.json", config=config) as work:
        candidates = load_candidates(frontier_results, scaling_results, assignment_results)
        work.reads(*paths)
        if policy == "strict":
            conditions = load_policy("strict").all_conditions()
            selection = select_strict(candidates, conditions, min_seeds=min_seeds)
        else:
            selection = select_cycle3(candidates, **options)
        body = selection.to_dict() | {
            "inputs": provenance.file_records(paths),
            "provenance": provenance.provenance(config),
        }
        cycle3 = policy == "cycle3"
        body["evidence"] = [_selection_evidence(selection, body, paths, config)] if cycle3 else []
        chosen, table = output_dir / "selected_candidate.json", output_dir / "selection.md"
        provenance.write_json(chosen, body)
        provenance.write_text(table, selection.to_markdown())
        work.writes(chosen, table)
    return selection


def _selection_evidence(selection, body: Mapping, paths: Sequence, config: Any) -> dict[str, Any]:
    """The evidence that the ``cycle3`` policy reads, in the same file as the choice."""
    from husai.cycle3.artifacts import external_metrics
    from husai.cycle3.importer import selection_metrics

    entry = selection.selected
    recipe = entry.representative.recipe
    return new_record(
        "selection",
        recipe.get("subject", "") if isinstance(recipe, Mapping) else "original",
        entry.name,
        entry.representative.recipe_hash or provenance.hash_json(entry.name)[:16],
        selection_metrics(external_metrics(body)),
        paths,
        config,
        [m.seed for m in entry.members if isinstance(m.seed, int)],
        phase="selection",
    )
