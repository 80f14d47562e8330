"""What is lost on each text when a model's output changes: cross-entropy and KL of the next token,
squared distance of embeddings, or cross-entropy of the answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Losses = dict[str, torch.Tensor]
"""``{"loss": (B,)}``, of a causal model also ``"kl"``: per text, in nats or squared distance."""


def loss_above(
    task: str, clean: torch.Tensor, tokens: torch.Tensor, answers: torch.Tensor | None
) -> Callable[[torch.Tensor], Losses]:
    """A function from a changed output to its losses above the clean one, per text.

    Parameters
    ----------
    task : {"next_token", "embedding", "answer"}
        See :meth:`husai.subjects.Subject.output`.
    clean : Tensor
        Output of the untouched model for ``tokens``.
    tokens : Tensor (B, T)
        Ids below 0 are padding and predict nothing.
    answers : Tensor (B,) or None
        Right answers, for ``answer``.
    """
    if task == "embedding":
        return lambda out: {"loss": (out - clean).square().sum(-1)}
    if task == "answer":
        right = answers.to(clean.device)
        before = F.cross_entropy(clean, right, reduction="none")
        return lambda out: {"loss": F.cross_entropy(out, right, reduction="none") - before}
    return _next_token(clean, tokens.to(clean.device))


def _next_token(clean: torch.Tensor, tokens: torch.Tensor) -> Callable[[torch.Tensor], Losses]:
    """Sums over the predicted tokens of each text."""
    targets = tokens[:, 1:]
    real, targets = targets >= 0, targets.clamp(min=0)
    log_clean = clean[:, :-1].log_softmax(-1)

    def of_targets(logs: torch.Tensor) -> torch.Tensor:
        return (-logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)).masked_fill(~real, 0.0).sum(1)

    before = of_targets(log_clean)

    def losses(out: torch.Tensor) -> Losses:
        logs = out[:, :-1].log_softmax(-1)
        divergence = F.kl_div(logs, log_clean, reduction="none", log_target=True).sum(-1)
        kl = divergence.masked_fill(~real, 0.0).sum(1)
        return {"loss": of_targets(logs) - before, "kl": kl}

    return losses
