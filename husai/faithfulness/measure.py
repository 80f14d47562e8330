"""Splicing reconstructions into a subject at their hook, many SAEs at once, and measuring what is
lost on held-out text against the clean model and against the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from husai.errors import HusaiError
from husai.evidence import Metric
from husai.faithfulness.losses import loss_above
from husai.progress import Progress
from husai.statistics.recovered import recovered_interval
from husai.subjects import Subject

Reconstruct = Callable[[torch.Tensor], torch.Tensor]
"""Rows ``(n, d)`` to their reconstructions ``(n, d)``: an SAE, or any function."""
TOKENS_PER_PASS = 16_384
"""Tokens of one forward pass, all variants together: few enough for the memory of a small machine
(MiniLM: 0.4 GB), enough to keep its cores busy."""
LOGITS_PER_PASS = 2**27
"""Numbers in the logits of one pass (512 MB): a vocabulary of 50,000 bounds a pass before its
tokens do."""


class Faithfulness(NamedTuple):
    """What one SAE costs the subject; :func:`husai.statistics.recovered_interval` gives
    ``recovered`` again from the values per text.
    """

    recovered: Metric
    """``1 - loss(spliced) / loss(mean-ablated)``, with its interval over texts."""
    texts: dict[str, np.ndarray]
    """Per text, float64 ``(n_texts,)``: ``spliced`` and ``ablated``, losses above the clean model;
    ``tokens``, positions replaced; of a causal model also ``kl_spliced`` and ``kl_ablated``."""


def recovered(
    subject: Subject,
    hook_name: str,
    saes: Sequence[Reconstruct],
    tokens: torch.Tensor,
    *,
    answers: torch.Tensor | None = None,
    label: str = "faithfulness",
) -> list[Faithfulness]:
    """How much of the subject's function survives each SAE.

    The reconstruction takes the place of the activations at ``hook_name`` at every position that
    SAEs are trained on (``subject.usable``); the other positions keep their own. The loss, above
    that of the clean model, is by the subject's task the cross-entropy of the next token (nats,
    summed over a text; with the KL divergence from the clean model beside it), the squared
    distance of the normalised mean-pooled output, or the cross-entropy of the answer. The ablation
    puts the mean over the replaced positions in their place.

    Parameters
    ----------
    saes : sequence of callables ``(n, d) -> (n, d)``
    tokens : Tensor (n_texts, T)
        Held-out token ids; below 0 is padding.
    answers : Tensor (n_texts,), optional
        Right answers of a modular subject.
    label : str
        What the progress bar calls the work.

    Returns
    -------
    list of Faithfulness
        One per SAE, in order.

    Raises
    ------
    HusaiError
        No text, a hook the subject lacks, answers missing, or a reconstruction of another width or
        with NaN.

    References
    ----------
    SAEBench's core evaluation (Karvonen et al. 2503.09532) reports the same for causal models,
    against zero ablation. The mean is the stricter reference.
    """
    if not len(tokens) or not len(saes):
        raise HusaiError("faithfulness: needs at least one text and one SAE")
    if subject.task == "answer" and answers is None:
        raise HusaiError(f"faithfulness: subject '{subject.name}' needs the right answers")
    subject.check_hooks([hook_name])
    mean = _mean_activation(subject, hook_name, tokens)
    variants = [lambda rows: mean.to(rows).expand_as(rows), *saes]
    per_text = [{} for _ in variants]
    progress = Progress(len(tokens), f"{label}: texts")
    for rows, width in _batches(subject, (tokens >= 0).sum(1), len(variants)):
        right = None if answers is None else answers[rows]
        for number, losses in _spliced(subject, hook_name, variants, tokens[rows, :width], right):
            for name, values in losses.items():
                per_text[number].setdefault(name, np.zeros(len(tokens)))[rows] = values.cpu()
        progress.update(len(rows))
    replaced = subject.usable(tokens).sum(1).double().numpy()
    ablated, *spliced = per_text
    return [_result(of_sae, ablated, replaced) for of_sae in spliced]


def _result(spliced: dict, ablated: dict, replaced: np.ndarray) -> Faithfulness:
    texts = {"spliced": spliced["loss"], "ablated": ablated["loss"], "tokens": replaced}
    if "kl" in spliced:
        texts |= {"kl_spliced": spliced["kl"], "kl_ablated": ablated["kl"]}
    return Faithfulness(recovered_interval(spliced["loss"], ablated["loss"]), texts)


def _spliced(
    subject: Subject,
    hook_name: str,
    variants: Sequence[Reconstruct],
    tokens: torch.Tensor,
    answers: torch.Tensor | None,
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """``(variant, losses per text)`` for one batch; as many variants share a pass as fit."""
    where = subject.usable(tokens)
    losses = loss_above(subject.task, subject.output(tokens), tokens, answers)
    at_once = max(1, _budget(subject, tokens.shape[1]) // len(tokens))
    for first in range(0, len(variants), at_once):
        group = variants[first : first + at_once]

        def replace(values: torch.Tensor, group=group) -> torch.Tensor:
            mask = where.to(values.device)
            out = []
            for reconstruct, own in zip(group, values.chunk(len(group)), strict=True):
                rows = own[mask]
                out.append(own.masked_scatter(mask.unsqueeze(-1), _checked(reconstruct, rows)))
            return torch.cat(out)

        output = subject.output(tokens.repeat(len(group), 1), hook_name, replace)
        for number, of_one in enumerate(output.chunk(len(group)), first):
            yield number, losses(of_one)


def _checked(reconstruct: Reconstruct, rows: torch.Tensor) -> torch.Tensor:
    """Reconstructions of ``rows``, float32, that can take their place."""
    out = reconstruct(rows)
    if out.shape != rows.shape:
        raise HusaiError(
            f"faithfulness: a reconstruction has shape {tuple(out.shape)}, the activations "
            f"{tuple(rows.shape)}; only an SAE of this hook can be spliced in (no transcoder)"
        )
    out = out.to(rows)
    if not bool(torch.isfinite(out).all()):
        raise HusaiError("faithfulness: a reconstruction holds NaN or infinite values")
    return out


def _budget(subject: Subject, width: int) -> int:
    """Texts of ``width`` tokens that one forward pass may hold."""
    texts = TOKENS_PER_PASS // width
    if subject.task == "next_token":
        texts = min(texts, LOGITS_PER_PASS // (width * int(subject.model.cfg.d_vocab)))
    return max(1, texts)


def _batches(
    subject: Subject, lengths: torch.Tensor, n_variants: int
) -> Iterator[tuple[torch.Tensor, int]]:
    """Numbers of texts, longest first, and the tokens of the longest; all variants of a batch fit
    one forward pass where they can."""
    order = lengths.argsort(descending=True, stable=True)
    while len(order):
        width = max(1, int(lengths[order[0]]))
        count = max(1, _budget(subject, width) // n_variants)
        yield order[:count], width
        order = order[count:]


def _mean_activation(subject: Subject, hook_name: str, tokens: torch.Tensor) -> torch.Tensor:
    """Mean over the positions that are replaced, float32 ``(d,)``."""
    total, n = 0.0, 0
    for batch in tokens.split(max(1, TOKENS_PER_PASS // tokens.shape[1])):
        values = subject.capture(batch, [hook_name])[hook_name]
        rows = values[subject.usable(batch).to(values.device)]
        total, n = total + rows.sum(0, dtype=torch.float64), n + len(rows)
    if not n:
        raise HusaiError("faithfulness: the texts hold no token that an SAE is trained on")
    return (total / n).float()
