"""Verb ``gate``: policy x evidence -> decision; ``gate selftest`` and ``gate assert`` beside it."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from husai import provenance
from husai.cycle3.artifacts import read_artifact, selected_in
from husai.cycle3.importer import cycle3_evidence
from husai.cycle3.options import EXTERNAL_MODES, configured, require_flags
from husai.errors import HusaiError, reading
from husai.gate.attempts import confirmation_family, confirmation_status, refuse_cut_start
from husai.gate.bounds import standing
from husai.gate.decision import Decision
from husai.gate.evaluate import evaluate, named_candidate
from husai.gate.inputs import load_evidence
from husai.gate.ledger import CONFIRMATION_LEDGER, GateFailed
from husai.gate.policy import policy_label
from husai.gate.policy_files import load_policy
from husai.gate.verdict import NOT_RELEASED
from husai.jobs.arguments import add_compute, add_path, add_paths, add_spec, describe, optional_path
from husai.shown import printable

ORIGINAL = (
    "phase4a_results",
    "transcoder_results",
    "ood_results",
    "external_summary",
    "external_candidate_json",
)
"""Options that name the original's result files."""
FLAGS = ("use_external_lcb", "require_transcoder", "require_ood", "require_external")


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="evidence records, or the original's result files",
        writes="release_policy.json, release_policy.md",
        costs="seconds (selftest: a minute)",
    )
    command.add_argument(
        "action",
        nargs="?",
        choices=["selftest", "assert"],
        help="prove that the gate can say no; turn a decision into an exit status",
    )
    command.add_argument(
        "--policy", default="strict", help="cycle3, strict or a YAML file (default %(default)s)"
    )
    add_paths(command, "--evidence", "evidence files or folders")
    command.add_argument("--candidate", help="selected_candidate.json or a recipe hash")
    optional_path(command, "--cycle3-candidate", "selection of the cycle3 policy")
    for name in ORIGINAL:
        flag = f"--{name.replace('_', '-')}"
        command.add_argument(flag, type=Path, metavar="F", help="the original's JSON file")
    command.add_argument(
        "--external-mode", default="auto", choices=EXTERNAL_MODES, help="default %(default)s"
    )
    for name in (*FLAGS, "fail_on_gate_fail"):
        flag = f"--{name.replace('_', '-')}"
        command.add_argument(flag, action=BooleanOptionalAction, default=False)
    add_path(command, "--output-dir", "folder of the decision")
    add_path(command, "--decision", "release_policy.json (with assert)")
    add_path(command, "--out", "file to write (with selftest and assert)")
    add_spec(command)
    add_compute(command)


def run(args: Namespace) -> None:
    """Judge, prove or assert."""
    if args.action == "selftest":
        return _selftest(args)
    if args.action == "assert":
        from husai.jobs import gate_assert

        return gate_assert.run(args)
    if args.output_dir is None:
        raise HusaiError("--output-dir is missing; say where the decision goes")
    options = {name: getattr(args, name) for name in (*ORIGINAL, *FLAGS, "external_mode")}
    decision = gate_job(
        args.policy,
        output_dir=args.output_dir,
        evidence=args.evidence,
        candidate=args.candidate,
        cycle3_candidate=args.cycle3_candidate,
        **options,
    )
    result = "PASS" if decision.pass_all else "FAIL: " + ", ".join(decision.failing)
    if decision.verdict != NOT_RELEASED:
        result += f"; {decision.verdict}"
    label = policy_label(decision.policy, decision.policy_sha256).replace("`", "")
    written = f"written to {args.output_dir / 'release_policy.json'} and .md"
    _tell("\n".join(map(printable, [f"policy {label}: {result}", *decision.lines(), written])))
    if args.fail_on_gate_fail:
        refuse_failed(decision, args.output_dir)
    return None


def _selftest(args: Namespace) -> None:
    """Judge SAEs that must fail, one that must pass, simulations; certify planted latents."""
    from husai.compute import resolve_device
    from husai.gate.selftest.selftest import selftest_job
    from husai.passport.planted import self_test
    from husai.planning.specs import SelfTestSpec, read_spec

    values = read_spec(SelfTestSpec, args.spec).values()
    out, device = args.out or Path("results/gate/selftest.json"), resolve_device(args.device)
    beside = {"certificates": self_test()}
    selftest_job(values, out, beside=beside, device=str(device), fail=args.fail_on_gate_fail)


def _tell(text: str) -> None:
    """Print; a reader that stops early (``head``) changes nothing about the exit status."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        The ledger's last line was cut short and may be the start of an attempt.
    HusaiError
        For files that are missing or malformed and options that do not fit the policy.
    """
    loaded = load_policy(policy)
    original = {"phase4a": phase4a_results, "transcoder": transcoder_results, "ood": ood_results}
    original["external"] = external_candidate_json or external_summary
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
    if loaded.judges_bounds:
        refuse_cut_start(ledger)
    required = {"transcoder": require_transcoder, "ood": require_ood, "external": require_external}
    loaded = configured(loaded, external_mode, use_external_lcb, required)
    if not loaded.original:
        cycle3_candidate = None
    about = candidate_of(candidate, cycle3_candidate, original["external"])
    chosen = [] if cycle3_candidate is None else [cycle3_candidate]
    only = about.get("recipe_hash") if about and not loaded.original else None
    records = load_evidence([*evidence, *chosen], recipe_hash=only) + cycle3_evidence(**original)
    about = named_candidate("" if about is None and loaded.original else about, records)
    with reading(f"the evidence of {printable(about.get('recipe_hash') or 'no candidate')}"):
        decision = evaluate(loaded, records, about, **standing(loaded, about, ledger))
    if loaded.original:
        decision = replace(decision, thresholds=decision.thresholds | require_flags(loaded))
    provenance.write_text(Path(output_dir) / "policy.yaml", Path(loaded.path).read_text())
    inputs = [*given, *([candidate] if _is_file(candidate) else []), *decision.sources]
    write_decision(decision, output_dir, inputs, ledger, external_mode, use_external_lcb)
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

    Raises
    ------
    HusaiError
        ``candidate`` reads like a path but no file is there, or a file given is missing or no JSON
        object.
    """
    for given in (cycle3_candidate, candidate, external):
        if given is None:
            continue
        if given is candidate and not _is_file(candidate):
            if str(candidate).endswith(".json") or "/" in str(candidate):
                raise HusaiError(f"{candidate}: no such candidate file; run husai select first")
            return {"recipe_hash": str(candidate), "recipe": None}
        data = selected_in(read_artifact(given))
        keys = ("condition", "condition_id", "architecture", "hook_name", "recipe", "recipe_hash")
        about = {k: data.get(k) for k in (*keys, "seed", "checkpoint", "score")}
        about = {k: value for k, value in about.items() if value is not None}
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
    """Write ``release_policy.json`` and ``.md`` with provenance and the ledger's state."""
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
                f"bounds at one-sided level {decision.alpha:.3g}.\n"
            )
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
