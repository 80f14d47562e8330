"""SAEs a user brings, as configured: their names, members and seeds. Standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from husai.recipe import brought_id
from husai.sae_files import declared_seed, default_name, expand, sae_files


@dataclass(frozen=True)
class Brought:
    """SAEs of one name: ``members`` for the selection, ``fresh`` ones for the confirmation."""

    name: str
    subject: str
    hook_name: str
    members: tuple[Path, ...]
    seeds: tuple[int, ...]
    """One number per member: what tells them apart in file names and tables."""
    fresh: tuple[Path, ...] = ()
    fresh_seeds: tuple[int, ...] = ()

    @property
    def id(self) -> str:
        """Id of its recipe."""
        return brought_id(self.name)

    def files(self) -> list[str]:
        """Files of the members."""
        return [str(f) for path in self.members for f in sae_files(path)]

    def fresh_files(self) -> list[str]:
        """Files of the members kept for the confirmation."""
        return [str(f) for path in self.fresh for f in sae_files(path)]


def bring(
    name: str | None,
    path: str | Sequence[str],
    subject: str,
    hook_name: str,
    confirmation: str | Sequence[str] = (),
) -> Brought:
    """A configured candidate with its paths expanded and its seeds read."""
    members, fresh = expand(path), expand(confirmation)
    seeds = seeds_of(members)
    fresh_seeds = seeds_of(fresh, first=max(seeds, default=-1) + 1)
    lists = map(tuple, (members, seeds, fresh, fresh_seeds))
    return Brought(name or default_name(path), subject, hook_name, *lists)


def seeds_of(members: Sequence[Path], first: int = 0) -> list[int]:
    """A seed per checkpoint: as all say where all differ, else counted from ``first``."""
    said = [declared_seed(path) for path in members]
    if None not in said and len(set(said)) == len(said):
        return said
    return list(range(first, first + len(members)))
