"""How much disk a run writes, from its configuration alone."""

from __future__ import annotations

import json
from pathlib import Path

from husai.config import Config
from husai.config.data_sets import resolved_data_sets
from husai.planning.plan import Plan
from husai.recipe import RANDOM

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
ASSUMED_WIDTH = 512
"""Values per token of a model whose config.json is not at hand: that of Pythia-70M, the subject of
config/b200.yaml."""
ROWS_PER_DATA_SET, TOKENS_PER_ROW = 2957, 132
"""Means over the 113 probing data sets: 334,092 rows in all, 528 characters a row at about four
characters a token."""


def disk_needed(config: Config) -> tuple[dict[str, int], bool]:
    """Bytes by what they are for, and whether the width of a model had to be assumed."""
    plan = Plan(config)
    subject, stress = config.external.subject, config.stress
    pool = plan.pool_hooks()
    stores = {(t.recipe.subject, t.hook_name) for t in plan.trained.values()}
    stores |= {(name, hook) for name in (subject, subject + RANDOM) for hook in pool}
    stores |= {(stress.transcoder_subject, hook) for hook in stress.transcoder_hooks}
    widths = {name: width_of(config, name) for name, _ in stores}
    d = {name: found or ASSUMED_WIDTH for name, found in widths.items()}
    activations = sum(_rows(config, name) * d[name] for name, _ in stores)
    stored = config.activations.get(subject)
    sets = config.external.datasets
    per_set = min(ROWS_PER_DATA_SET, sets.max_rows or ROWS_PER_DATA_SET)
    tokens = min(TOKENS_PER_ROW, getattr(config.subjects[subject], "n_ctx", TOKENS_PER_ROW))
    a, b = resolved_data_sets(config)
    probes = len({*a, *b, *sets.ood}) * per_set * tokens * d[subject] * len(pool)
    weights = sum(
        2 * t.recipe.d_sae * d[t.recipe.subject] * len(t.seeds)
        for t in plan.trained.values()
        if isinstance(t.recipe.d_sae, int)
    )
    needed = {
        "activations": activations,
        "probe activations": probes * BYTES[stored.dtype if stored else "float32"],
        "SAEs": 4 * weights,
    }
    return needed, None in widths.values()


def width_of(config: Config, name: str) -> int | None:
    """Residual width of a subject; None when only the model itself could say."""
    section = config.subjects[name.removesuffix(RANDOM)]
    if hasattr(section, "d_model"):
        return section.d_model
    path = Path(getattr(section, "model", "")) / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("hidden_size")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


def _rows(config: Config, name: str) -> int:
    """Bytes of one value of every row of a store."""
    base = name.removesuffix(RANDOM)
    section = config.subjects[base]
    if section.kind == "modular":
        return section.p**2 * BYTES["float32"]
    wanted = config.activations[base]
    rows = wanted.train_rows + wanted.held_out_rows + wanted.confirmation_rows
    return rows * BYTES[wanted.dtype]
