"""Verb ``verify``: hash again, derive again, decide again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import describe
from husai.shown import printable

NOT_MEASURED = (
    "it does not measure again: probing and OOD on the data sets after the first, the baselines of "
    "probing, the leak probe, text overlap, what training noted of itself, and the activations"
)


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="everything under ROOT",
        writes="nothing; one line per mismatch, exit 1 on any",
        costs="one read of all files; with --remeasure as long as the confirmation's measurements",
    )
    command.add_argument(
        "root",
        type=Path,
        nargs="?",
        default=Path(),
        help="folder with results/ and reports/ (default: here)",
    )
    command.add_argument(
        "--remeasure",
        action="store_true",
        help="go on to weights and activations, and measure again what decisions rest on; "
        + NOT_MEASURED,
    )
    command.add_argument("--device", default="auto", help="where to measure again (default auto)")


def run(args: Namespace) -> None:
    """Verify a run."""
    verify_job(args.root, again=args.remeasure, device=args.device)


def verify_job(root: str | Path = ".", *, again: bool = False, device: str = "auto") -> None:
    """Print one line per mismatch and a summary; with ``again`` measure the confirmation again.

    Raises
    ------
    HusaiError
        When anything does not agree.
    """
    from husai.verify.run import verify

    found = verify(root)
    if again:
        from husai.jobs.remeasure import remeasure

        wrong, counts = remeasure(root, device)
        found.mismatches += wrong
        found.counts |= counts
    for kind, lines in (("note", found.notes), ("mismatch", found.mismatches)):
        for line in lines:
            print(f"{kind}: {printable(line)}")
    checked = ", ".join(f"{n} {what}" for what, n in found.counts.items()) or "nothing"
    if found.mismatches:
        raise HusaiError(
            f"{len(found.mismatches)} mismatch(es) below {root}, listed above; checked {checked}"
        )
    if not sum(found.counts.values()):
        raise HusaiError(f"{root}: nothing was there to check, so nothing is verified")
    print(f"verified: {checked}; no mismatch")
