"""What a selector compares and what it says: one seed's SAE, a row of the pool, and the choice."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from husai.selection.margins import Margin, table
from husai.shown import in_code, in_markdown, markdown_table

EXTERNAL = ("saebench_delta", "cebench_interp_delta_vs_baseline")
METRICS = (*EXTERNAL, "train_explained_variance", "cebench_interpretability_max")


@dataclass
class Candidate:
    """One seed's SAE, with the metrics a selector reads (None where not measured)."""

    condition_id: str
    source: str
    seed: Any
    architecture: str
    metrics: dict[str, float | None]
    returncodes: dict[str, Any]
    checkpoint: str | None = None
    hook_name: str | None = None
    recipe: Any = None
    resolved: Any = None
    """The recipe with what training filled in: a calibrated k, the sparsity coefficient found."""
    recipe_hash: str | None = None
    strict: dict[str, float | None] = field(default_factory=dict)
    gated: Mapping[str, Any] = field(default_factory=dict)
    """Metrics of its condition over seeds that the strict policy gates, by ``evidence.metric``."""
    cebench_max: float | None = None
    source_results: str = ""

    @property
    def condition(self) -> str:
        """Condition name: the id without its ``_seed<n>``."""
        return re.sub(r"_seed\d+$", "", self.condition_id)

    @property
    def ended_well(self) -> bool:
        """Whether no benchmark of it ended with an error."""
        return all(code in (None, 0) for code in self.returncodes.values())

    def summary(self) -> dict[str, Any]:
        """What a table shows of this candidate."""
        keys = ("condition_id", "source", "seed", "architecture", "hook_name", "checkpoint")
        return {key: getattr(self, key) for key in (*keys, "recipe_hash", "metrics", "strict")}


@dataclass
class Entry:
    """A row of the pool: a seed or a condition, its metrics and score, and who stands for it."""

    name: str
    metrics: dict[str, Any]
    members: list[Candidate]
    representative: Candidate
    score: float = -math.inf
    is_pareto: bool = False
    components: dict[str, float] = field(default_factory=dict)
    seed_scores: dict[str, float] = field(default_factory=dict)
    margins: list[Margin] = field(default_factory=list)
    """To the gates of the strict policy."""

    def table(self) -> dict[str, Any]:
        """This row for ``selected_candidate.json``."""
        return {
            "condition": self.name,
            "score": self.score,
            "is_pareto": self.is_pareto,
            "seed_count": len(self.members),
            "representative_seed": self.representative.seed,
            "components": self.components,
            "metrics": self.metrics,
            "margins": [margin._asdict() for margin in self.margins],
        }


@dataclass(frozen=True)
class Selection:
    """Outcome of a selector: the pool in order, best first."""

    policy: str
    ordered: list[Entry]
    total: int
    eligible: int
    options: dict[str, Any]
    left_out: dict[str, str] = field(default_factory=dict)
    """Conditions that could not be chosen, each with the reason."""

    @property
    def selected(self) -> Entry:
        return self.ordered[0]

    @property
    def pareto(self) -> list[Entry]:
        return [e for e in self.ordered if e.is_pareto]

    def to_dict(self) -> dict[str, Any]:
        """The body of ``selected_candidate.json``, without provenance."""
        entry = self.selected
        sae = entry.representative
        most = {} if sae.cebench_max is None else {"cebench_attainable_max": sae.cebench_max}
        return {
            "policy": self.policy,
            "condition": entry.name,
            "condition_id": entry.name,
            "group_id": sae.condition,
            "architecture": sae.architecture,
            "hook_name": sae.hook_name,
            "recipe": sae.recipe,
            "resolved": sae.resolved,
            "recipe_hash": sae.recipe_hash,
            "seed": sae.seed,
            "representative_condition_id": sae.condition_id,
            "checkpoint": sae.checkpoint,
            "source": sae.source,
            "source_results": sae.source_results,
            "seed_count": len(entry.members),
            "score": entry.score,
            "metrics": entry.metrics | most,
            "selection": {
                "joint_score": entry.score,
                "is_pareto": entry.is_pareto,
                "representative_seed": sae.seed,
                "normalized_components": entry.components,
                **self.options,
            },
            "counts": {
                "total_candidates": self.total,
                "eligible_seed_candidates": self.eligible,
                "eligible_candidates": len(self.ordered),
                "groups": len(self.ordered),
                "pareto_count": len(self.pareto),
            },
            "seed_candidates": [
                m.summary() | {"score": entry.seed_scores.get(m.condition_id)}
                for m in entry.members
            ],
            "pareto": [e.name for e in self.pareto],
            "pareto_front": [e.table() for e in self.pareto],
            "pool": [e.table() for e in self.ordered],
            "left_out": self.left_out,
        }

    def to_markdown(self) -> str:
        """The pool as a table, best first: the text of ``selection.md``."""
        out = [
            f"# Selected by `{self.policy}`: {in_code(self.selected.name)}",
            "",
            f"{len(self.ordered)} rows, {len(self.pareto)} on the Pareto front, "
            f"{self.eligible} of {self.total} seeds eligible.",
            "",
        ]
        rows = []
        for entry in self.ordered:
            about = [in_code(entry.name), str(len(entry.members)), f"{entry.score:.6g}"]
            shown = [entry.metrics.get(key) for key in EXTERNAL]
            deltas = ["missing" if v is None else f"{v:.6g}" for v in shown]
            pareto = "yes" if entry.is_pareto else "no"
            rows.append([*about, pareto, *deltas, f"seed {entry.representative.seed}"])
        header = ["condition", "seeds", "score", "Pareto", "SAEBench", "CE-Bench", "representative"]
        out += markdown_table(header, rows)
        if self.selected.margins:
            said = "By how much each condition of the strict policy is met on the selection's data."
            out += ["", "## Margin to each gate", "", said]
            out += ["", *table([(entry.name, entry.margins) for entry in self.ordered])]
        out += ["", "Could not be chosen:", ""] if self.left_out else []
        out += [f"- {in_code(name)}: {in_markdown(why)}" for name, why in self.left_out.items()]
        return "\n".join(out) + "\n"


def too_few(groups: Mapping[str, Sized], min_seeds: int) -> dict[str, str]:
    """Conditions with fewer than ``min_seeds`` members, each with the reason."""
    why = {1: "one seed gives no interval"}
    return {
        name: f"{why.get(len(members), f'{len(members)} seeds')}; {min_seeds} are needed"
        for name, members in groups.items()
        if len(members) < min_seeds
    }


def dominates(a: Entry, b: Entry) -> bool:
    """Whether ``a`` is nowhere worse and somewhere better on both external deltas, none missing."""
    pairs = [(a.metrics.get(k), b.metrics.get(k)) for k in EXTERNAL]
    if any(x is None or y is None for x, y in pairs):
        return False
    return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)
