"""Verb ``verify``: hash again, derive again, decide again."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import describe


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(
        command,
        reads="everything under ROOT",
        writes="nothing; one line per mismatch, exit 1 on any",
        costs="one read of all files",
    )
    command.add_argument(
        "root",
        type=Path,
        nargs="?",
        default=Path(),
        help="folder with results/ and reports/ (default: here)",
    )


def run(args: Namespace) -> None:
    """Verify a run."""
    verify_job(args.root)


def verify_job(root: str | Path = ".") -> None:
    """Print one line per mismatch and a summary.

    Raises
    ------
    HusaiError
        When anything does not agree.
    """
    from husai.verify.run import verify

    found = verify(root)
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


def printable(text: str) -> str:
    """``text`` on one line, with whatever a terminal would obey written out: names of files and what
    is quoted from them may hold line breaks and escape codes.
    """
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
