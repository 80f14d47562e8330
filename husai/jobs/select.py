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
    """Options of the verb."""
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
    command.add_argument(
        "--min-seeds",
        type=positive,
        default=None,
        help="fewest seeds of a condition (default: 5 strict, 3 cycle3)",
    )
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
    selection = select_job(
        args.policy,
        output_dir=args.output_dir,
        frontier_results=args.frontier_results,
        scaling_results=args.scaling_results,
        assignment_results=args.assignment_results,
        seed_level=args.seed_level,
        min_seeds=args.min_seeds,
        require_both_external=args.require_both_external,
        spec=spec,
    )
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
    **options: Any,
):
    """Choose one candidate and write ``selected_candidate.json`` (and ``selection.md``) to
    ``output_dir``.

    Parameters
    ----------
    policy : {"strict", "cycle3"}
    min_seeds : int, optional
        Fewest seeds of a condition; that of ``spec`` unless given.
    spec : SelectionSpec, optional
        The configuration's own unless given.
    options
        For :func:`husai.cycle3.selector.select_cycle3`.

    Returns
    -------
    husai.selection.candidates.Selection

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
    config = {
        "policy": policy,
        "seed_level": seed_level,
        "min_seeds": min_seeds,
        "require_both_external": require_both_external,
        **options,
    }
    output_dir = Path(output_dir)
    with provenance.job(output_dir / "selection.manifest.json", config=config) as work:
        candidates = load_candidates(frontier_results, scaling_results, assignment_results)
        work.reads(*paths)
        if policy == "strict":
            conditions = load_policy("strict").all_conditions()
            selection = select_strict(candidates, conditions, min_seeds=min_seeds)
        else:
            selection = select_cycle3(
                candidates,
                seed_level=seed_level,
                min_seeds=min_seeds,
                require_both_external=require_both_external,
                **options,
            )
        body = selection.to_dict() | {
            "inputs": provenance.file_records(paths),
            "provenance": provenance.provenance(config),
        }
        if policy == "cycle3":
            body["evidence"] = [_selection_evidence(selection, body, paths, config)]
        else:
            body["evidence"] = []
        chosen, table = output_dir / "selected_candidate.json", output_dir / "selection.md"
        provenance.write_json(chosen, body)
        provenance.write_text(table, selection.to_markdown())
        work.writes(chosen, table)
    return selection


def _selection_evidence(selection, body: Mapping, paths: Sequence, config: Any) -> dict[str, Any]:
    """The ``selection`` evidence that the ``cycle3`` policy reads, in the same file as the
    choice.
    """
    from husai.cycle3.artifacts import external_metrics
    from husai.cycle3.importer import selection_metrics

    entry = selection.selected
    found = external_metrics(body)
    subject = (
        entry.representative.recipe.get("subject", "")
        if isinstance(entry.representative.recipe, Mapping)
        else "original"
    )
    recipe_hash = entry.representative.recipe_hash or provenance.hash_json(entry.name)[:16]
    seeds = [m.seed for m in entry.members if isinstance(m.seed, int)]
    return new_record(
        "selection",
        subject,
        entry.name,
        recipe_hash,
        selection_metrics(found),
        paths,
        config,
        seeds,
        phase="selection",
    )
