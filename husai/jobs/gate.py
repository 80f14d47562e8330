"""Jobs of the verbs ``select``, ``gate``, ``gate selftest`` and ``claim``: files in, one decision
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from husai import provenance
from husai.cycle3.artifacts import external_metrics, read_artifact
from husai.cycle3.candidates import load_candidates
from husai.cycle3.importer import cycle3_evidence, selection_metrics
from husai.cycle3.options import configured, require_flags
from husai.cycle3.selector import select_cycle3
from husai.errors import HusaiError, nearest
from husai.evidence import new_record
from husai.gate.bounds import level_of
from husai.gate.decision import Decision
from husai.gate.evaluate import evaluate, named_candidate
from husai.gate.inputs import load_evidence
from husai.gate.ledger import (
    CLAIM_LEDGER,
    CONFIRMATION_LEDGER,
    GateFailed,
    append,
    confirmation_family,
    confirmation_status,
)
from husai.gate.policy_files import load_policy
from husai.selection.candidates import Selection
from husai.selection.strict import select_strict

SELECTORS = ("cycle3", "strict")


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
    **options: Any,
) -> Selection:
    """Choose one candidate and write ``selected_candidate.json`` (and ``selection.md``) to
    ``output_dir``.

    ``min_seeds`` is 3 for ``cycle3`` and 5 for ``strict`` unless given. Other ``options`` go to
    :func:`husai.cycle3.selector.select_cycle3`.
    """
    if policy not in SELECTORS:
        raise HusaiError(
            f"policy '{policy}' has no selector; known: "
            f"{', '.join(SELECTORS)}{nearest(policy, SELECTORS)}"
        )
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
            if seed_level:
                raise HusaiError(
                    "the strict selector compares conditions over seeds; --seed-level belongs to "
                    "--policy cycle3"
                )
            selection = select_strict(candidates, min_seeds=5 if min_seeds is None else min_seeds)
        else:
            both = {
                "require_both_external": require_both_external,
                "min_seeds": 3 if min_seeds is None else min_seeds,
            }
            selection = select_cycle3(candidates, seed_level=seed_level, **both, **options)
        body = selection.to_dict() | {
            "inputs": provenance.file_records(paths),
            "provenance": provenance.provenance(config),
        }
        body["evidence"] = (
            [_selection_evidence(selection, body, paths, config)] if policy == "cycle3" else []
        )
        chosen, table = output_dir / "selected_candidate.json", output_dir / "selection.md"
        provenance.write_json(chosen, body)
        provenance.write_text(table, selection.to_markdown())
        work.writes(chosen, table)
    return selection


def _selection_evidence(
    selection: Selection, body: Mapping, paths: Sequence, config: Any
) -> dict[str, Any]:
    """The ``selection`` evidence that the ``cycle3`` policy reads, in the same file as the
    choice.
    """
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


def gate_job(
    policy: str | Path,
    *,
    output_dir: str | Path,
    evidence: Sequence[str | Path] = (),
    candidate: str | Path | None = None,
    cycle3_candidate: str | Path | None = None,
    phase4a_results: str | Path | None = None,
    transcoder_results: str | Path | None = None,
    ood_results: str | Path | None = None,
    external_summary: str | Path | None = None,
    external_candidate_json: str | Path | None = None,
    external_mode: str = "auto",
    use_external_lcb: bool = False,
    require_transcoder: bool = False,
    require_ood: bool = False,
    require_external: bool = False,
    thresholds: Mapping[str, float] | None = None,
    fail_on_gate_fail: bool = False,
    ledger: str | Path = CONFIRMATION_LEDGER,
) -> Decision:
    """Judge a candidate and write ``release_policy.json`` and ``release_policy.md`` to
    ``output_dir``, with the policy as it was (``policy.yaml``), so that the decision can be made
    again.

    ``evidence`` are evidence files or folders; ``candidate`` a ``selected_candidate.json`` or a
    recipe hash. The original's artifacts are read by the original's policy. Of
    ``external_candidate_json`` and ``external_summary`` the first wins.

    Raises
    ------
    GateFailed
        With ``fail_on_gate_fail``, after the files are written; the command line then exits 2.
    HusaiError
        For files that are missing or malformed and options that do not fit the policy.
    """
    loaded = load_policy(policy)
    original = {"phase4a": phase4a_results, "transcoder": transcoder_results, "ood": ood_results}
    original["external"] = (
        external_candidate_json if external_candidate_json is not None else external_summary
    )
    given = [p for p in original.values() if p is not None]
    if given and not loaded.original:
        raise HusaiError(
            f"policy {loaded.name} judges evidence records of one candidate, not {given[0]}; use "
            "--evidence, or --policy cycle3"
        )
    if not evidence and not given:
        raise HusaiError(
            "nothing to judge; give --evidence, or the original's result files with --policy cycle3"
        )
    required = {"transcoder": require_transcoder, "ood": require_ood, "external": require_external}
    loaded = configured(loaded, external_mode, use_external_lcb, required, thresholds or {})
    if not loaded.original:
        cycle3_candidate = None
    about = candidate_of(candidate, cycle3_candidate, original["external"])
    chosen = [] if cycle3_candidate is None else [cycle3_candidate]
    only = about.get("recipe_hash") if about and not loaded.original else None
    records = load_evidence([*evidence, *chosen], recipe_hash=only) + cycle3_evidence(**original)
    about = named_candidate("" if about is None and loaded.original else about, records)
    decision = evaluate(loaded, records, about, alpha=level_of(loaded, about, ledger))
    if loaded.original:
        decision = replace(decision, thresholds=decision.thresholds | require_flags(loaded))
    provenance.write_text(Path(output_dir) / "policy.yaml", Path(loaded.path).read_text())
    write_decision(
        decision,
        output_dir,
        [*given, *([candidate] if _is_file(candidate) else []), *decision.sources],
        ledger,
        external_mode,
        use_external_lcb,
    )
    if fail_on_gate_fail:
        refuse_failed(decision, output_dir)
    return decision


def refuse_failed(decision: Decision, output_dir: str | Path) -> None:
    """Raise :class:`GateFailed` when a decision did not pass."""
    if not decision.pass_all:
        raise GateFailed(
            f"policy {decision.policy} failed: {', '.join(decision.failing)}; see "
            f"{Path(output_dir) / 'release_policy.md'}"
        )


def candidate_of(
    candidate: str | Path | None, cycle3_candidate: str | Path | None, external: str | Path | None
) -> dict[str, Any] | None:
    """Who is judged: from a ``selected_candidate.json``, or a recipe hash as it is; None when
    nothing says.
    """
    for given in (cycle3_candidate, candidate, external):
        if given is None:
            continue
        if given is candidate and not _is_file(candidate):
            if str(candidate).endswith(".json") or "/" in str(candidate):
                raise HusaiError(f"{candidate}: no such candidate file; run husai select first")
            return {"recipe_hash": str(candidate), "recipe": None}
        data = read_artifact(given)
        data = (
            data["selected_candidate"]
            if isinstance(data.get("selected_candidate"), Mapping)
            else data
        )
        keys = (
            "condition",
            "condition_id",
            "architecture",
            "hook_name",
            "recipe",
            "recipe_hash",
            "seed",
            "checkpoint",
            "score",
        )
        about = {k: data[k] for k in keys if data.get(k) is not None}
        if about:
            return about
    return None


def _is_file(path: str | Path | None) -> bool:
    return path is not None and Path(path).is_file()


def write_decision(
    decision: Decision,
    output_dir: str | Path,
    inputs: Sequence,
    ledger: str | Path,
    external_mode: str,
    use_lcb: bool,
) -> None:
    """Write ``release_policy.json`` and ``release_policy.md`` with provenance and the state of the
    confirmation ledger.
    """
    body = decision.to_dict()
    if "external" in decision.modes:
        body["external_mode"] = external_mode
        body["external_threshold_basis"] = "lcb" if use_lcb else "point"
    text = decision.to_markdown()
    recipe_hash = str(decision.candidate.get("recipe_hash") or "")
    if recipe_hash:
        body["confirmation"] = confirmation_status(recipe_hash, ledger)
        if decision.alpha is not None:
            family = confirmation_family(recipe_hash, ledger)
            body["confirmation"] |= {**family, "alpha": decision.alpha}
            text += (
                f"\nTest {family['order']} on this confirmation data, of "
                f"{family['candidates']} candidate(s) so far: "
            )
            text += f"bounds at one-sided level {decision.alpha:.3g}.\n"
        if body["confirmation"]["forced"]:
            text += (
                "\n**Forced**: this candidate was confirmed "
                f"{body['confirmation']['attempts']} times; one attempt is allowed.\n"
            )
    files = list(dict.fromkeys(str(p) for p in inputs))
    config = {
        "policy_sha256": decision.policy_sha256,
        "modes": decision.modes,
        "required": decision.required,
        "thresholds": decision.thresholds,
    }
    body |= {"inputs": provenance.file_records(files), "provenance": provenance.provenance(config)}
    provenance.write_json(Path(output_dir) / "release_policy.json", body)
    provenance.write_text(Path(output_dir) / "release_policy.md", text)


def gate_assert_job(decision: str | Path, *, fail_on_gate_fail: bool = True) -> dict[str, Any]:
    """Read a decision and raise :class:`GateFailed` (exit 2) when it failed and that is to end the
    run.
    """
    body = read_artifact(decision)
    gates = body.get("gates")
    if not isinstance(gates, Mapping) or not isinstance(gates.get("pass_all"), bool):
        raise HusaiError(f"{decision}: has no gates.pass_all; run husai gate again")
    if fail_on_gate_fail and not gates["pass_all"]:
        failing = body.get("failing") or [
            name for name, passed in gates.items() if passed is False and name != "pass_all"
        ]
        raise GateFailed(
            f"policy {body.get('policy')} failed: {', '.join(failing)}; see "
            f"{Path(decision).with_suffix('.md')}"
        )
    return dict(gates)


def claim_job(
    statement: str,
    evidence: str | Path,
    *,
    ledger: str | Path = CLAIM_LEDGER,
    root: str | Path = ".",
) -> dict[str, Any]:
    """Write a claim to the ledger when, and only when, the shipped ``strict`` policy passes on its
    evidence, judged again now.

    Parameters
    ----------
    statement : str
        The claim, one sentence.
    evidence : path
        A ``release_policy.json`` of the strict policy, or the folder that holds it.
    ledger, root : path
        Claim ledger; folder that the evidence's paths are relative to.

    Returns
    -------
    dict
        The ledger entry.

    Raises
    ------
    GateFailed
        When the decision is not strict's, did not pass, names no evidence, or does not come out the
        same from it now.
    """
    statement = " ".join(statement.split())
    if not statement:
        raise HusaiError("the statement is empty")
    path = Path(evidence) / "release_policy.json" if Path(evidence).is_dir() else Path(evidence)
    body, strict = read_artifact(path), load_policy("strict")
    refused = f"claim refused: {path}"
    if body.get("policy") != "strict" or body.get("policy_sha256") != strict.sha256:
        raise GateFailed(
            f"{refused} is not a decision of the strict policy that comes with this version; run "
            "husai gate --policy strict"
        )
    sources = body.get("sources")
    if not isinstance(sources, list) or not sources:
        raise GateFailed(
            f"{refused} names no evidence files; failing gates: "
            f"{', '.join(g.name for g in strict.gates)}"
        )
    gates = body.get("gates") if isinstance(body.get("gates"), Mapping) else {}
    if gates.get("pass_all") is not True:
        raise GateFailed(
            f"{refused} did not pass; failing gates: "
            f"{', '.join(body.get('failing') or ['pass_all'])}"
        )
    absent = [s for s in sources if not (Path(root) / s).is_file()]
    if absent:
        raise GateFailed(
            f"{refused} rests on {absent[0]}, which is not there; failing gates: integrity"
        )
    about = body.get("candidate")
    recipe_hash = about.get("recipe_hash") if isinstance(about, Mapping) else None
    records = load_evidence([Path(root) / s for s in sources], root=root, recipe_hash=recipe_hash)
    again = evaluate(
        strict, records, about, alpha=level_of(strict, about, Path(root) / CONFIRMATION_LEDGER)
    )
    if not again.pass_all:
        why = "; ".join(f"{name}: {again.reasons[name]}" for name in again.failing)
        raise GateFailed(
            f"{refused} passed once, but its evidence no longer does; failing gates: "
            f"{', '.join(again.failing)} ({why})"
        )
    files = provenance.file_records([path, *(Path(root) / s for s in sources)])
    return append(
        ledger,
        {
            "claim": statement,
            "candidate": about,
            "policy_sha256": strict.sha256,
            "decision": str(path),
            "evidence": files,
        },
    )
