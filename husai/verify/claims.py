"""Judges every line of the claim ledger again: what was claimed must still follow from the decision it
rests on, and that from its evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from husai.errors import MALFORMED, HusaiError
from husai.gate.claims import judged_again
from husai.gate.ledger import CLAIM_LEDGER, CONFIRMATION_LEDGER, heads, read_ledger
from husai.provenance import read_object
from husai.verify.findings import Findings


def check_claims(found: Findings) -> None:
    """Every claim; where the run is not here, only that there are claims which were not judged."""
    path = found.reports / CLAIM_LEDGER.name
    try:
        entries = read_ledger(path)
    except HusaiError as error:
        found.mismatches.append(str(error))
        return
    if entries and not found.has_results:
        found.notes.append(
            f"{found.name(path)}: results/ is not here, so no claim was judged again"
        )
        return
    for number, entry in enumerate(entries, start=1):
        found.count("claims judged again")
        try:
            wrong = _wrong(entry, found.root)
        except (HusaiError, *MALFORMED) as error:
            wrong = str(error)
        if wrong:
            found.mismatch(path, f"line {number} does not hold: {wrong}")


def _wrong(entry: dict[str, Any], root: Path) -> str:
    """Why a claim does not hold now; empty when it does."""
    decision = Path(entry["decision"])
    where = decision if decision.is_absolute() else root / decision
    body = read_object(where)
    judged_again(body, decision, root)
    claimed, judged = (
        about.get("recipe_hash") for about in (entry["candidate"], body["candidate"])
    )
    if claimed != judged:
        return f"{decision} is about candidate {judged}, the claim about {claimed}"
    head = entry.get("confirmation_ledger")
    if head is not None and head not in heads(root / CONFIRMATION_LEDGER):
        return "the confirmation ledger that it was made with was cut or begun anew"
    return ""
