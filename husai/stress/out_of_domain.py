"""Probes out of their domain: trained on a data set, tested on its shipped OOD twin, SAE against
dense; and the old alphabetical split.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from husai.errors import HusaiError
from husai.probing.baselines import fit_dense, validate_dense
from husai.probing.encoders import ProbeData, codes_of
from husai.probing.paired import cycle3_summary
from husai.probing.protocol import as_array, select_features
from husai.probing.scores import scores_of
from husai.probing.solver import auc_on_test, fit_probes
from husai.probing.splits import MAX_TRAIN, MIN_TEST, PROBE_SEED, probe_split

OOD_TRAIN_ROWS = 1500
"""``get_OOD_traintest`` of sae-probes draws from so many rows; the rest test in the domain."""


def ood_rows(
    y: np.ndarray, seed: int = PROBE_SEED, name: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the training rows, ``(n_train,)``, and of the in-domain test rows, ``(n_test,)``,
    of the OOD protocol, for labels 0/1 ``y (n_rows,)``.

    Training: 1024 balanced rows of the first 1500, drawn as ``get_OOD_traintest`` of sae-probes
    does. In-domain test: every row that is neither one of those nor a training row of the normal
    protocol (the subject may have read these).

    Raises
    ------
    HusaiError
        Fewer than 128 training rows, or an in-domain test set with one class.
    """
    first = y[:OOD_TRAIN_ROWS]
    train, _ = probe_split(
        first, seed, num_train=min(len(first) - MIN_TEST, MAX_TRAIN), num_test=0, name=name
    )
    usual, _ = probe_split(y, seed, name=name)
    rest = np.setdiff1d(np.arange(len(y)), np.union1d(train, usual))
    if len(np.unique(y[rest])) < 2:
        raise HusaiError(
            f"data set '{name}': {len(y)} rows leave no in-domain test set with both classes; "
            "raise max_rows"
        )
    return train, rest


def dense_drop(data: ProbeData, out: ProbeData, seed: int = PROBE_SEED) -> dict[str, float]:
    """AUC of the subject's dense probe in and out of its domain, ``{"id", "ood"}``, and the lower
    bound ``"val_lcb"`` of its AUC on training rows (:func:`validate_dense`).
    """
    train, rest = ood_rows(data.y, seed, data.name)
    x, x_out = as_array(data.activations()), as_array(out.activations())
    found, model = fit_dense(x[train], data.y[train], x[rest], data.y[rest], seed)
    ood = scores_of(model, x_out, out.y).auc
    validation = validate_dense(x[train], data.y[train], found.C, seed)
    return {"id": found.auc, "ood": ood, "val_lcb": validation.lcb}


def sae_drop(
    sae,
    data: ProbeData,
    out: ProbeData,
    k: int,
    *,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
    device="cpu",
) -> dict[str, float]:
    """AUC of an SAE's k-sparse probe in and out of its domain: ``{"id", "ood"}``."""
    train, rest = ood_rows(data.y, seed, data.name)
    features = select_features(codes_of(sae, data, device), data, train, rest, k)
    models = fit_probes(features, [k], penalty=penalty, seed=seed).models
    outside = as_array(codes_of(sae, out, device)[:, features.latents])
    moved = features._replace(test=outside, y_test=np.asarray(out.y))
    return {
        "id": float(auc_on_test(features, models)[0]),
        "ood": float(auc_on_test(moved, models)[0]),
    }


def alphabetical_partition(names: Sequence[str]) -> dict[str, list[str]]:
    """The original study's split: domains (first word after the number) in the alphabet's order,
    the last quarter called OOD.

    Kept for the ``cycle3`` policy; what it calls out of domain is late in the alphabet.
    """
    domains = sorted({domain(n) for n in names})
    late = set(domains[-max(1, math.ceil(len(domains) / 4)) :])
    return {
        "id": [n for n in names if domain(n) not in late],
        "ood": [n for n in names if domain(n) in late],
        "ood_domains": sorted(late),
    }


def domain(name: str) -> str:
    """First word of a numbered tag: ``us`` of ``117_us_state_FL``."""
    return name.split("_", 1)[-1].split("_")[0]


def alphabetical_drop(rows: Sequence[dict], dense: dict[str, dict]) -> dict[str, Any]:
    """``ood_drop`` as the original computed it: best-k delta to the dense baseline on the early
    domains minus that on the late ones.

    ``rows`` are those of a saebench record over many data sets, ``dense`` their dense baselines.

    Raises
    ------
    HusaiError
        The data sets belong to fewer than two domains.
    """
    parts = alphabetical_partition(list(dict.fromkeys(row["dataset"] for row in rows)))
    if not parts["id"]:
        raise HusaiError(
            "ood: the alphabetical partition needs data sets of at least two domains; add data sets"
        )
    out: dict[str, Any] = {
        "datasets": {part: parts[part] for part in ("id", "ood")},
        "ood_domains": parts["ood_domains"],
    }
    for part, names in out["datasets"].items():
        summary = cycle3_summary([row for row in rows if row["dataset"] in names], dense)
        out[f"{part}_summary"] = summary
        out[f"{part}_best_minus_llm_auc"] = summary["best_minus_llm_auc"]
    out["ood_drop"] = out["id_best_minus_llm_auc"] - out["ood_best_minus_llm_auc"]
    return out
