"""Verb ``claim``: record a claim, if and only if the strict gate passed for its evidence."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from husai import provenance
from husai.cycle3.artifacts import read_artifact
from husai.errors import HusaiError, reading
from husai.gate.attempts import refuse_cut_start
from husai.gate.claims import judged_again
from husai.gate.decision import check_decision
from husai.gate.ledger import CLAIM_LEDGER, CONFIRMATION_LEDGER, append, ledger_head
from husai.jobs.arguments import describe


def add_arguments(command: ArgumentParser) -> None:
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


def claim_job(statement: str, evidence: str | Path) -> dict[str, Any]:
    """Write a claim to the ledger when, and only when, the shipped ``strict`` policy passes on its
    evidence, judged again now. Returns the entry.

    Raises
    ------
    GateFailed
        When the decision is not strict's, did not pass, names no evidence, or does not come out the
        same from it now.
    HusaiError
        The confirmation's ledger ends in a line that was cut short and may have begun an attempt.
    """
    statement = " ".join(statement.split())
    if not statement:
        raise HusaiError("the statement is empty")
    path = Path(evidence) / "release_policy.json" if Path(evidence).is_dir() else Path(evidence)
    body = check_decision(read_artifact(path), path)
    refuse_cut_start()
    with reading(path):
        again = judged_again(body, path, Path())
    return append(
        CLAIM_LEDGER,
        {
            "claim": statement,
            "subject": again.subject,
            "candidate": body["candidate"],
            "verdict": again.verdict,
            "policy_sha256": again.policy_sha256,
            "decision": str(path),
            "evidence": provenance.file_records([path, *body["sources"]]),
            "confirmation_ledger": ledger_head(CONFIRMATION_LEDGER),
        },
    )
