"""Reads evidence files and follows what they rest on, hashing every file on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from husai.artifacts import NO_FILE, tree
from husai.errors import MALFORMED, HusaiError
from husai.evidence import Evidence, records_in
from husai.provenance import NOT_OPENED, is_special, read_json, sha256_file

WEIGHTS = "sae_weights.safetensors"


def load_evidence(
    paths: Iterable[str | Path], root: str | Path = ".", recipe_hash: str | None = None
) -> list[Evidence]:
    """Read every evidence record in files and folders, a file that is given by two paths once, and
    verify the hashes of its inputs, of theirs, and of itself.

    A record that names no inputs has that problem: nothing could show that it is out of date.

    Parameters
    ----------
    paths : iterable of path
        Evidence files, or folders searched for ``*.json`` (other JSON there is ignored). A file may
        hold one record, a list of records or ``{"evidence": [...]}``.
    root : path
        Folder that the records' input paths are relative to.
    recipe_hash : str, optional
        Verify inputs of this candidate's records only (hashing weights takes time); all by default.

    Raises
    ------
    HusaiError
        When a path does not exist or is no plain file. An unreadable file inside a folder becomes a
        record with that problem.
    """
    inputs, manifests = Inputs(Path(root)), {}
    found = []
    files: dict[Path, Path] = {}
    for path in _json_files(paths):
        files.setdefault(path.resolve(), path)
    for path in files.values():
        try:
            records = records_in(read_json(path))
        except HusaiError as error:
            found.append(Evidence("", "", path=str(path), problems=(f"is not readable ({error})",)))
            continue
        for item in (Evidence.read(record, str(path)) for record in records):
            if recipe_hash in (None, item.recipe_hash):
                rests = inputs.of(item)
                problems = (*item.problems, *rests.problems, *_own_problems(path, manifests))
                item = replace(
                    item, problems=problems, behind=tuple(rests.behind), beside=rests.beside
                )
            found.append(item)
    return found


def _json_files(paths: Iterable[str | Path]) -> list[Path]:
    files = []
    for path in map(Path, paths):
        if path.is_dir():
            below = tree(path.resolve() if path.is_symlink() else path)
            if below.odd:
                raise HusaiError(f"{below.odd[0]}: {NO_FILE}; remove it from the evidence")
            shown = (p for p in below.files if not p.name.startswith("."))
            files += [p for p in shown if p.suffix == ".json"]
        elif path.is_file() and not is_special(path):
            files.append(path)
        elif path.exists():
            raise HusaiError(f"{path}: {NO_FILE}; give an evidence file or folder")
        else:
            raise HusaiError(
                f"{path}: no such evidence file or folder; run the stage that writes it first"
            )
    return files


def _own_problems(path: Path, manifests: dict[Path, dict[str, str]]) -> list[str]:
    folder = path.parent
    if folder not in manifests:
        manifests[folder] = {}
        for manifest in sorted(folder.glob("*manifest*.json")):
            with contextlib.suppress(HusaiError, OSError, *MALFORMED):
                outputs = read_json(manifest).get("outputs", [])
                named = (r for r in outputs if isinstance(r, Mapping))
                manifests[folder] |= {
                    str((folder / r["path"]).resolve()): r["sha256"] for r in named
                }
    expected = manifests[folder].get(str(path.resolve()))
    if expected is not None and expected != sha256_file(path):
        return ["has changed since its manifest was written"]
    return []


class Rests(NamedTuple):
    """What a look at a record's inputs found."""

    problems: list[str]
    """Empty when every file is there and unchanged."""
    behind: list[Evidence]
    """The evidence records among the inputs, and among theirs."""
    beside: dict[str, Any]
    """The JSON objects among the inputs that are no evidence, by path; of weights the shapes."""


class Inputs:
    """Looks at the inputs of records, each file once; paths are relative to ``root``. Without
    ``hashing`` only whether they are there, for those who hash them anyway.
    """

    def __init__(self, root: Path, hashing: bool = True):
        self.root, self.hashing = root, hashing
        self._hashes: dict[Path, str] = {}
        self._rests: dict[Path, Rests] = {}

    def of(self, item: Evidence) -> Rests:
        """Problems of a record's inputs and of the evidence among them, with the way to them."""
        problems, behind, beside = item.unnamed_inputs(), [], {}
        for entry in item.inputs:
            name, path = str(entry["path"]), self.root / str(entry["path"])
            if problem := self._unsound(name, path, entry.get("sha256")):
                problems.append(f"rests on {problem}")
            elif path.name == WEIGHTS and self.hashing:
                beside[name] = shapes(path)
            elif path.suffix == ".json":
                further = self._further(path)
                problems += [f"rests on {name}, which {problem}" for problem in further.problems]
                behind += further.behind
                beside |= further.beside
        return Rests(problems, behind, beside)

    def _unsound(self, name: str, path: Path, sha256: object) -> str:
        """A file and why no record can rest on it; empty when it is there and unchanged."""
        shown = _shown(name)
        try:
            if is_special(path):
                return f"{name!r}, which {NOT_OPENED}"
            if not path.is_file():
                return f"{shown}, which is not there"
            changed = self.hashing and self._sha256(path) != sha256
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            return f"{shown}, which cannot be read ({why})"
        return f"{shown}, whose sha256 has changed since" if changed else ""

    def _sha256(self, path: Path) -> str:
        if path not in self._hashes:
            self._hashes[path] = sha256_file(path)
        return self._hashes[path]

    def _further(self, path: Path) -> Rests:
        """The same for the evidence in an input file; any other JSON object as it is."""
        if path not in self._rests:
            self._rests[path] = Rests([], [], {})  # a file that leads back to itself ends here
            try:
                data = read_json(path)
            except HusaiError:
                data = None
            records = records_in(data)
            other = {str(path): data} if not records and isinstance(data, dict) else {}
            items = [Evidence.read(record, str(path)) for record in records]
            found = [self.of(item) for item in items]
            for one in found:
                other |= one.beside
            self._rests[path] = Rests(
                [p for f in found for p in f.problems],
                [*items, *(item for f in found for item in f.behind)],
                other,
            )
        return self._rests[path]


def _shown(name: str, most: int = 200) -> str:
    """A name in one line: quoted where a terminal would obey it, cut where it is too long."""
    name = name if len(name) <= most else f"{name[:most]}... ({len(name)} characters)"
    return name if name.isprintable() else repr(name)


def shapes(path: Path) -> dict[str, list[int]]:
    """Shapes of the tensors of a safetensors file, unread; empty where it is none, or cut."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_slice(name).get_shape() for name in file.offset_keys()}
    except (SafetensorError, OSError, ValueError):
        return {}


def weights_behind(items: Iterable[Evidence]) -> set[str]:
    """SHA-256 of every SAE's weights that the records name as inputs."""
    return {
        str(entry.get("sha256"))
        for item in items
        for entry in item.inputs
        if str(entry["path"]).rsplit("/", 1)[-1] == WEIGHTS
    }
