"""Quoted values: places in the files of the evidence that know their JSON pointer and how they
print.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from husai.errors import HusaiError, reading
from husai.gate.decision import Row, check_decision
from husai.provenance import read_json

MISSING = "missing"
OPEN, MIDDLE, CLOSE = "\ue000", "\ue001", "\ue002"
"""Characters of private use that mark the quotes of a line while its number is not known yet."""


@dataclass(frozen=True, eq=False)
class Quote:
    """A place in a JSON file of the evidence. Indexing goes deeper and keeps track of the pointer;
    a missing key gives an empty quote. Put into a line of the report it prints the value there.

    Attributes
    ----------
    file, pointer : str
        Where it stands: a file of the run and a JSON pointer (RFC 6901).
    value
        The JSON value there; None where there is none (``exists`` is then false).
    derive : str or None
        Name of the function of :data:`DERIVE` that turns it into what is printed; None for
        verbatim.
    """

    file: str
    value: Any
    pointer: str = ""
    exists: bool = True
    derive: str | None = None

    def __getitem__(self, key: str | int) -> Quote:
        pointer = f"{self.pointer}/{escape_pointer(key)}"
        if isinstance(self.value, dict if isinstance(key, str) else list):
            with contextlib.suppress(KeyError, IndexError):
                return Quote(self.file, self.value[key], pointer)
        return Quote(self.file, None, pointer, exists=False)

    def __iter__(self) -> Iterator[Quote]:
        size = len(self.value) if isinstance(self.value, list) else 0
        return (self[i] for i in range(size))

    def items(self) -> list[tuple[str, Quote]]:
        """``(key, quote)`` of a JSON object; empty for anything else."""
        return [(key, self[key]) for key in self.value] if isinstance(self.value, dict) else []

    def by(self, derive: str) -> Quote:
        """The same place, printed through a function of :data:`DERIVE`."""
        return replace(self, derive=derive)

    def name(self) -> Quote:
        """The key that this stands at, as printed."""
        return self.by("key")

    @property
    def printed(self) -> Any:
        """The value that is printed."""
        return derived(self.value, self.pointer, self.derive)

    @property
    def text(self) -> str:
        """As printed."""
        return FORMAT.get(self.derive, format_value)(self.printed)


class EvidenceFolder:
    """Reads evidence below ``root``; file names are those of a run (``results/...``) wherever the
    evidence lies.
    """

    def __init__(self, root: str | Path):
        self.root = Path(root)
        self._read: dict[str, Any] = {}

    def open(self, file: str) -> Quote:
        """The whole of a JSON file; an empty quote when the file is missing."""
        path = self.root / file
        if not path.is_file():
            return Quote(file, None, exists=False)
        if file not in self._read:
            found = read_json(path)
            if file.endswith("release_policy.json"):
                with reading(path):
                    check_decision(found, path)["gates"].items()
            self._read[file] = found
        return Quote(file, self._read[file])

    def glob(self, pattern: str) -> list[str]:
        """Names of the files that match, sorted."""
        return sorted(
            p.relative_to(self.root).as_posix() for p in self.root.glob(pattern) if p.is_file()
        )


def format_value(value: Any) -> str:
    """A JSON value as printed: 4 significant digits for floats, integers in full, text on one
    line.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return MISSING if math.isnan(value) else ("inf" if value > 0 else "-inf")
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(format_value(v) for v in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{one_line(k)} = {format_value(v)}" for k, v in value.items()) or "none"
    return one_line(value)


def one_line(text: Any) -> str:
    """Text without line breaks, runs of blanks or the marks that this module uses inside a line."""
    return " ".join(re.sub(f"[{OPEN}{MIDDLE}{CLOSE}]", "?", str(text)).split())


def format_lower(value: Any) -> str:
    """A lower bound as printed; a missing one is unbounded."""
    return "-inf" if value is None else format_value(value)


def format_upper(value: Any) -> str:
    """An upper bound as printed; a missing one is unbounded."""
    return "inf" if value is None else format_value(value)


def gate_names(gates: dict) -> list[str]:
    """The gates of a decision without its conclusion."""
    return [name for name in gates if name != "pass_all"]


def format_short(value: Any) -> str:
    """A number as printed on the first screen: three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else format_value(value)


def format_margin(value: Any) -> str:
    """A margin as printed: its sign, and two digits after the point."""
    return MISSING if value is None else f"{value:+.2f}"


DERIVE = {
    "bound": lambda row: Row(**row).bound,
    "margin": lambda row: Row(**row).margin,
    "threshold": lambda row: Row(**row).required[2],
    "lower": lambda value: value,
    "upper": lambda value: value,
    "length": len,
    "gate_count": lambda gates: len(gate_names(gates)),
    "failed_count": lambda gates: sum(gates[name] is not True for name in gate_names(gates)),
    "failed_names": lambda gates: [name for name in gate_names(gates) if gates[name] is not True],
}
MOST_DECIMALS = 6
"""Beyond these a value is printed by its significant digits."""


def with_decimals(name: str, decimals: int) -> str:
    """Name of the derivation that prints ``value``, ``lower`` or ``upper`` with so many digits
    after the point.
    """
    return f"{name}.{decimals}"


FORMAT = {
    "lower": format_lower,
    "upper": format_upper,
    "bound": format_short,
    "margin": format_margin,
    "threshold": format_short,
}
for _name in ("value", "lower", "upper"):
    for _decimals in range(MOST_DECIMALS + 1):
        DERIVE[with_decimals(_name, _decimals)] = lambda value: value
        FORMAT[with_decimals(_name, _decimals)] = f"{{:.{_decimals}f}}".format


def derived(value: Any, pointer: str, derive: str | None) -> Any:
    """Value that a quote prints, from the JSON ``value`` at ``pointer``; ``key`` is the last token
    of the pointer itself.

    Raises
    ------
    HusaiError
        ``derive`` is neither ``key`` nor one of :data:`DERIVE`.
    """
    if derive is None:
        return value
    if derive == "key":
        return unescape_pointer(pointer.rsplit("/", 1)[-1])
    if derive not in DERIVE:
        raise HusaiError(
            f"numbers.json: '{derive}' is not a known derivation; render the report again"
        )
    return DERIVE[derive](value)


def escape_pointer(key: Any) -> str:
    """One token of a JSON pointer (RFC 6901)."""
    return str(key).replace("~", "~0").replace("/", "~1")


def unescape_pointer(token: str) -> str:
    """Inverse of :func:`escape_pointer`."""
    return token.replace("~1", "/").replace("~0", "~")


def resolve_pointer(value: Any, pointer: str) -> Any:
    """The part of a JSON value that a pointer (RFC 6901) names; KeyError when there is none."""
    for token in pointer.split("/")[1:]:
        token = unescape_pointer(token)
        try:
            value = value[int(token)] if isinstance(value, list) else value[token]
        except (IndexError, ValueError, TypeError) as error:
            raise KeyError(pointer) from error
    return value
