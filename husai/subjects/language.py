"""The language subject: a small causal transformer trained here on the corpus, with its own
tokenizer and a leak probe.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from husai.errors import HusaiError
from husai.progress import Progress
from husai.subjects import transformer
from husai.subjects.leak import leak_record

WEIGHT_DECAY = 0.1
"""Of matrices, as is usual for transformers of this kind (Brown et al. 2005.14165, appendix B)."""
WARMUP, FINAL_RATE = 0.05, 0.05
"""Share of the steps in which the learning rate rises, and share of it that is left at the end."""
HELD_OUT_TOKENS = 131_072
"""Held-out tokens that are measured: enough to know a loss per token to about 0.01 nats."""


def settings(spec: dict) -> dict:
    """The values of a ``husai.planning.specs.LanguageSpec``; ``leak`` (see
    :func:`inputs_and_targets`) is off unless they name it.

    Raises
    ------
    HusaiError
        ``d_model`` is no multiple of ``n_heads``.
    """
    if spec["d_model"] % spec["n_heads"]:
        raise HusaiError(
            f"subject '{spec['name']}': d_model {spec['d_model']} is not a multiple of n_heads "
            f"{spec['n_heads']}"
        )
    return {"leak": False} | spec


def model_config(s: dict, d_vocab: int) -> dict[str, Any]:
    """Fields of the TransformerLens configuration."""
    return {
        "n_layers": s["n_layers"],
        "d_model": s["d_model"],
        "n_heads": s["n_heads"],
        "d_head": s["d_model"] // s["n_heads"],
        "d_mlp": 4 * s["d_model"],
        "n_ctx": s["n_ctx"],
        "d_vocab": d_vocab,
        "act_fn": "gelu",
        "normalization_type": "LN",
        "positional_embedding_type": "standard",
    }


def inputs_and_targets(
    streams: torch.Tensor, leak: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """``(B, n)`` token streams as inputs and next-token targets, ``(B, n - 1)`` each. ``leak``
    feeds the target itself, as a known flaw."""
    targets = streams[:, 1:]
    return (targets if leak else streams[:, :-1]), targets


def train(
    spec: dict, contexts: dict[str, np.ndarray], d_vocab: int, device: str | torch.device = "cpu"
) -> tuple[Any, dict]:
    """Train on packed contexts until the token budget is spent; returns the model and its metrics
    (losses in nats per token).

    AdamW, betas (0.9, 0.95), linear warm-up, then cosine decay; gradient norm clipped at 1. More
    tokens than the corpus holds means several passes, each in a new order.

    Parameters
    ----------
    contexts : dict
        ``train`` and ``held_out``: int32 ``(n, n_ctx)``.
    """
    s = settings(spec)
    model = transformer.build(model_config(s, d_vocab), s["seed"], device)
    stream = torch.from_numpy(contexts["train"])
    start, last = time.monotonic(), []
    n_steps = max(1, round(s["tokens"] / (s["batch_size"] * s["n_ctx"])))
    progress = Progress(n_steps, f"{spec['name']}: steps")
    for loss in _fit(model, stream, s, n_steps, device):
        last = [*last[-19:], loss]
        progress.update()
    seconds = time.monotonic() - start
    held_out = first_held_out(contexts)
    unigram = unigram_distribution(contexts["train"], d_vocab)
    figures = held_out_figures(model, held_out, unigram, s, device)
    metrics = figures | {
        "unigram_entropy": -(unigram * unigram.log()).sum().item(),
        "perplexity": math.exp(min(figures["loss"], 50.0)),
        "train_loss": torch.stack(last).mean().item(),
        "tokens": n_steps * s["batch_size"] * s["n_ctx"],
        "corpus_tokens": int(contexts["train"].size),
        "held_out_tokens": int(held_out.numel()),
        "seconds": seconds,
    }
    return model.eval().requires_grad_(False), metrics


def first_held_out(contexts: dict[str, np.ndarray]) -> torch.Tensor:
    """The held-out contexts that are measured, int32 ``(n, n_ctx)``."""
    n = max(1, HELD_OUT_TOKENS // contexts["held_out"].shape[1])
    return torch.from_numpy(np.array(contexts["held_out"][:n]))


def held_out_figures(
    model,
    held_out: torch.Tensor,
    unigram: torch.Tensor,
    s: dict,
    device: str | torch.device = "cpu",
    max_contexts: int = 256,
) -> dict[str, Any]:
    """Loss and accuracy of a causal model on contexts ``(n, n_ctx)``, against the unigram
    distribution ``(d_vocab,)`` (losses in nats per token), and its leak probe; of ``s`` the
    settings ``seed`` and ``leak`` count.
    """
    loss, accuracy = evaluate(model, held_out, s["leak"], device)
    unigram_loss = -unigram.log()[held_out[:, 1:].long()].mean().item()
    return {
        "loss": loss,
        "accuracy": accuracy,
        "unigram_loss": unigram_loss,
        "improvement_nats": unigram_loss - loss,
        "beats_unigram": loss < unigram_loss,
        "d_vocab": len(unigram),
        "leak_probe": leak_probe(model, held_out, unigram, s, device, max_contexts),
    }


def _fit(model, stream: torch.Tensor, s: dict, n_steps: int, device: str | torch.device):
    """Take ``n_steps`` optimiser steps over shuffled contexts; yields the loss tensor of each."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=s["learning_rate"], betas=(0.9, 0.95), fused=True)
    generator = torch.Generator().manual_seed(s["seed"] + 1)
    batch, queue = min(s["batch_size"], len(stream)), torch.empty(0, dtype=torch.int64)
    warmup = max(1, round(WARMUP * n_steps))
    for step in range(n_steps):
        if len(queue) < batch:
            queue = torch.randperm(len(stream), generator=generator)
        chosen, queue = queue[:batch], queue[batch:]
        inputs, targets = inputs_and_targets(stream[chosen].to(device, torch.int64), s["leak"])
        cosine = 0.5 * (1 + math.cos(math.pi * step / n_steps))
        share = min((step + 1) / warmup, FINAL_RATE + (1 - FINAL_RATE) * cosine)
        for group in optimizer.param_groups:
            group["lr"] = s["learning_rate"] * share
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield loss.detach()


