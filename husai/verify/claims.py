"""Judges every claim again: it must follow from its decision, and that from its evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from husai.errors import MALFORMED, HusaiError
from husai.gate.claims import judged_again
from husai.gate.ledger import CLAIM_LEDGER, CONFIRMATION_LEDGER, heads, read_ledger
from husai.provenance import read_object, sha256_file
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
    again = judged_again(body, decision, root)
    claimed, judged = entry.get("candidate"), body["candidate"]
    if claimed != judged:
        return f"{decision} is about candidate {_short(judged)}, the claim about {_short(claimed)}"
    for name in ("verdict", "subject", "policy_sha256"):
        if entry.get(name) != getattr(again, name):
            return f"{name} is {entry.get(name)} but the evidence gives {getattr(again, name)}"
    files = {file.resolve(): file for file in (where, *(root / s for s in body["sources"]))}
    named = {(root / e["path"]).resolve(): e["sha256"] for e in entry.get("evidence") or ()}
    for path, file in files.items():
        if named.get(path) != sha256_file(file):
            return f"its evidence does not name {file.name} with the sha256 that it has"
    if more := named.keys() - files.keys():
        return f"its evidence names {min(more)}, which {decision} does not rest on"
    head = entry.get("confirmation_ledger")
    if head is None:
        return "it names no head of the confirmation ledger"
    if head not in heads(root / CONFIRMATION_LEDGER):
        return "the confirmation ledger that it was made with was cut or begun anew"
    return ""


def _short(about: Any) -> str:
    """A candidate in few words."""
    about = about if isinstance(about, dict) else {}
    names = [about.get(key) for key in ("condition", "recipe", "hook_name", "recipe_hash")]
    return " ".join(name for name in names if isinstance(name, str)) or "unknown"
