"""SAEs a user brings: the checkpoints that a configured path stands for, their files, their names
and seeds.

Read whenever the workflow is planned, so: standard library only, and no file of weights is opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from husai.recipe import brought_id

CONFIGS = ("cfg.json", "config.json")
WEIGHTS = ("sae_weights.safetensors", "sae.safetensors", "ae.pt")
GENERIC = (*WEIGHTS, *CONFIGS)
LARGEST_SEED = 2**31


@dataclass(frozen=True)
class Brought:
    """SAEs of one name, as configured: ``members`` take part in the selection, ``fresh`` only in
    the confirmation.
    """

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
        return [str(f) for path in self.members for f in checkpoint_files(path)]

    def fresh_files(self) -> list[str]:
        """Files of the members kept for the confirmation."""
        return [str(f) for path in self.fresh for f in checkpoint_files(path)]


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
    return Brought(
        name or default_name(path),
        subject,
        hook_name,
        tuple(members),
        tuple(seeds),
        tuple(fresh),
        tuple(seeds_of(fresh, first=max(seeds, default=-1) + 1)),
    )


def listed(path: str | Sequence[str]) -> list[str]:
    """One path or several, as a list."""
    return [path] if isinstance(path, str) else list(path)


def expand(path: str | Sequence[str]) -> list[Path]:
    """The checkpoints behind a path or a list of paths: a folder with ``seed*/`` in it stands for
    those.
    """
    found: list[Path] = []
    for one in map(Path, listed(path)):
        seeds = [p for p in one.glob("seed*") if p.is_dir()] if one.is_dir() else []
        found += sorted(seeds, key=lambda p: (len(p.name), p.name)) or [one]
    return found


def checkpoint_files(path: Path) -> list[Path]:
    """The files that reading a checkpoint reads: settings and weights of a folder, or a lone
    file.
    """
    folder = path.parent if path.name in GENERIC else path
    if not folder.is_dir():
        return [path]
    named = [folder / name for name in (*CONFIGS, *WEIGHTS) if (folder / name).is_file()]
    if any(p.name in WEIGHTS for p in named):
        return named
    return [*named, *sorted(folder.glob("*.pt"))] or [path]


def default_name(path: str | Sequence[str]) -> str:
    """A name from the first path: that of the folder, or of the file without its ending."""
    first = next(iter(listed(path)), "")
    one = Path(first).parent if Path(first).name in GENERIC else Path(first)
    return re.sub(
        r"[^A-Za-z0-9_.-]+",
        "-",
        one.stem if one.suffix in (".pt", ".pth", ".ckpt", ".bin") else one.name,
    ).strip("-.")


def seeds_of(members: Sequence[Path], first: int = 0) -> list[int]:
    """A seed per checkpoint: those its settings or names say where all do and all differ, else
    ``first``, ``first + 1``, ...
    """
    said = [declared_seed(path) for path in members]
    return (
        said
        if None not in said and len(set(said)) == len(said)
        else list(range(first, first + len(members)))
    )


def declared_seed(path: Path) -> int | None:
    """The seed that a checkpoint's settings, or else its name (``seed42``, ``sae_seed42.pt``), say;
    None when neither does.
    """
    folder = path.parent if path.name in GENERIC else path
    for file in (folder / name for name in CONFIGS if folder.is_dir()):
        try:
            value = json.loads(file.read_text())
        except (OSError, ValueError):
            continue
        blocks = (
            [value.get(key) for key in ("metadata", "trainer")] + [value]
            if isinstance(value, dict)
            else []
        )
        for seed in (b["seed"] for b in blocks if isinstance(b, dict) and "seed" in b):
            if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < LARGEST_SEED:
                return seed
    found = re.search(r"seed(\d+)$", folder.stem if folder.suffix else folder.name)
    return int(found.group(1)) if found and int(found.group(1)) < LARGEST_SEED else None