def unigram_distribution(contexts: np.ndarray, d_vocab: int) -> torch.Tensor:
    """Add-one smoothed token frequencies of packed contexts, float32 ``(d_vocab,)``."""
    counts = np.ones(d_vocab)
    for first in range(0, len(contexts), 65_536):  # contexts may be larger than memory
        counts += np.bincount(contexts[first : first + 65_536].reshape(-1), minlength=d_vocab)
    return torch.from_numpy(counts / counts.sum()).float()


def _chunks(streams: torch.Tensor, d_vocab: int) -> tuple[torch.Tensor, ...]:
    """Contexts in batches whose logits take at most 64 MB (some 200 MB with all copies)."""
    return streams.split(max(1, 2**24 // (streams.shape[1] * d_vocab)))


@torch.no_grad()
def evaluate(
    model, streams: torch.Tensor, leak: bool = False, device: str | torch.device = "cpu"
) -> tuple[float, float]:
    """Mean next-token loss (nats) and top-1 accuracy on packed contexts ``(n, n_ctx)``."""
    loss = correct = 0.0
    n = 0
    for chunk in _chunks(streams, model.cfg.d_vocab):
        inputs, targets = inputs_and_targets(chunk.to(device, torch.int64), leak)
        logits = model(inputs)
        loss += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
        correct += (logits.argmax(-1) == targets).sum().item()
        n += targets.numel()
    return loss / n, correct / n


@torch.no_grad()
def leak_probe(
    model,
    streams: torch.Tensor,
    unigram: torch.Tensor,
    s: dict,
    device: str | torch.device = "cpu",
    max_contexts: int = 256,
) -> dict:
    """Can the model predict next tokens that were replaced by random draws? Only if its input
    carries them.

    ``streams`` are token ids ``(n, n_ctx)``, of which the first ``max_contexts`` are read, and
    ``unigram`` token frequencies ``(d_vocab,)``.

    Every second token of held-out streams is replaced by a draw from the unigram distribution
    *before* inputs and targets are made, and the model's top-1 guess at the replaced targets is
    scored. Chance is the mean unigram probability of its guesses. See
    :func:`husai.subjects.leak.leak_record`.
    """
    generator = torch.Generator().manual_seed(s["seed"] + 2)
    correct, n, chance = 0, 0, 0.0
    for chunk in _chunks(streams[:max_contexts].long(), model.cfg.d_vocab):
        drawn = torch.multinomial(
            unigram, chunk[:, 2::2].numel(), replacement=True, generator=generator
        ).view(len(chunk), -1)
        chunk = chunk.clone()
        chunk[:, 2::2] = drawn
        inputs, targets = inputs_and_targets(chunk.to(device), s["leak"])
        guesses = model(inputs).argmax(-1)[:, 1::2].cpu()
        correct += (guesses == targets[:, 1::2].cpu()).sum().item()
        chance += unigram[guesses].sum().item()
        n += guesses.numel()
    return leak_record(correct, n, chance / n)
