"""SAEs named on a command line, sorted into the candidates they are members of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from husai.errors import HusaiError
from husai.sae import load_sae
from husai.sae.hooks import contradictions
from husai.sae_files import default_name, expand, is_remote


class Kind(NamedTuple):
    """What the members of one candidate have in common."""

    architecture: str
    d_in: int
    d_sae: int
    k: int | None


@dataclass
class BroughtSAEs:
    """SAEs of one kind that differ in their seed."""

    name: str
    kind: Kind
    members: list[str]
    confirmation: list[str] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)
    """What each SAE's own metadata say, members first."""


class _Argument(NamedTuple):
    """One word of the command line: an SAE, or a folder of them."""

    word: str
    paths: list[str]
    kind: Kind
    notes: list[dict[str, Any]]


def candidates(
    saes: Sequence[str], confirm: Sequence[str] = (), *, hook_name: str
) -> list[BroughtSAEs]:
    """The candidates behind ``saes``: a folder of ``seed*/`` is one, and single SAEs of one kind
    are the seeds of one.

    SAEs of ``confirm`` go to the candidate of their kind; where several are of that kind, to the
    one at the same place, if there are as many.

    Raises
    ------
    HusaiError
        An SAE that cannot be read, belongs to another hook or is a transcoder; a folder whose SAEs
        differ in kind; one of ``confirm`` that fits no candidate, or several.
    """
    arguments = [_argument(word, hook_name) for word in saes]
    found: list[BroughtSAEs] = []
    for one in arguments:
        lone = [c for c in found if c.kind == one.kind and c.name == _by_kind(one.kind)]
        if len(one.paths) == 1 and lone:
            lone[0].members += one.paths
            lone[0].notes += one.notes
            continue
        name = default_name(one.word) if len(one.paths) > 1 else _by_kind(one.kind)
        taken = {c.name for c in found}
        free = next(
            n for i in range(len(found) + 1) if (n := f"{name}-{i}" if i else name) not in taken
        )
        found.append(BroughtSAEs(free, one.kind, one.paths, notes=one.notes))
    for place, word in enumerate(confirm):
        one = _argument(word, hook_name)
        chosen = _fitting(one, found, place if len(confirm) == len(found) else None)
        chosen.confirmation += one.paths
        chosen.notes += one.notes
    return found


def _by_kind(kind: Kind) -> str:
    return f"{kind.architecture}-d{kind.d_sae}"


def _argument(word: str, hook_name: str) -> _Argument:
    paths = [str(p) if is_remote(p) else str(p.resolve()) for p in expand(word)]
    kinds, notes = [], []
    for path in paths:
        sae = load_sae(path)
        against = contradictions(sae.cfg, hook_name)
        if sae.transcodes:
            against.append("it is a transcoder, which reconstructs another hook than it reads")
        if against:
            raise HusaiError(f"{path}: {' and '.join(against)}; judge it at the hook it is for")
        kinds.append(Kind(sae.architecture, sae.d_in, sae.d_sae, sae.k))
        if kinds[-1] != kinds[0]:
            raise HusaiError(
                f"{word}: {Path(path).name} is {kinds[-1]._asdict()}, {Path(paths[0]).name} is "
                f"{kinds[0]._asdict()}; the SAEs of one folder are seeds of one candidate, so name "
                "those of other kinds apart"
            )
        notes.append(dict(sae.cfg))
    return _Argument(word, paths, kinds[0], notes)


def _fitting(one: _Argument, found: list[BroughtSAEs], place: int | None) -> BroughtSAEs:
    fitting = [c for c in found if c.kind == one.kind]
    if len(fitting) > 1 and place is not None and found[place] in fitting:
        return found[place]
    if len(fitting) != 1:
        names = ", ".join(c.name for c in fitting or found)
        why = "fits several candidates" if fitting else "is of the kind of no candidate"
        raise HusaiError(
            f"--confirm {one.word}: {why} ({names}); give SAEs of the same architecture, width and "
            "k, one --confirm for each candidate and in their order"
        )
    return fitting[0]
