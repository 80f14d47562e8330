"""Names of architectures, and what makes the fields of a recipe unsound."""

from __future__ import annotations

BATCH_TOP_K = ("batchtopk", "matryoshka")
"""Trained with the k*B largest pre-activations of a batch; exported with one threshold."""
FIXED_K = ("topk", *BATCH_TOP_K, "transcoder")
ARCHITECTURES = ("topk", *BATCH_TOP_K, "relu", "jumprelu", "transcoder")
READ_ONLY = ("abstopk", "matching_pursuit")
"""Architectures of SAEs that are read and compared, but not trained here."""
CALIBRATED = "calibrated"
MATCHED = "matched"


def recipe_problems(r: dict) -> list[str]:
    """Everything wrong with the fields of a recipe, as readable phrases; empty when it is sound."""
    out = []
    known = (*ARCHITECTURES, *READ_ONLY) if r["brought"] else ARCHITECTURES
    if r["architecture"] not in known:
        return [f"architecture '{r['architecture']}' is not one of {', '.join(known)}"]
    if MATCHED in (r["d_sae"], r["k"]):
        together = r["d_sae"] == r["k"] == MATCHED and r["architecture"] in FIXED_K
        return [] if together else ["width and k are matched together, for TopK only"]
    if not isinstance(r["d_sae"], int) or r["d_sae"] < 1:
        return [f"d_sae must be a positive integer, got {r['d_sae']!r}"]
    if r["brought"] and not (r["content"] and isinstance(r["l0_target"], (int, float))):
        return ["a brought SAE needs the hash of its files and its measured L0"]
    if r["architecture"] in FIXED_K:
        k = r["k"]
        if k != CALIBRATED and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
            out.append(f"k must be a positive integer or 'calibrated', got {k!r}")
        elif k != CALIBRATED and k > r["d_sae"]:
            out.append(f"k = {k} is larger than d_sae = {r['d_sae']}")
    elif r["l0_target"] is None and r["sparsity_coefficient"] is None:
        out.append("needs l0_target or sparsity_coefficient")
    if isinstance(r["l0_target"], (int, float)) and not 0 < r["l0_target"] <= r["d_sae"]:
        out.append(f"l0_target must be in (0, d_sae], got {r['l0_target']}")
    return [*out, *_optimisation(r), *_options(r), *_kind(r)]


def _optimisation(r: dict) -> list[str]:
    out = []
    for name in ("steps", "batch_size", "consistency_interval"):
        if not isinstance(r[name], int) or r[name] < 1:
            out.append(f"{name} must be a positive integer, got {r[name]!r}")
    if not isinstance(r["learning_rate"], (int, float)) or not r["learning_rate"] > 0:
        out.append(f"learning_rate must be a positive number, got {r['learning_rate']!r}")
    if r["consistency_weight"] < 0:
        out.append(f"consistency_weight must be >= 0, got {r['consistency_weight']}")
    if r["consistency_weight"] and r["reference_seed"] is None:
        out.append("a consistency objective needs reference_seed")
    if r["b_dec_init"] not in ("geometric_median", "mean", "zero"):
        out.append(f"b_dec_init '{r['b_dec_init']}' is not geometric_median, mean or zero")
    return out


def _options(r: dict) -> list[str]:
    out = []
    if r["weight_decay"] < 0:
        out.append(f"weight_decay must be >= 0, got {r['weight_decay']}")
    if not 0 <= r["soft_frozen"] < 1:
        out.append(f"soft_frozen is a cosine in [0, 1), got {r['soft_frozen']}")
    if r["frozen_encoder"] and (r["aligned"] or r["weight_decay"]):
        out.append("a frozen encoder can be neither aligned nor decayed")
    if r["frozen_decoder"] and (r["frozen_encoder"] or r["soft_frozen"]):
        out.append("a frozen decoder leaves no frozen_encoder or soft_frozen beside it")
    if r["architecture"] == "transcoder" and (r["aligned"] or r["whitening"]):
        out.append("aligned and whitening need one space, and a transcoder has two")
    if r["whitening"] and r["consistency_weight"]:
        out.append("whitening leaves no reference decoder of raw rows to align to")
    return out


def _kind(r: dict) -> list[str]:
    """What belongs to consensus SAEs and to transcoders."""
    out = []
    plain = not (r["frozen_decoder"] or r["consistency_weight"] or r["target_hook_name"])
    sized = r["consensus_members"] >= 2 and r["consensus_d_sae"] >= 1
    aimed = r["k"] is not None or r["l0_target"] is not None
    shared = 0 < r["consensus_min_share"] <= 1
    if r["consensus_members"] and not (plain and sized and aimed and shared):
        out.append(
            "a consensus needs 2 members or more, their width, a min_share in (0, 1], k or "
            "l0_target, and plain members of one hook"
        )
    if (r["architecture"] == "transcoder") != (r["target_hook_name"] is not None):
        out.append("target_hook_name belongs to, and is needed by, architecture transcoder")
    return out
