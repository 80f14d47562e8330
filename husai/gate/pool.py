"""The evidence about one candidate: which records hold a metric, at which level, and why none
does."""

from __future__ import annotations

import re
import reprlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from os.path import realpath
from typing import Any

from husai.errors import MALFORMED, HusaiError
from husai.evidence import Evidence, Metric
from husai.gate.bounds import restate
from husai.gate.policy import Condition, Policy
from husai.recipe import Recipe


class Pool:
    """All evidence at hand, sorted once by whom it is about; read by every gate.

    Parameters
    ----------
    items : sequence of Evidence
    recipe_hash : str
        The candidate; empty where nobody says.
    alpha : float
        One-sided level at which bounds are read.
    """

    def __init__(self, items: Sequence[Evidence], recipe_hash: str, alpha: float):
        self.recipe_hash, self.alpha = recipe_hash, alpha
        self.by_kind: dict[str, list[Evidence]] = defaultdict(list)
        self.foreign: dict[str, set[str]] = defaultdict(set)
        self.unreadable = sorted(
            f"{e.label} {e.problems[0]}" for e in items if not e.kind and e.problems
        )
        self._usable: dict[tuple[str, str, str], list[tuple[Evidence, Metric]]] = {}
        for item in items:
            if item.recipe_hash == recipe_hash:
                self.by_kind[item.kind].append(item)
            else:
                self.foreign[item.kind].add(item.recipe or item.recipe_hash)

    def usable(self, condition: Condition) -> list[tuple[Evidence, Metric]]:
        """Records that hold the metric, and the metric at the level in force; confirmation outranks
        the rest, the selection's own data never counts. Records of single SAEs are not judged where
        a record over seeds rests on them, by whichever path they were given.
        """
        key = condition.evidence, condition.metric, condition.basis
        if key not in self._usable:
            name = condition.metric
            found = [e for e in self.by_kind.get(condition.evidence, ()) if name in e.metrics]
            confirmed = [e for e in found if e.phase == "confirmation"]
            found = confirmed or [e for e in found if e.phase != "selection"]
            parts = {realpath(b.path) for e in found for b in e.behind if b.kind == e.kind}
            found = [e for e in found if not (e.path and realpath(e.path) in parts)]
            self._usable[key] = [(e, self._at_level(e.metrics[name], condition)) for e in found]
        return self._usable[key]

    def _at_level(self, metric: Metric, condition: Condition) -> Metric:
        """The bounds restated; where that cannot be done and a point is judged, as they are."""
        restated = restate(metric, self.alpha)
        return restated if restated.bounded or condition.basis != "point" else metric

    def absence(self, condition: Condition) -> str:
        """Why no record holds the metric of a condition."""
        kind, name = condition.evidence, condition.metric
        if not self.recipe_hash:
            return (
                "is missing: the candidate is not named, and the evidence is not all of one recipe"
            )
        here = self.by_kind.get(kind, [])
        held = sorted(e.label for e in here if name in e.metrics)
        if held:
            return (
                f"is missing: {held[0]} is the selection's own data; confirm on fresh seeds "
                "and held-out data"
            )
        if here:
            problems = "".join(f"; {e.label} {p}" for e in here for p in e.problems)
            what = name if condition.basis == "point" else condition.basis
            return f"is missing: no {what} in {min(e.label for e in here)}" + problems
        if self.foreign.get(kind):
            others = ", ".join(sorted(self.foreign[kind])[:3])
            return f"is missing: there is {kind} evidence for {others}, not for the candidate"
        return f"is missing: there is no {kind} evidence" + "".join(
            f"; {text}" for text in self.unreadable
        )

    def behind(self, policy: Policy) -> list[Evidence]:
        """Records the decision rests on, and any of the same kinds that have problems."""
        conditions = [c for g in policy.gates for c in g.conditions()]
        found = {id(e): e for c in conditions for e, _ in self.usable(c)}
        for kind in {c.evidence for c in conditions}:
            bad = (e for e in self.by_kind.get(kind, ()) if e.problems and e.phase != "selection")
            found.update({id(e): e for e in bad})
        return list(found.values())

    def sources(self) -> list[str]:
        """Files of the records that were read."""
        found = (item for usable in self._usable.values() for item, _ in usable)
        return sorted({item.path for item in found if item.path})

    def subject(self) -> str:
        """Whose features the candidate's evidence is about; several are all named."""
        names = {item.subject for items in self.by_kind.values() for item in items}
        return ", ".join(sorted(names - {""}))


def refuse_other(about: Mapping[str, Any], items: Sequence[Evidence]) -> None:
    """Refuse a candidate whose hook, architecture, recipe or condition (with or without a seed) is
    not that of the ``recipe.json`` of its hash that the evidence rests on.

    Raises
    ------
    HusaiError
        One line: the field, what the candidate says, and what the recipe has.
    """
    for item in (e for e in items if e.recipe_hash == about.get("recipe_hash")):
        for name, data in item.beside.items():
            recipe = _recipe(data.get("recipe")) if name.endswith("recipe.json") else None
            if recipe is None or recipe.hash != item.recipe_hash:
                continue
            known = {"architecture": recipe.architecture, "hook_name": recipe.hook_name}
            known |= dict.fromkeys(("recipe", "condition", "condition_id"), recipe.id)
            for key in (k for k in known if about.get(k) is not None):
                said = about[key]
                if key == "recipe" and isinstance(said, Mapping):
                    same = said.items() <= vars(recipe).items()
                else:
                    same = re.sub(r"_seed\d+$", "", str(said)) == known[key]
                if not same:
                    raise HusaiError(
                        f"the candidate's {key} is {reprlib.repr(said)} but {name}, which the "
                        f"evidence rests on, has {known[key]!r}; give the selected_candidate.json "
                        "of this run"
                    )


def _recipe(fields: Any) -> Recipe | None:
    try:
        return Recipe.from_dict(dict(fields))
    except (HusaiError, *MALFORMED):
        return None
