"""What a verification found, and how the checks say it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from husai.provenance import NOT_OPENED, is_special
from husai.verify.checksums import Digest, digest


class Findings:
    """``mismatches`` (each a failure), ``notes`` (worth knowing), ``counts`` of checks made."""

    def __init__(self, root: Path):
        self.root = root
        self.reports = root / "reports" if (root / "reports").is_dir() else root
        self.has_results = (root / "results").is_dir()
        self.mismatches: list[str] = []
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}
        self.hashed: dict[Path, Digest] = {}
        self.index: dict[str, dict[str, Any]] = {}

    @property
    def folders(self) -> list[Path]:
        """The folders of the run that are here."""
        return [self.reports, *([self.root / "results"] if self.has_results else [])]

    def mismatch(self, path: str | Path, what: str) -> None:
        """Note a mismatch in a file, named relative to the root, once."""
        line = f"{self.name(path)}: {what}"
        if line not in self.mismatches:
            self.mismatches.append(line)

    def name(self, path: str | Path) -> str:
        """``path`` relative to the root if inside; quoted where a terminal would obey it."""
        path = Path(path)
        name = (
            path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        )
        return name if name.isprintable() else repr(name)

    def count(self, what: str, n: int = 1) -> None:
        """Count checks made."""
        self.counts[what] = self.counts.get(what, 0) + n

    def sha256(self, path: Path) -> str | None:
        """Hash of a file as it is now, read once; None where there is none that can be read."""
        if path not in self.hashed:
            try:
                if is_special(path):
                    self.mismatch(repr(str(path)), NOT_OPENED)
                    return None
                if not path.is_file() or (path.is_symlink() and path.is_relative_to(self.root)):
                    return None
                self.hashed[path] = digest(path)
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                self.mismatch(path, f"cannot be read ({why})")
                return None
        return self.hashed[path].sha256

    def locate(self, name: str) -> Path:
        """Where a run's file lies here; a run's own folder may have been moved as a whole."""
        path = Path(name)
        if not path.is_absolute():
            return self.root / path
        for anchor in ("results", "reports", "config"):
            if anchor in path.parts and not os.path.exists(path):
                return self.root.joinpath(*path.parts[path.parts.index(anchor) :])
        return path
