"""Stability of any mix of checkpoints: copies flagged, a table, a record, a verdict in words."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch

from husai.brought.members import QUALITY, initial_of
from husai.brought.table import render
from husai.compute import resolve_device
from husai.errors import HusaiError, nearest
from husai.evidence import Metric
from husai.provenance import finite
from husai.sae.hooks import place
from husai.sae_files import expand, usable_seed
from husai.stability import (
    NullResult,
    activation_covariance,
    agreement_matrix,
    assessable,
    compare_weights,
    null_pwmcc,
    verdict,
    worst_null,
)
from husai.stability.measure import check_weights, pointing_rows
from husai.stability.nulls.draws import crowding_null, random_null
from husai.stability.report import s_of
from husai.statistics import coincidence_limit, jackknife_t
from husai.statistics.ensemble import CLONE

SCHEMA = "husai.comparison/1"
NULLS = ("worst", "gaussian", "init", "covariance", "crowding")


class Compared(NamedTuple):
    """One SAE of a comparison."""

    path: Path
    sae: Any
    seed: int | None
    """What its own metadata say; None when they are silent."""
    digest: str
    """SHA-256 of its encoder and decoder in float32."""
    alive: torch.Tensor
    """Latents that count: those that fire when rows are given, else all that have a direction."""
    quality: dict[str, float] | None
    """Explained variance, L0 and dead fraction on the rows, where rows are given."""


class PathComparison(NamedTuple):
    """Result of :func:`compare_paths`."""

    record: dict[str, Any]
    """JSON values, schema ``husai.comparison/1``."""
    table: str
    """The same for a terminal."""


def compare_paths(
    paths: Sequence[str | Path],
    null: str = "worst",
    *,
    rows: str | Path | torch.Tensor | None = None,
    device: str | torch.device = "cpu",
    drop_zero_rows: bool = False,
) -> PathComparison:
    """Stability of the SAEs at ``paths``, from any trainer :func:`husai.sae.load_sae` reads.

    SAEs with the same weights (in any format, order or sign of rows) or the same seed are flagged;
    one of them counts, the rest do not. Pairs that agree row by row, as copies that were changed or
    trainings from one initialisation do, are counted with a warning (``kin``): the strict gate does
    not take them.

    Parameters
    ----------
    paths : sequence of path
        SAE directories or files; a trained recipe's directory stands for all its seeds.
    null : str
        ``worst`` (of those that can be measured), ``gaussian``, ``init`` (SAEs trained here) or
        ``covariance`` and ``crowding`` (which need ``rows``).
    rows : path or Tensor (n, d_in), optional
        Activations of the hook (a store, or a folder with a ``held_out`` one), for living latents,
        activation agreement and the covariance and crowding nulls.
    drop_zero_rows : bool
        Leave out decoder rows of length zero instead of refusing them.

    Raises
    ------
    HusaiError
        One checkpoint, widths that differ, zero or NaN weights, every latent dead, a null that
        cannot be measured.
    """
    if null not in NULLS:
        raise HusaiError(f"--null: '{null}' is not one of {', '.join(NULLS)}{nearest(null, NULLS)}")
    paths, device = expand(paths), resolve_device(str(device))
    if len(paths) < 2:
        found = f"{len(paths)} checkpoint{'' if len(paths) == 1 else 's'}"
        raise HusaiError(
            f"stability compares SAEs of different seeds: got {found}; give at least two paths"
        )
    activations = _activations(rows)
    brought = [_bring(p, activations, device, drop_zero_rows) for p in paths]
    _check_widths(brought)
    saes = [b.sae for b in brought]
    compared = compare_weights(
        [s.W_dec for s in saes],
        [s.W_enc.T for s in saes],
        [b.alive for b in brought],
        device,
        [str(b.path) for b in brought],
    )
    matrices = {"pwmcc": compared.best.matrix, "pw_mcc": compared.pw_mcc}
    matrices["shared_fraction"] = compared.shared
    if activations is not None:
        agreement = agreement_matrix(saes, activations, compared.matches, device=device)
        matrices["activation_r"] = agreement
    flags = _flags(brought, compared.best.matrix)
    independent = _independent(len(brought), flags)
    nulls, unavailable = _nulls([brought[i] for i in independent], activations, device)
    if null != "worst" and null not in nulls:
        raise HusaiError(f"--null {null}: {unavailable[null]}")
    chosen = worst_null(nulls.values()) if null == "worst" else nulls[null]
    record = _record(brought, matrices, flags, independent, nulls, unavailable, chosen)
    record["kin"] = _kin(compared.same_index, independent)
    record["verdict"] += "; pairs with a warning are no reproduction" if record["kin"] else ""
    return PathComparison(finite(record), render(record))


def _activations(rows):
    if rows is None or isinstance(rows, torch.Tensor):
        return rows
    from husai.activations.files import open_rows

    rows = open_rows(rows)
    return rows.float() if isinstance(rows, torch.Tensor) else rows


def _bring(path: Path, rows, device, drop_zero_rows: bool) -> Compared:
    from husai.sae import evaluate_sae, load_sae

    sae = load_sae(path, device)
    check_weights(sae, str(path))
    alive, quality = pointing_rows(sae.W_dec), None
    if rows is not None:
        if sae.transcodes:
            raise HusaiError(
                f"{path}: a transcoder ({sae.d_in} -> {sae.d_out}) cannot be evaluated on the "
                "rows of one hook; leave rows out"
            )
        measured = evaluate_sae(sae, rows)
        quality = {name: float(measured[name]) for name in QUALITY}
        alive &= measured["alive"].cpu()
    elif not bool(alive.all()) and not drop_zero_rows:
        count, first = int((~alive).sum()), int((~alive).nonzero()[0])
        raise HusaiError(
            f"{path}: {count} of {sae.d_sae} decoder rows are zero (first: row {first}) and have no "
            "direction; leave them out with --drop-zero-rows, or give held-out rows (--activations) "
            "so that dead latents are left out"
        )
    if not bool(alive.any()):
        silent = rows is not None
        why = "fire on none of the rows given" if silent else "have a decoder row of length zero"
        raise HusaiError(f"{path}: all {sae.d_sae} latents {why}; there is nothing to compare")
    seed = usable_seed(sae.cfg.get("seed"))
    return Compared(path, sae, seed, _digest(sae), alive, quality)


def _digest(sae) -> str:
    digest = hashlib.sha256()
    for matrix in (sae.W_enc, sae.W_dec):
        digest.update(matrix.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check_widths(brought: list[Compared]) -> None:
    first = brought[0]
    for other in brought[1:]:
        if first.sae.transcodes != other.sae.transcodes:
            one, two = (first, other) if first.sae.transcodes else (other, first)
            raise HusaiError(
                f"{one.path} is a transcoder and {two.path} an SAE; their decoders write to "
                "different hooks and cannot be compared"
            )
        if (first.sae.d_in, first.sae.d_out) != (other.sae.d_in, other.sae.d_out):
            raise HusaiError(
                f"{first.path} (d_in {first.sae.d_in}, d_out {first.sae.d_out}) and {other.path} "
                f"(d_in {other.sae.d_in}, d_out {other.sae.d_out}) belong to different spaces; "
                "compare SAEs of one hook"
            )


def _flags(brought: list[Compared], pwmcc: torch.Tensor) -> list[dict[str, Any]]:
    """Pairs that are no reproduction of each other, with the reason."""
    found = []
    for (i, a), (j, b) in combinations(enumerate(brought), 2):
        if a.digest == b.digest:
            reason = "identical weights"
        elif float(pwmcc[i, j]) >= CLONE and len(a.alive) == len(b.alive):
            reason = "the same decoder up to order and sign of rows"
        elif a.seed is not None and a.seed == b.seed:
            reason = f"the same seed ({a.seed})"
        else:
            continue
        found.append({"a": i, "b": j, "reason": reason})
    return found


def _kin(same_index: torch.Tensor, independent: list[int]) -> list[dict[str, int]]:
    """Pairs that agree row by row, with the number of such rows: changed copies, or one start."""
    limit = coincidence_limit(len(same_index))
    pairs = [(i, j, int(same_index[i, j])) for i, j in combinations(independent, 2)]
    return [{"a": i, "b": j, "rows": rows} for i, j, rows in pairs if rows >= limit]


def _independent(n: int, flags: list[dict[str, Any]]) -> list[int]:
    """The first SAE of every group that flags connect."""
    group = list(range(n))
    for flag in flags:
        low, high = sorted((group[flag["a"]], group[flag["b"]]))
        group = [low if g == high else g for g in group]
    return sorted(set(group))


def _nulls(brought: list[Compared], rows, device) -> tuple[dict[str, NullResult], dict[str, str]]:
    """Every null that can be measured for these SAEs, and why the others cannot."""
    d_out, sizes = brought[0].sae.d_out, [b.sae.d_sae for b in brought]
    sizes = sizes if len(sizes) > 1 else sizes * 2
    n = len(sizes)
    gaussian = null_pwmcc(d_out, sizes[0], n, sizes=sizes, device=device)
    nulls = {"gaussian": random_null(gaussian, sizes, d_out, None, device)}
    unavailable = {}
    if rows is None:
        unavailable |= dict.fromkeys(
            ("covariance", "crowding"),
            "needs activations, whose directions it uses; give held-out rows (--activations)",
        )
    else:
        covariance = activation_covariance(rows)
        drawn = null_pwmcc(
            d_out, sizes[0], n, "covariance", covariance=covariance, sizes=sizes, device=device
        )
        nulls["covariance"] = random_null(drawn, sizes, d_out, covariance, device)
        twice = brought if len(brought) > 1 else brought * 2
        nulls["crowding"] = crowding_null(
            [b.sae.W_dec for b in twice], [b.alive for b in twice], covariance, device
        )
    initial = [initial_of(b.sae) for b in brought]
    if len(brought) > 1 and all(d is not None for d in initial):
        nulls["init"] = null_pwmcc(d_out, sizes[0], n, "init", decoders=initial, device=device)
    else:
        unavailable["init"] = (
            "needs SAEs that HUSAI trained, whose initialisation is known; use gaussian"
        )
    return nulls, unavailable


def _summary(
    matrix: torch.Tensor, independent: list[int], null: NullResult | None = None
) -> Metric:
    """Mean over independent pairs with its interval, corrected for chance when a null is given."""
    if len(independent) < 2:
        return Metric(math.nan, -math.inf, math.inf, len(independent), "no independent pair")
    chosen = matrix[independent][:, independent]
    return jackknife_t(chosen.numpy()) if null is None else s_of(chosen, null)


def _record(brought, matrices, flags, independent, nulls, unavailable, chosen) -> dict[str, Any]:
    intervals = {name: _summary(matrix, independent) for name, matrix in matrices.items()}
    intervals["S"] = _summary(matrices["pwmcc"], independent, chosen)
    shape = ("architecture", "d_in", "d_sae", "d_out")
    saes = [
        {
            "path": str(b.path),
            "format": b.sae.cfg.get("format", "husai"),
            **{name: getattr(b.sae, name) for name in shape},
            "seed": b.seed,
            **place(b.sae.cfg),
            "living": int(b.alive.sum()),
            "weights_sha256": b.digest,
            **(b.quality or {}),
        }
        for b in brought
    ]
    return {
        "schema": SCHEMA,
        "saes": saes,
        "pairwise": {name: matrix.tolist() for name, matrix in matrices.items()},
        "flags": flags,
        "independent": independent,
        "nulls": {kind: null._asdict() for kind, null in nulls.items()},
        "nulls_unavailable": unavailable,
        "null": chosen.kind,
        "metrics": intervals,
        "assessable": assessable(chosen),
        "verdict": verdict(intervals["S"], intervals["shared_fraction"], chosen),
    }
