"""Files of a run, written whole or not at all; JSON read with one line of error."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from husai.errors import HusaiError

NO_FILE = "is a link or no file at all; it was neither followed nor opened"
SYSTEM = ("/proc", "/sys", "/dev")
"""Folders of the system: what looks like a file there may wait for ever when it is read."""
SHARED_MEMORY = "/dev/shm"
"""The one folder among them that holds ordinary files."""
NESTED = (dict, list)
MOST_LEVELS = 100
"""Of objects and lists within each other; what a run writes has a tenth of it."""


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; moved into place on success, removed on failure.

    Raises
    ------
    HusaiError
        When the disk is full or the folder cannot be written; what stood at ``path`` is untouched.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp" + path.suffix, dir=path.parent
        )
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        # After the writer, as some put a private file of their own in its place.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except HusaiError:
        raise
    except Exception as error:
        cause = error if isinstance(error, OSError) else _no_space(temporary)
        if cause is None:
            raise
        raise HusaiError(
            f"{path}: cannot be written ({cause.strerror or cause}); free space or fix "
            "permissions, then run again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _no_space(temporary: Path | None, size: int = 2**20) -> OSError | None:
    """Why no further MiB can be written: weight formats hide a full disk in their own errors."""
    try:
        with open(temporary or os.devnull, "ab") as handle:
            handle.write(bytes(size))
    except OSError as error:
        return error
    return None


@functools.cache
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8 whatever the locale."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON atomically; infinities and NaN become null (strict JSON)."""
    write_text(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """Copy of a value as strict JSON holds it: non-finite floats become None, objects that say how
    (``to_json``) become what they say.
    """
    if hasattr(value, "to_json"):
        return finite(value.to_json())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return finite(value.item())
    return value


def parse_json(text: str) -> Any:
    """The value of JSON text.

    Raises
    ------
    ValueError
        Broken syntax, nesting deeper than :data:`MOST_LEVELS`, a whole number that 64 bits do not
        hold, text that is no Unicode.
    """
    try:
        value = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(MOST_LEVELS):
        parts = [p.values() if isinstance(p, dict) else p for p in level if isinstance(p, NESTED)]
        level = [inner for part in parts for inner in part if isinstance(inner, NESTED)]
        if not level:
            break
    else:
        raise ValueError("nested too deeply")
    if "\\ud" in text.lower():  # half a pair of surrogates is read, and could not be written
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _whole(digits: str) -> int:
    """A whole number that 64 bits hold: anything longer is a mistake, and no tensor takes it."""
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def read_text(path: str | Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a plain file; a pipe, a device, a socket or a folder is never opened.

    Raises
    ------
    HusaiError
        No plain file, text of another encoding, or no permission, in one line that names it.
    FileNotFoundError
        There is nothing: what then is to be done differs from file to file.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode) or is_special(path):
            raise HusaiError(f"{path}: {NO_FILE}; remove it")
        return Path(path).read_text(encoding=encoding, errors=errors)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise HusaiError(f"{path}: not readable as text ({why})") from None


def is_special(path: str | Path) -> bool:
    """Whether a path leads below /proc, /sys or /dev (but for /dev/shm): never opened then."""
    real = Path(os.path.realpath(path))
    below = any(real.is_relative_to(folder) for folder in SYSTEM)
    return below and not real.is_relative_to(SHARED_MEMORY)


class Tree(NamedTuple):
    """What lies below a folder, found without following a link or opening anything."""

    files: list[Path]
    odd: list[Path]
    """Links, pipes, sockets and devices: whatever is neither a file nor a folder."""


def tree(folder: Path) -> Tree:
    """Files and oddities below ``folder``, in order; a folder that is a link is an oddity
    itself."""
    files, odd = [], [folder] if folder.is_symlink() else []
    for parent, folders, names in os.walk(folder) if not odd else ():
        odd += [Path(parent) / name for name in folders if (Path(parent) / name).is_symlink()]
        for path in (Path(parent) / name for name in names):
            (files if stat.S_ISREG(path.lstat().st_mode) else odd).append(path)
    return Tree(sorted(files), sorted(odd))


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file; empty when the file is missing, broken or holds something else.
    HusaiError where it is no plain file.
    """
    try:
        value = parse_json(read_text(path, errors="replace"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    HusaiError
        The file is missing or is not JSON, in one line that names it.
    """
    try:
        return parse_json(read_text(path, encoding="utf-8-sig"))
    except FileNotFoundError:
        raise HusaiError(f"{path}: no such file; run the job that writes it first") from None
    except (ValueError, OSError) as error:
        raise HusaiError(
            f"{path}: not readable as JSON ({error}); delete it and run the job that writes it "
            "again"
        ) from None


def folder(path: str | Path) -> Path:
    """The folder of an artifact, named by itself or by the ``manifest.json`` in it."""
    path = Path(path)
    return path.parent if path.name == "manifest.json" else path
