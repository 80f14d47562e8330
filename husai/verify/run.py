"""``husai verify``: hashes every artifact of a run again, derives every number of the reports
again, and names each mismatch.
"""

from __future__ import annotations

from pathlib import Path

from husai.artifacts import NO_FILE, tree
from husai.errors import HusaiError
from husai.verify.checksums import INDEX, artifacts, digests
from husai.verify.claims import check_claims
from husai.verify.decision import check_decisions
from husai.verify.evidence import check_evidence
from husai.verify.findings import Findings
from husai.verify.manifests import (
    check_index,
    check_ledgers,
    check_manifests,
    check_mirror,
    check_versions,
    read_records,
)
from husai.verify.report import check_log, check_report


def verify(root: str | Path = ".") -> Findings:
    """Check a finished run below ``root``, or a ``reports`` folder alone.

    Raises
    ------
    HusaiError
        When there is nothing to check.
    """
    found = Findings(Path(root))
    if (
        not (found.reports / INDEX).is_file()
        and not (found.reports / "gate_report.md").is_file()
        and not found.has_results
    ):
        raise HusaiError(
            f"{root}: neither results/ nor a report here; give the folder of a run, or its reports/"
        )
    odd = [
        path
        for folder in (
            {found.reports, found.root / "results"} if found.has_results else {found.reports}
        )
        for path in tree(folder).odd
    ]
    for path in sorted(odd):
        found.mismatch(path, NO_FILE)
    if found.has_results:
        paths = artifacts(found.root)
        found.hashed.update(digests(paths))
    check_index(found)
    if found.has_results:
        records = read_records(found)
        check_manifests(found, records)
        check_versions(found, records)
    check_ledgers(found)
    check_mirror(found)
    if odd:
        found.notes.append("nothing was derived again, as that might follow a link")
        return found
    check_evidence(found)
    check_report(found)
    check_log(found)
    check_decisions(found)
    check_claims(found)
    return found
