"""Verb ``doctor``: can this machine run the profile?"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.errors import HusaiError
from husai.jobs.arguments import describe


def add_arguments(command: ArgumentParser) -> None:
    describe(command, reads="the machine", writes="nothing; exit 1 when it cannot", costs="seconds")
    command.add_argument("--profile", default="local", help="default %(default)s")
    command.add_argument("--hub", action="store_true", help="the model hub must be reachable")


def run(args: Namespace) -> None:
    """Check the machine."""
    doctor_job(Path(), args.profile, args.hub)


def doctor_job(root: str | Path = ".", profile: str = "local", hub_needed: bool = False) -> None:
    """Print the table of checks.

    Raises
    ------
    HusaiError
        When a check says that the run cannot work here.
    """
    from husai.report.doctor import FAIL, examine, table

    checks = examine(root, profile, hub_needed, writes=_writes(Path(root), profile))
    print(table(checks))
    failed = [c.what for c in checks if c.state == FAIL]
    if failed:
        raise HusaiError(
            f"this machine cannot run profile '{profile}' ({', '.join(failed)}); see the lines "
            "marked fail"
        )


def _writes(root: Path, profile: str) -> dict[str, int] | None:
    """What the profile's run writes, by its configuration; None where there is none to read."""
    from husai.config import load
    from husai.config.overlays import files_of_profile
    from husai.planning.disk import ASSUMED_WIDTH, disk_needed

    base = root / "config/config.yaml"
    if not base.is_file():
        return None
    files = [root / name for name in files_of_profile(root / "profiles" / profile)]
    needed, assumed = disk_needed(load([base, *files]))
    note = f" at {ASSUMED_WIDTH} assumed values per token" if assumed else ""
    return {f"{what}{note}" if what != "SAEs" else what: size for what, size in needed.items()}
