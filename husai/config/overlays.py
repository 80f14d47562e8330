"""Configuration files that a run names but does not use: Snakemake keeps the last ``--configfile``
only, and lets one on the command line replace that of the profile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from husai.errors import HusaiError
from husai.yaml_files import load_yaml

CONFIG_OPTIONS = ("--configfile", "--configfiles")
PROFILE_OPTIONS = ("--profile", "--workflow-profile")


def check_overlays(
    argv: Sequence[str],
    environment: Mapping[str, str],
    used: Sequence[str | Path],
    folder: str | Path = ".",
) -> None:
    """Refuse a run that would silently leave out a configuration file.

    Parameters
    ----------
    argv : sequence of str
        Snakemake's command line.
    environment : mapping
        ``SNAKEMAKE_PROFILE`` names a profile, too.
    used : sequence of path
        The configuration files that Snakemake passes on, in full.
    folder : path
        Where the run was started: what a profile's path is relative to.

    Raises
    ------
    HusaiError
        A file named on the command line or in the profile is not among ``used``.
    """
    given = list(_values(argv, CONFIG_OPTIONS))
    profiles = [*_values(argv, PROFILE_OPTIONS), environment.get("SNAKEMAKE_PROFILE", "")]
    named = [*(f for p in profiles if p for f in files_of_profile(Path(folder, p))), *given]
    for name in named:
        parts = tuple(p for p in Path(name).parts if p not in (".", ".."))
        if not any(Path(u).parts[-len(parts) :] == parts for u in used):
            every = " ".join(dict.fromkeys(named))
            raise HusaiError(
                f"{name}: named, but replaced by another --configfile; give all files after one "
                f"--configfile, the last wins where two set a key: --configfile {every}"
            )


def _values(argv: Sequence[str], options: Sequence[str]) -> Iterator[str]:
    """What follows any of these options, ``--option value value`` or ``--option=value``."""
    inside = False
    for word in argv:
        if word.startswith("-"):
            name, _, value = word.partition("=")
            inside = name in options
            if inside and value:
                yield value
        elif inside:
            yield word


def files_of_profile(folder: Path) -> list[str]:
    """Configuration files that a profile names; none where it cannot be read: Snakemake says so."""
    files = sorted(folder.glob("config*.yaml"), reverse=True)  # config.v9+.yaml before config.yaml
    for path in files[:1]:
        try:
            found = load_yaml(path)
        except (OSError, HusaiError):
            return []
        value = found.get("configfile", []) if isinstance(found, dict) else []
        return [str(v) for v in (value if isinstance(value, list) else [value])]
    return []
