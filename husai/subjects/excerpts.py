"""Where the latents of an SAE fire most: the strongest excerpts of held-out text, token by
token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import metadata
from typing import Any, NamedTuple

import torch

from husai.errors import HusaiError
from husai.subjects.subject import Subject

BEFORE, AFTER = 15, 8
"""Tokens shown on either side of the strongest: enough to read what it is about; more would make
the page of a wide SAE slow to open."""
CODE_NUMBERS = 2**25
"""Numbers in the codes of one pass (128 MB)."""


class Peaks(NamedTuple):
    """The strongest texts of every latent, each ``(per_latent, d_sae)``, strongest first."""

    value: torch.Tensor
    """Largest activation in the text; 0 where the latent fires in fewer texts."""
    text: torch.Tensor
    position: torch.Tensor


@torch.no_grad()
def excerpts(
    subject: Subject,
    hook_name: str,
    encode: Callable[[torch.Tensor], torch.Tensor],
    tokens: torch.Tensor,
    *,
    per_latent: int = 4,
) -> dict[int, list[dict[str, list]]]:
    """The texts in which each latent fires most, cut around its largest activation.

    Parameters
    ----------
    encode : callable
        Rows ``(n, d)`` to codes ``(n, d_sae)``.
    tokens : Tensor (n_texts, T)
        Token ids; below 0 is padding.
    per_latent : int
        Excerpts of one latent at most, each from a text of its own.

    Returns
    -------
    dict
        ``{latent: [{"tokens": [str, ...], "activations": [float, ...]}, ...]}``, strongest first;
        a latent that fires in none of the texts is left out. Positions that SAEs are not trained
        on (``subject.usable``) count as 0.

    Raises
    ------
    HusaiError
        A subject that reads no text, or a hook it lacks.
    """
    if subject.tokenizer is None:
        raise HusaiError(f"subject '{subject.name}': reads numbers; there is no text to quote")
    peaks = _peaks(subject, hook_name, encode, tokens, per_latent)
    place, latent = (peaks.value > 0).nonzero(as_tuple=True)
    wanted: dict[int, list[tuple[int, int]]] = {}
    for k, i, text in zip(
        place.tolist(), latent.tolist(), peaks.text[place, latent].tolist(), strict=True
    ):
        wanted.setdefault(text, []).append((k, i))
    chosen = torch.tensor(sorted(wanted), dtype=torch.int64)
    found: dict[int, dict[int, dict[str, list]]] = {}
    for rows, codes in _codes(subject, hook_name, encode, tokens[chosen]):
        for row, code in zip(chosen[rows].tolist(), codes, strict=True):
            words = pieces(subject, tokens[row][tokens[row] >= 0].tolist())
            for k, i in wanted[row]:
                at = int(peaks.position[k, i])
                cut = slice(max(0, at - BEFORE), at + AFTER + 1)
                values = code[cut, i].tolist()[: len(words[cut])]
                found.setdefault(i, {})[k] = {
                    "tokens": words[cut],
                    "activations": [float(f"{value:.3g}") for value in values],
                }
    return {i: [found[i][k] for k in sorted(found[i])] for i in sorted(found)}


def _peaks(subject, hook_name, encode, tokens: torch.Tensor, per_latent: int) -> Peaks:
    best: Peaks | None = None
    for rows, codes in _codes(subject, hook_name, encode, tokens):
        value, position = codes.max(1)
        new = Peaks(value, torch.tensor(rows)[:, None].expand_as(position), position)
        both = new if best is None else Peaks(*map(torch.cat, zip(best, new, strict=True)))
        order = both.value.topk(min(per_latent, len(both.value)), dim=0).indices
        best = Peaks(*(part.gather(0, order) for part in both))
    if best is None:
        raise HusaiError(f"subject '{subject.name}': no text to look for contexts in")
    return best


def _codes(subject: Subject, hook_name: str, encode, tokens: torch.Tensor):
    """Numbers of the texts of a pass and their codes ``(B, T, d_sae)`` on the CPU."""
    if not len(tokens):
        return
    one = encode(torch.zeros((1, subject.width(hook_name)), device=subject.device))
    texts = max(1, CODE_NUMBERS // (one.shape[1] * subject.n_ctx))
    ids = [row[row >= 0].numpy() for row in tokens]
    for rows, lengths, values in subject.passes(ids, [hook_name], texts):
        width = max(lengths)
        codes = encode(values[hook_name].flatten(0, 1)).float().unflatten(0, (len(rows), -1))
        usable = subject.usable(tokens[rows][:, :width]).to(codes.device)
        yield rows, codes.masked_fill(~usable.unsqueeze(-1), 0.0).cpu()


def pieces(subject: Subject, ids: list[int]) -> list[str]:
    """The text of each token as it reads behind the one before it; special tokens are empty."""
    out, before = [], []
    for token in ids:
        joined = subject.tokenizer.decode([*before, token])
        alone = subject.tokenizer.decode(before) if before else ""
        special = token in subject.special.ids
        plain = subject.tokenizer.decode([token])
        out.append("" if special else joined[len(alone) :] if joined.startswith(alone) else plain)
        before = [] if special else [token]
    return out


def text_source(config: Mapping[str, Any]) -> str:
    """Where the text of a subject comes from, with what is known of its licence.

    Parameters
    ----------
    config : mapping
        A subject's ``config.json``.
    """
    sources = config.get("spec", {}).get("corpus", {}).get("sources") or [{"kind": "probing"}]
    return "; ".join(_named(source) for source in sources)


def _named(source: Mapping[str, Any]) -> str:
    if source["kind"] == "probing":
        about = metadata("sae-probes")
        return (
            f"probing data sets shipped in sae-probes {about['Version']} (licence of the package: "
            f"{about.get('License-Expression') or about.get('License') or 'not stated'})"
        )
    name = source.get("name") or ", ".join(source.get("paths", []))
    return f"{name} (licence: {source.get('licence') or 'not stated'})"
