"""Verbs ``select``, ``gate`` (with ``selftest`` and ``assert``) and ``claim``."""

from __future__ import annotations

import argparse
from pathlib import Path

from husai.verbs import add_compute, add_spec, positive, spec_argument, verb


def add_to(verbs) -> None:
    """Register the verbs of this module."""
    command = verb(
        verbs,
        "select",
        run_select,
        summary="Choose one candidate.",
        reads="frontier, scaling and assignment results, this pipeline's or the original's",
        writes="selected_candidate.json, selection.md",
        costs="seconds",
    )
    command.add_argument(
        "--policy", default="strict", help="cycle3 or strict (default %(default)s)"
    )
    for name in ("frontier", "scaling", "assignment"):
        command.add_argument(
            f"--{name}-results",
            nargs="+",
            type=Path,
            default=[],
            metavar="F",
            help=f"{name} results",
        )
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
    gate = verb(
        verbs,
        "gate",
        run_gate,
        summary="Judge a candidate: policy x evidence -> decision; `gate selftest` and `gate "
        "assert` beside it.",
        reads="evidence records, or the original's result files",
        writes="release_policy.json, release_policy.md",
        costs="seconds (selftest: a minute)",
    )
    gate.add_argument(
        "action",
        nargs="?",
        choices=["selftest", "assert"],
        help="prove that the gate can say no; turn a decision into an exit status",
    )
    gate.add_argument(
        "--policy", default="strict", help="cycle3, strict or a YAML file (default %(default)s)"
    )
    gate.add_argument(
        "--evidence", nargs="+", type=Path, default=[], help="evidence files or folders"
    )
    gate.add_argument("--candidate", help="selected_candidate.json or a recipe hash")
    gate.add_argument("--cycle3-candidate", type=Path, help="selection of the cycle3 policy")
    for name in (
        "phase4a-results",
        "transcoder-results",
        "ood-results",
        "external-summary",
        "external-candidate-json",
    ):
        gate.add_argument(f"--{name}", type=Path, metavar="F", help="the original's JSON file")
    gate.add_argument(
        "--external-mode",
        default="auto",
        choices=["auto", "saebench", "cebench", "joint"],
        help="default %(default)s",
    )
    for name in (
        "use-external-lcb",
        "require-transcoder",
        "require-ood",
        "require-external",
        "fail-on-gate-fail",
    ):
        gate.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, default=False)
    gate.add_argument("--output-dir", type=Path, help="folder of the decision")
    gate.add_argument("--decision", type=Path, help="release_policy.json (with assert)")
    gate.add_argument("--out", type=Path, help="file to write (with selftest and assert)")
    gate.add_argument(
        "--spec",
        type=spec_argument,
        default={},
        metavar="JSON",
        help="config slice (with selftest and assert)",
    )
    add_compute(gate)
    claim = verb(
        verbs,
        "claim",
        run_claim,
        summary="Record a claim, if and only if the strict gate passed for its evidence.",
        reads="a decision and its evidence",
        writes="the claim ledger",
        costs="seconds; exit 2 when refused",
    )
    claim.add_argument("statement", help="the claim, one sentence")
    claim.add_argument(
        "--evidence",
        type=Path,
        required=True,
        help="release_policy.json of the strict policy, or its folder",
    )


def run_select(args) -> None:
    """Choose the candidate."""
    from husai.jobs.gate import select_job

    configured = args.spec.get("cycle3_min_seeds" if args.policy == "cycle3" else "min_seeds")
    selection = select_job(
        args.policy,
        output_dir=args.output_dir,
        frontier_results=args.frontier_results,
        scaling_results=args.scaling_results,
        assignment_results=args.assignment_results,
        seed_level=args.seed_level,
        min_seeds=args.min_seeds if args.min_seeds is not None else configured,
        require_both_external=args.require_both_external,
    )
    chosen = selection.selected
    print(
        f"selected {chosen.name} (score {chosen.score:.6g}, {len(chosen.members)} seeds) of "
        f"{len(selection.ordered)} by {selection.policy}"
    )
    print(f"written to {args.output_dir / 'selected_candidate.json'} and selection.md")


def run_gate(args) -> None:
    """Judge, prove or assert."""
    from husai.errors import HusaiError

    if args.action == "selftest":
        from husai.compute import resolve_device, use_threads
        from husai.gate.selftest.selftest import selftest_job

        use_threads(args.threads)
        out, device = (
            args.out or Path("results/gate/selftest.json"),
            str(resolve_device(args.device)),
        )
        selftest_job(args.spec, out, device=device, fail=args.fail_on_gate_fail)
        return
    if args.action == "assert":
        run_assert(args)
        return
    if args.output_dir is None:
        raise HusaiError("--output-dir is missing; say where the decision goes")
    from husai.jobs.gate import gate_job, refuse_failed

    names = (
        "phase4a_results",
        "transcoder_results",
        "ood_results",
        "external_summary",
        "external_candidate_json",
        "external_mode",
    )
    flags = ("use_external_lcb", "require_transcoder", "require_ood", "require_external")
    decision = gate_job(
        args.policy,
        output_dir=args.output_dir,
        evidence=args.evidence,
        candidate=args.candidate,
        cycle3_candidate=args.cycle3_candidate,
        **{name: getattr(args, name) for name in (*names, *flags)},
    )
    print(
        f"policy {decision.policy}: "
        f"{'PASS' if decision.pass_all else 'FAIL: ' + ', '.join(decision.failing)}"
    )
    print("\n".join(decision.lines()))
    print(f"written to {args.output_dir / 'release_policy.json'} and .md")
    if args.fail_on_gate_fail:
        refuse_failed(decision, args.output_dir)


def run_assert(args) -> None:
    """Exit 2 when the decision failed and the configuration says that this ends the run."""
    from husai.errors import HusaiError
    from husai.jobs.gate import gate_assert_job
    from husai.provenance import write_json

    if args.decision is None:
        raise HusaiError("--decision is missing; give release_policy.json")
    gates = gate_assert_job(
        args.decision, fail_on_gate_fail=bool(args.spec.get("fail_on_gate_fail", True))
    )
    if args.out is not None:
        write_json(args.out, {"pass_all": gates["pass_all"], "decision": str(args.decision)})


def run_claim(args) -> None:
    """Record or refuse a claim."""
    from husai.jobs.gate import claim_job

    claim_job(args.statement, args.evidence)
