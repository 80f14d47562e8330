"""One offline page on which the passports of an SAE can be sorted, filtered, searched and read."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from husai.errors import HusaiError
from husai.passport.posterior import BAR
from husai.passport.table import PER_MATCH, LatentTable
from husai.provenance import finite, write_text

TEMPLATE, PROGRAM = (Path(__file__).with_name(f"page.{kind}") for kind in ("html", "js"))
COLUMNS = (
    "certified",
    "alive",
    "reappearances",
    "theta",
    "theta_low",
    "theta_high",
    "doubt",
    "fdr",
    "p_value",
    "density",
    "mean_activation",
    "max_activation",
    "variance_share",
)
"""Columns of the page, one number per latent."""
LEVELS = 255
"""Heights of a histogram are drawn, not read: one byte each keeps 16384 latents under half a
megabyte."""


def passport_page(
    table: LatentTable,
    *,
    title: str,
    bar: float = BAR,
    facts: Mapping[str, Any] | None = None,
    histograms: torch.Tensor | None = None,
    contexts: Mapping[int, Sequence[Mapping[str, Any]]] | None = None,
    text_source: str | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """The page as HTML, with its data, styles and program inside: it opens without a network.

    Parameters
    ----------
    table : LatentTable
    title : str
        Heading, for example the recipe and the seed.
    bar : float
        Theta from which latents were certified.
    facts : mapping or None
        Names and values shown under the heading: subject, hook, recipe, verdict, hashes.
    histograms : int Tensor (d_sae, bins) or None
        See :func:`husai.stability.firing.activation_histograms`.
    contexts : mapping or None
        ``{latent: [{"tokens": [str, ...], "activations": [float, ...]}, ...]}``, strongest first.
    text_source : str or None
        Where the contexts come from, with its licence; required with contexts.
    links : mapping or None
        ``{text: address}``, for example to the gate report.

    Raises
    ------
    HusaiError
        Histograms of another number of latents, or contexts without their source.
    """
    if histograms is not None and len(histograms) != table.d_sae:
        raise HusaiError(f"passport page: {len(histograms)} histograms for {table.d_sae} latents")
    if contexts and not text_source:
        raise HusaiError(
            "passport page: contexts quote a text; name it and its licence in text_source"
        )
    columns = table.columns()
    data = {
        "title": title,
        "facts": {str(k): v for k, v in (facts or {}).items()},
        "links": dict(links or {}),
        "text_source": text_source,
        "d_sae": table.d_sae,
        "bar": bar,
        "others": list(table.others),
        "summary": table.summary(),
        "columns": {name: _packed(columns[name]) for name in COLUMNS},
        "per_match": {name: _packed(getattr(table, name).numpy()) for name in PER_MATCH},
        "histograms": None if histograms is None else _drawn(histograms),
        "bins": 0 if histograms is None else int(histograms.shape[1]),
    }
    quoted = {str(latent): list(found) for latent, found in (contexts or {}).items()}
    parts = {
        "/*PROGRAM*/": PROGRAM.read_text(encoding="utf-8"),
        "/*DATA*/null": _script(data),
        "/*CONTEXTS*/{}": _script(quoted),
    }
    places = "|".join(map(re.escape, parts))  # in one pass: what is filled in is not looked at
    template = TEMPLATE.read_text(encoding="utf-8")
    return re.sub(places, lambda found: parts[found.group()], template)


def write_page(path: str | Path, table: LatentTable, **fields: Any) -> None:
    """Write :func:`passport_page` to ``path``."""
    write_text(path, passport_page(table, **fields))


def _packed(values: np.ndarray) -> str:
    """Little-endian float32, row by row, as base64: read by the page without parsing numbers."""
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()


def _drawn(histograms: torch.Tensor) -> str:
    """Heights of each histogram against its highest bar, one byte each, as base64."""
    top = histograms.amax(1, keepdim=True).clamp_min(1)
    heights = (histograms.double() / top * LEVELS).ceil()
    return base64.b64encode(heights.to(torch.uint8).numpy().tobytes()).decode()


def _script(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(finite(value), allow_nan=False, ensure_ascii=False)
    for unsafe, safe in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        text = text.replace(unsafe, safe)
    return text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
