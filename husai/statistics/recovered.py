"""The share of a loss that is recovered, from losses per text, with its interval: of one SAE, and
of a recipe from the records of its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from husai.errors import HusaiError
from husai.evidence import Metric
from husai.statistics.intervals import (
    as_array,
    jackknife_difference,
    jackknife_t,
    symmetric,
    unbounded,
)
from husai.statistics.levels import stated_bounds


def recovered_interval(spliced, ablated, confidence: float = 0.95) -> Metric:
    r"""Recovered share ``1 - sum(spliced) / sum(ablated)`` with a delete-one jackknife interval.

    A ratio of sums, so that a text counts by what can be lost on it; its value is 0 for the mean
    ablation, 1 for a perfect reconstruction and negative for what does more harm than the mean.

    Parameters
    ----------
    spliced : array (n_texts,) or (n_seeds, n_texts)
        Loss above the clean model of each text with the reconstruction in place.
    ablated : array (n_texts,)
        The same with the mean in place.

    Returns
    -------
    Metric
        Over texts for one SAE. Over several seeds of one recipe the mean of their values, with the
        wider of the interval over seeds and that over texts. NaN without bounds where the ablation
        loses nothing: there is nothing to recover, and nothing can be said.

    Raises
    ------
    HusaiError
        The losses have shapes other than these, or other numbers of texts.

    Examples
    --------
    >>> found = recovered_interval([0.1, 0.2, 0.3, 0.2], [1.0, 1.0, 1.0, 1.0])
    >>> round(found.value, 3), round(found.lcb, 2), round(found.ucb, 2)
    (0.8, 0.67, 0.93)
    >>> recovered_interval([2.0, 2.0], [2.0, 2.0]).value
    0.0
    """
    spliced, ablated = as_array(spliced), as_array(ablated)
    if ablated.ndim != 1 or spliced.shape[-1:] != ablated.shape or spliced.ndim not in (1, 2):
        raise HusaiError(
            f"recovered: losses of shape {spliced.shape} and {ablated.shape} do not fit; give "
            "(n_texts,) or (n_seeds, n_texts) beside (n_texts,)"
        )
    total = ablated.sum()
    if not (np.isfinite(spliced).all() and np.isfinite(ablated).all() and total > 0):
        return unbounded(math.nan, ablated.size, "not assessable: no loss")
    over_texts = _over_texts(np.atleast_2d(spliced).mean(axis=0), ablated, confidence)
    if spliced.ndim == 1:
        return over_texts
    per_seed = 1.0 - spliced.sum(axis=1) / total
    over_seeds = jackknife_t(per_seed, confidence=confidence)
    low, high = min(over_seeds.lcb, over_texts.lcb), max(over_seeds.ucb, over_texts.ucb)
    method = "jackknife-t, the wider of seeds and texts"
    return Metric(over_seeds.value, low, high, len(per_seed), method)


def _over_texts(spliced: np.ndarray, ablated: np.ndarray, confidence: float) -> Metric:
    value, n = 1.0 - spliced.sum() / ablated.sum(), ablated.size
    rest = ablated.sum() - ablated
    if n < 2 or not (rest > 0).all():
        return unbounded(value, n, "jackknife-t")
    left_out = 1.0 - (spliced.sum() - spliced) / rest
    se = math.sqrt((n - 1) * left_out.var())
    return symmetric(value, se, n - 1, n, "jackknife-t", confidence)


def losses_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list]:
    """Losses above the clean model from records of single SAEs: ``spliced`` per seed and text,
    ``ablated`` per text.

    Raises
    ------
    HusaiError
        The losses of the ablation differ between records: they were measured on different texts.
    """
    ablated = records[0]["texts"]["ablated"]
    others = [r["texts"]["ablated"] for r in records]
    if not all(len(o) == len(ablated) and np.allclose(o, ablated, rtol=1e-3) for o in others):
        raise HusaiError(
            "faithfulness: the records of one recipe were measured on different texts; measure "
            "them again"
        )
    return {"spliced": [r["texts"]["spliced"] for r in records], "ablated": ablated}


def faithfulness_metrics(
    mine: Mapping[str, list], control: Mapping[str, list]
) -> dict[str, Metric]:
    """``recovered`` of a recipe over its seeds and texts, with the bounds that further candidates
    are judged by, and ``recovered_vs_frozen``: by how much more than its control.

    ``mine`` and ``control`` are from :func:`losses_of`.
    """
    spliced, ablated = mine["spliced"], mine["ablated"]
    bounds = stated_bounds(lambda confidence: recovered_interval(spliced, ablated, confidence))
    per_seed = [
        1.0 - np.sum(of["spliced"], axis=1) / np.sum(of["ablated"]) for of in (mine, control)
    ]
    return {
        "recovered": replace(recovered_interval(spliced, ablated), bounds=tuple(bounds)),
        "recovered_vs_frozen": jackknife_difference(*per_seed),
    }
