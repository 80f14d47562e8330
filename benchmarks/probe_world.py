"""A subject for the probing benchmark that needs no model: activations are hashed n-grams of the
real texts, and the latents of its SAEs are perturbed data rows."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import torch

from husai.probing import datasets
from husai.probing.files import save_probe_data
from husai.sae.architectures import SAE

BUCKETS = 4096
"""Hash buckets of the n-grams, before the projection to ``d`` dimensions."""


def embed(prompts: list[str], d: int, scale: float) -> torch.Tensor:
    """Random projection of a text's hashed words, suffixes and word pairs, recent words weighing
    more.
    """
    projection = np.random.default_rng(0).standard_normal((BUCKETS, d)).astype(np.float32)
    counts = np.zeros((len(prompts), BUCKETS), dtype=np.float32)
    for row, prompt in zip(counts, prompts, strict=True):
        words = re.findall(r"\w+|\S", prompt.lower())[-64:]
        for i, word in enumerate(words):
            weight = 0.9 ** (len(words) - 1 - i) + 0.2
            row[zlib.crc32(word.encode()) % BUCKETS] += weight
            row[zlib.crc32(f"{word[-3:]}~".encode()) % BUCKETS] += 0.5 * weight
            row[zlib.crc32(f"{words[i - 1] if i else ''} {word}".encode()) % BUCKETS] += (
                0.5 * weight
            )
    counts = np.sqrt(counts)
    counts /= np.linalg.norm(counts, axis=1, keepdims=True) + 1e-6
    return torch.from_numpy(counts @ projection * scale)


def write_probes(root: Path, hook: str, names: list[str], d: int, scale: float) -> None:
    """Activation files of the fallback, in the layout of the probe-activation job."""
    (root / hook).mkdir(parents=True)
    for name in names:
        data = datasets.load_dataset(name)
        rows = embed(data.prompts, d, scale)
        path = root / hook / f"{name}.safetensors"
        save_probe_data(path, rows, torch.arange(len(rows) + 1), data.y, "last")


def data_sae(architecture: str, rows: torch.Tensor, d_sae: int, k: int, seed: int) -> SAE:
    """An SAE whose directions are perturbed data rows and whose L0 on ``rows`` is about ``k``."""
    g = torch.Generator().manual_seed(seed)
    b_dec = rows.mean(0)
    picked = torch.nn.functional.normalize(
        (rows - b_dec)[torch.randint(len(rows), (d_sae,), generator=g)], dim=1
    )
    noise = torch.randn(d_sae, rows.shape[1], generator=g) / rows.shape[1] ** 0.5
    W = torch.nn.functional.normalize(picked + 0.5 * noise, dim=1)
    pre = (rows[:2000] - b_dec) @ W.T
    level = float(pre.flatten().kthvalue(pre.numel() - len(pre) * k).values)
    b_enc = torch.full((d_sae,), -level if architecture == "relu" else 0.0)
    threshold = torch.full((d_sae,), level) if architecture == "jumprelu" else None
    return SAE(
        architecture,
        W.T.contiguous(),
        W,
        b_enc,
        b_dec,
        threshold,
        k if architecture == "topk" else None,
    )
