"""The page of ``husai passport``: the SAE it shows, with the texts in which its latents fire."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from husai import provenance
from husai.errors import HusaiError

PAGE_BINS = 24
"""Bars of a latent's histogram on the page."""
TEXTS = 2048
"""Held-out texts in which the page's excerpts are looked for: on two cores a minute of a small
encoder, and a latent that fires in none of them is rare indeed."""


def quoted_texts(sae, name: str, model, split: str, per_latent: int, device) -> dict[str, Any]:
    """Excerpts of held-out text for the page, and where the text comes from.

    Raises
    ------
    HusaiError
        The SAE's notes do not say its hook.
    """
    from husai.subjects import load_subject
    from husai.subjects.excerpts import excerpts, text_source
    from husai.subjects.rows import held_out_texts

    subject = load_subject(model, device)
    hook = sae.cfg.get("hook_name")
    if hook is None:
        raise HusaiError(
            f"{name}: does not say its hook, so no text can be run for it; omit --model"
        )
    tokens, _ = held_out_texts(subject, provenance.folder(model), split, TEXTS)
    found = excerpts(subject, hook, sae.encode, tokens, per_latent=per_latent)
    return {"contexts": found, "text_source": text_source(subject.config)}


def write_passport_page(path: Path, found, sae, shown: int, rows, record, report, quoted) -> None:
    """The page of one SAE, with links to the gate report where its address is given."""
    from husai.passport.page import write_page
    from husai.stability.firing import activation_histograms

    table, histograms = found.tables[shown], None
    if rows is not None:
        histograms = activation_histograms(sae, rows, table.max_activation, PAGE_BINS)
    facts = {
        "subject": record["subject"],
        "hook": record["hook_name"],
        "recipe": record["recipe"],
        "held-out rows": found.n_rows,
        "expected share of false certificates": f"at most {found.fdr:.0%}",
        "remarks": " ".join(found.remarks) or None,
    }
    facts = {name: value for name, value in facts.items() if value}
    title = f"Passports of {record['recipe'] or 'an SAE'}, {table.name}"
    write_page(
        path,
        table,
        title=title,
        bar=found.bar,
        facts=facts,
        histograms=histograms,
        links={"Gate report": report} if report else {},
        **quoted,
    )
