"""``husai verify``: hashes every artifact and derives every number again; names each mismatch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from husai.artifacts import NO_FILE, tree
from husai.errors import HusaiError, reading
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
    reported = any((found.reports / name).is_file() for name in (INDEX, "gate_report.md"))
    if not (reported or found.has_results):
        raise HusaiError(
            f"{root}: neither results/ nor a report here; give the folder of a run, or its reports/"
        )
    odd = [path for folder in found.folders for path in tree(folder).odd]
    for path in sorted(odd):
        found.mismatch(path, NO_FILE)
    if found.has_results:
        found.hashed.update(digests(artifacts(found.root)))
    for check in (check_index, _check_records, check_ledgers, check_mirror):
        _run(check, found)
    if odd:
        found.notes.append("nothing was derived again, as that might follow a link")
        return found
    for check in (check_evidence, check_report, check_log, check_decisions, check_claims):
        _run(check, found)
    return found


def _run(check: Callable[[Findings], None], found: Findings) -> None:
    """Make one check; what it cannot read at all is a mismatch like any other."""
    try:
        with reading(found.root):
            check(found)
    except HusaiError as error:
        found.mismatches.append(f"{check.__name__.strip('_').replace('_', ' ')}: {error}")


def _check_records(found: Findings) -> None:
    if found.has_results:
        records = read_records(found)
        check_manifests(found, records)
        check_versions(found, records)
