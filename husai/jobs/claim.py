"""Verb ``claim``: record a claim, if and only if the strict gate passed for its evidence."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from husai import provenance
from husai.cycle3.artifacts import read_artifact
from husai.errors import HusaiError
from husai.gate.bounds import standing
from husai.gate.evaluate import evaluate
from husai.gate.inputs import load_evidence
from husai.gate.ledger import CLAIM_LEDGER, CONFIRMATION_LEDGER, GateFailed, append, ledger_head
from husai.gate.policy import CHANGED, is_shipped
from husai.gate.policy_files import load_policy
from husai.jobs.arguments import describe


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(
        command,
        reads="a decision and its evidence",
        writes="the claim ledger",
        costs="seconds; exit 2 when refused",
    )
    command.add_argument("statement", help="the claim, one sentence")
    command.add_argument(
        "--evidence",
        type=Path,
        required=True,
        help="release_policy.json of the strict policy, or its folder",
    )


def run(args: Namespace) -> None:
    """Record or refuse a claim."""
    claim_job(args.statement, args.evidence)


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
    ours = [is_shipped("strict", sha256) for sha256 in (strict.sha256, body.get("policy_sha256"))]
    if body.get("policy") != "strict" or not all(ours):
        raise GateFailed(
            f"{refused} is not a decision of the strict policy that comes with this version but of "
            f"{CHANGED}; run husai gate --policy strict"
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
        strict, records, about, **standing(strict, about, Path(root) / CONFIRMATION_LEDGER)
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
            "confirmation_ledger": ledger_head(Path(root) / CONFIRMATION_LEDGER),
        },
    )
