"""The modular subject: a transformer trained on (a + b) mod p. Tokens are [a, b, =], read at "=";
the answer is never in the input.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from husai.errors import HusaiError
from husai.progress import Progress
from husai.subjects import transformer
from husai.subjects.leak import leak_record

WARMUP_STEPS, FINAL_RATE = 10, 0.05
"""Steps in which the learning rate rises, and share of it that is left after ``max_steps``."""
CHECK_EVERY = 10
"""Steps between two looks at the held-out accuracy."""
PROBE = {
    "d_model": 64,
    "n_layers": 1,
    "n_heads": 4,
    "d_mlp": 256,
    "max_steps": 80,
    "batch_size": 1024,
    "learning_rate": 3.0e-3,
    "weight_decay": 0.01,
}
"""Settings of the fresh model of the leak probe."""


class Pairs(NamedTuple):
    """All p*p pairs in a fixed order, and which of them are trained on."""

    a: torch.Tensor
    b: torch.Tensor
    answer: torch.Tensor
    train: torch.Tensor
    held_out: torch.Tensor


def settings(spec: dict) -> dict:
    """The values of a ``husai.planning.specs.ModularSpec``; ``leak`` (see :func:`tokens`) is off
    unless they name it.

    Raises
    ------
    HusaiError
        ``p`` is below 3.
    """
    if spec["p"] < 3:
        raise HusaiError(f"subject '{spec['name']}': p must be at least 3, got {spec['p']}")
    return {"leak": False} | spec


def pairs(p: int, train_fraction: float, seed: int) -> Pairs:
    """Every (a, b) in lexicographic order, (a + b) mod p of each, and a random train split."""
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(seed))
    n_train = min(max(1, round(train_fraction * p * p)), p * p - 1)
    return Pairs(a, b, (a + b) % p, order[:n_train], order[n_train:])


def tokens(
    a: torch.Tensor, b: torch.Tensor, answer: torch.Tensor, p: int, leak: bool
) -> torch.Tensor:
    """Model input, ``(n, 3)`` int64: a, b and "=" (id p). ``leak`` appends the answer and makes it
    the position read, as a known flaw.
    """
    columns = [a, b, torch.full_like(a, p)] + ([answer] if leak else [])
    return torch.stack(columns, dim=1)


def every_pair(spec: dict) -> tuple[dict, Pairs, torch.Tensor]:
    """Settings of a modular subject, its pairs, and their inputs ``(p * p, n_tokens)`` int64."""
    s = settings(spec)
    data = pairs(s["p"], s["train_fraction"], s["seed"])
    return s, data, tokens(data.a, data.b, data.answer, s["p"], s["leak"])


def model_config(s: dict) -> dict[str, Any]:
    """Fields of the TransformerLens configuration."""
    return {
        "n_layers": s["n_layers"],
        "d_model": s["d_model"],
        "n_heads": s["n_heads"],
        "d_head": s["d_model"] // s["n_heads"],
        "d_mlp": s["d_mlp"],
        "n_ctx": 4 if s["leak"] else 3,
        "d_vocab": s["p"] + 1,
        "d_vocab_out": s["p"],
        "act_fn": "relu",
        "normalization_type": None,
    }


def train(spec: dict, device: str | torch.device = "cpu") -> tuple[Any, dict]:
    """Train until held-out accuracy reaches the target; returns the model and its metrics.

    AdamW, betas (0.9, 0.98), full weight decay (Nanda et al. 2301.05217), linear warm-up, then
    linear decay over ``max_steps``. A target not reached within ``max_steps`` is a recorded result,
    ``reached_target`` false, not an error."""
    s, data, inputs = every_pair(spec)
    inputs, answers = inputs.to(device), data.answer.to(device)
    trained, held_out = data.train.to(device), data.held_out.to(device)
    model = transformer.build(model_config(s), s["seed"], device)
    start, checks = time.monotonic(), []
    progress = Progress(s["max_steps"], f"{spec['name']}: steps")
    for step in _fit(model, inputs, answers, trained, s):
        progress.update()
        if step % CHECK_EVERY == 0 or step == s["max_steps"]:
            accuracy, loss = evaluate(model, inputs[held_out], answers[held_out])
            checks.append({"step": step, "held_out_accuracy": accuracy, "held_out_loss": loss})
            if accuracy >= s["target_accuracy"]:
                break
    train_accuracy, _ = evaluate(model, inputs[trained], answers[trained])
    metrics = {
        "accuracy": accuracy,
        "loss": loss,
        "train_accuracy": train_accuracy,
        "steps": step,
        "seconds": time.monotonic() - start,
        "target_accuracy": s["target_accuracy"],
        "reached_target": accuracy >= s["target_accuracy"],
        "n_train": len(data.train),
        "n_held_out": len(data.held_out),
        "curve": checks,
        "leak_probe": leak_probe(model, s, data, device),
    }
    return model.eval().requires_grad_(False), metrics


def _fit(model, inputs: torch.Tensor, answers: torch.Tensor, rows: torch.Tensor, s: dict):
    """Take optimiser steps on ``rows``, epoch by epoch; yields the number of each, from 1."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=s["learning_rate"],
        weight_decay=s["weight_decay"],
        betas=(0.9, 0.98),
        fused=inputs.is_cuda or None,
    )
    generator = torch.Generator().manual_seed(s["seed"] + 1)
    batch, queue = min(s["batch_size"], len(rows)), torch.empty(0, dtype=torch.int64)
    for step in range(s["max_steps"]):
        if len(queue) < batch:
            queue = torch.randperm(len(rows), generator=generator)
        chosen, queue = rows[queue[:batch].to(rows.device)], queue[batch:]
        decay = 1 - (1 - FINAL_RATE) * step / s["max_steps"]
        warmup = (step + 1) / WARMUP_STEPS
        optimizer.param_groups[0]["lr"] = s["learning_rate"] * min(warmup, decay)
        loss = F.cross_entropy(end_logits(model, inputs[chosen]), answers[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        yield step + 1


def end_logits(model, inputs: torch.Tensor) -> torch.Tensor:
    """Logits at the last position only, ``(n, d_vocab_out)``: the same as ``model(inputs)[:, -1]``
    at a third of the cost.

    The last block needs queries and MLP at one position. Valid for the models built here (ReLU, no
    normalisation)."""
    resid = model(inputs, stop_at_layer=model.cfg.n_layers - 1)
    block, end = model.blocks[-1], resid[:, -1]
    attn, mlp, n, d = block.attn, block.mlp, len(resid), resid.shape[-1]
    n_heads, d_head = attn.W_Q.shape[0], attn.W_Q.shape[2]

    def project(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        flat = torch.addmm(bias.flatten(), x.reshape(-1, d), weight.permute(1, 0, 2).reshape(d, -1))
        return flat.view(n, -1, n_heads, d_head).transpose(1, 2)

    q, k, v = (
        project(x, getattr(attn, f"W_{c}"), getattr(attn, f"b_{c}"))
        for c, x in (("Q", end), ("K", resid), ("V", resid))
    )
    z = (q @ k.transpose(-1, -2) / attn.attn_scale).softmax(-1) @ v
    end = end + torch.addmm(attn.b_O, z.reshape(n, -1), attn.W_O.reshape(-1, d))
    end = end + torch.addmm(mlp.b_out, torch.relu(torch.addmm(mlp.b_in, end, mlp.W_in)), mlp.W_out)
    return torch.addmm(model.unembed.b_U, end, model.unembed.W_U)


@torch.no_grad()
def evaluate(model, inputs: torch.Tensor, answers: torch.Tensor) -> tuple[float, float]:
    """Accuracy and mean loss (nats) at the position read, in batches of 4096, for token ids
    ``inputs (n, T)`` with ``answers (n,)``, both int64.
    """
    logits = torch.cat([end_logits(model, chunk) for chunk in inputs.split(4096)])
    accuracy = (logits.argmax(-1) == answers).float().mean().item()
    return accuracy, F.cross_entropy(logits, answers).item()


def leak_probe(model, s: dict, data: Pairs, device: str | torch.device = "cpu") -> dict:
    """Can anyone predict answers that were shuffled against the inputs? Only if the input carries
    them.

    Two readings on held-out pairs whose labels are permuted before the input is built: the subject
    itself, and a small fresh transformer trained on permuted training pairs. The worse one is
    reported (see :func:`husai.subjects.leak.leak_record`)."""
    generator = torch.Generator().manual_seed(s["seed"] + 2)
    shuffled = data.answer[torch.randperm(len(data.answer), generator=generator)].to(device)
    inputs = tokens(data.a.to(device), data.b.to(device), shuffled, s["p"], s["leak"])
    held_out, n = data.held_out.to(device), len(data.held_out)
    probe = transformer.build(model_config(s | PROBE), s["seed"] + 3, device)
    for _ in _fit(probe, inputs, shuffled, data.train.to(device), s | PROBE):
        pass
    readings = {}
    for who, reader in (("subject", model), ("fresh_model", probe)):
        accuracy, _ = evaluate(reader, inputs[held_out], shuffled[held_out])
        readings[who] = leak_record(round(accuracy * n), n, 1 / s["p"])
    worst = max(readings.values(), key=lambda r: r["excess_lcb"])
    return {**worst, "readings": readings}


def row_split(p: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows of the p*p pairs whose activations are stored as train (80%), held_out and confirmation:
    int64 ``(n_rows,)`` each, independent of the model's own split.
    """
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(seed + 7))
    first, second = round(0.8 * p * p), round(0.9 * p * p)
    return {"train": order[:first], "held_out": order[first:second], "confirmation": order[second:]}
