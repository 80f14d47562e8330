"""Whether a claim may be made on a decision: judged again from its evidence, now, by the strict policy
that ships with this version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from husai.gate.bounds import standing
from husai.gate.decision import Decision
from husai.gate.evaluate import evaluate
from husai.gate.inputs import load_evidence
from husai.gate.ledger import CONFIRMATION_LEDGER, GateFailed
from husai.gate.policy import CHANGED, is_shipped
from husai.gate.policy_files import load_policy


def judged_again(body: Mapping[str, Any], path: Path, root: Path) -> Decision:
    """The decision of ``path`` made again from the evidence it names below ``root``.

    Parameters
    ----------
    body : mapping
        What ``path``, a ``release_policy.json``, holds.

    Raises
    ------
    GateFailed
        When the decision is not strict's, did not pass, names no evidence, or does not come out the
        same from it now.
    """
    strict, refused = load_policy("strict"), f"claim refused: {path}"
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
    absent = [s for s in sources if not (root / s).is_file()]
    if absent:
        raise GateFailed(
            f"{refused} rests on {absent[0]}, which is not there; failing gates: integrity"
        )
    about = body.get("candidate")
    recipe_hash = about.get("recipe_hash") if isinstance(about, Mapping) else None
    records = load_evidence([root / s for s in sources], root=root, recipe_hash=recipe_hash)
    again = evaluate(strict, records, about, **standing(strict, about, root / CONFIRMATION_LEDGER))
    if not again.pass_all:
        why = "; ".join(f"{name}: {again.reasons[name]}" for name in again.failing)
        raise GateFailed(
            f"{refused} passed once, but its evidence no longer does; failing gates: "
            f"{', '.join(again.failing)} ({why})"
        )
    return again
