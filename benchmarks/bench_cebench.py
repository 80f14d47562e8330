"""CE-Bench of several SAEs: HUSAI's one pass over stored activations against the authors' per-row
loop, in one run on the same pairs.

The loop is restated as upstream runs it: per SAE and row two unbatched forward passes with every
activation cached, then Python sums per token. Loading the model again for every SAE, the extra
statistics per row and the plots are left out, in the loop's favour.

Compiled kernels are loaded first: once per process, and compiled once per machine. That time is
printed, and a ratio with it as well."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from husai.cebench import scores
from husai.cebench.pairs import embedded_pairs
from husai.cebench.scores import score_saes
from husai.cebench.store import load_pairs, save_pairs
from husai.jobs.pair_activations import story_activations
from husai.planning.specs import LanguageSpec
from husai.sae.architectures import SAE
from husai.subjects import Subject, load_subject

ARCHITECTURES = ("topk", "relu", "batchtopk", "jumprelu")


def random_subject(texts: list[str], n_layers: int, d_model: int) -> Subject:
    """The shape of the embedded language subject, untrained, with a tokenizer for the texts."""
    from husai.subjects import language, transformer
    from husai.subjects.tokenizer import train_tokenizer

    shape = {"n_layers": n_layers, "d_model": d_model}
    spec = LanguageSpec(kind="language", name="random", tokens=1, **shape).values()
    tokenizer = train_tokenizer(texts, spec["vocab_size"])
    model = transformer.build(language.model_config(spec, tokenizer.get_vocab_size()), 0).eval()
    return Subject("random", "language", model, tokenizer)


def random_sae(
    architecture: str, d_in: int, d_sae: int, k: int, rows: torch.Tensor, seed: int
) -> SAE:
    """An SAE with random unit decoder rows; thresholds and encoder biases are set so that about k
    latents fire on ``rows``.
    """
    g = torch.Generator().manual_seed(seed)
    W = torch.nn.functional.normalize(torch.randn(d_sae, d_in, generator=g), dim=1)
    b_dec = rows.mean(0)
    level = float(
        ((rows - b_dec) @ W.T).flatten().kthvalue(round(rows.shape[0] * (d_sae - k))).values
    )
    thresholded = architecture in ("batchtopk", "jumprelu")
    b_enc = torch.full((d_sae,), -level if architecture == "relu" else 0.0)
    threshold = torch.full((d_sae,), level) if thresholded else None
    return SAE(
        architecture,
        W.T.contiguous(),
        W,
        b_enc,
        b_dec,
        threshold=threshold,
        k=k if architecture == "topk" else None,
    )


@torch.no_grad()
def authors_loop(
    subject: Subject, sae: SAE, pairs, hook_name: str, max_tokens: int
) -> dict[str, list[float]]:
    """Upstream's loop over rows, tokens and rows again."""
    kept = []
    for pair in pairs:
        tokens = [
            torch.from_numpy(subject.encode([text], max_tokens)[0].astype(np.int64))
            for text in (pair.story_a, pair.story_b)
        ]
        latents = []
        for row in tokens:
            _, cache = subject.model.run_with_cache(row.unsqueeze(0))
            latents.append(sae.encode(cache[hook_name]).cpu())
        v1, v2, i1 = (torch.zeros(sae.d_sae) for _ in range(3))
        n1 = n2 = n = 0
        for i in range(len(tokens[0])):
            v1 += latents[0][0, i, :]
            n1 += 1
            i1 += latents[0][0, i, :]
            n += 1
        for i in range(len(tokens[1])):
            v2 += latents[1][0, i, :]
            n2 += 1
            i1 += latents[1][0, i, :]
            n += 1
        kept.append((v1 / n1, v2 / n2, i1 / n))
    i2 = torch.zeros(sae.d_sae)
    for _ in kept:
        i2 += i2
    i2 /= len(kept)
    scores = {
        "contrastive_published": [],
        "independence_published": [],
        "interpretability_published": [],
    }
    for v1, v2, i1 in kept:
        contrast, independence = torch.abs(v1 - v2), torch.abs(i1 - i2)
        for name, distance in zip(
            scores, (contrast, independence, contrast + independence), strict=True
        ):
            score = distance - torch.mean(distance)
            score /= torch.std(distance) if torch.std(distance) != 0 else 1
            scores[name].append(torch.max(score).item())
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--saes", type=int, default=8)
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument(
        "--subject",
        type=Path,
        help="model folder of a trained subject; default: an untrained one of the embedded shape",
    )
    parser.add_argument(
        "--hook", default=None, help="default: the residual stream after the last layer but one"
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument(
        "--threads", type=int, help="CPU threads of both; default: torch's own choice"
    )
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    pairs = embedded_pairs(args.pairs, 0, half="A")
    texts = [story for p in pairs for story in (p.story_a, p.story_b)]
    subject = (
        load_subject(args.subject)
        if args.subject
        else random_subject(texts, args.layers, args.d_model)
    )
    hook = args.hook or f"blocks.{max(0, subject.model.cfg.n_layers - 2)}.hook_resid_post"
    rows = torch.cat(subject.activations(texts[:40], [hook], max_tokens=args.max_tokens)[hook])
    saes = [
        random_sae(ARCHITECTURES[i % 4], rows.shape[1], args.d_sae, args.k, rows, i)
        for i in range(args.saes)
    ]

    begun = time.perf_counter()
    scores.kernels()
    start = time.perf_counter()
    found, counts = story_activations(subject, texts, [hook], args.max_tokens)
    with tempfile.TemporaryDirectory() as folder:
        save_pairs(
            Path(folder) / "h.safetensors",
            found[hook],
            counts,
            {"selection": pairs},
            "subject",
            hook,
        )
        stored = load_pairs(Path(folder) / "h.safetensors")
        activated = time.perf_counter()
        ours = score_saes(saes, stored)
    ended = time.perf_counter()

    loop_start = time.perf_counter()
    theirs = [authors_loop(subject, sae, pairs, hook, args.max_tokens) for sae in saes]
    loop = time.perf_counter() - loop_start
    apart = max(
        float(np.max(np.abs(a.per_pair[name] - np.array(b[name])) / np.abs(b[name])))
        for a, b in zip(ours, theirs, strict=True)
        for name in b
    )
    figures = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "pairs": args.pairs,
        "saes": args.saes,
        "tokens": int(counts.sum()),
        "d_model": subject.d_model,
        "d_sae": args.d_sae,
        "hook": hook,
        "activations_s": activated - start,
        "scoring_s": ended - activated,
        "husai_s": ended - start,
        "authors_loop_s": loop,
        "ratio": loop / (ended - start),
        "kernels_s": start - begun,
        "ratio_with_kernels": loop / (ended - begun),
        "ratio_scoring_alone": loop / (ended - activated),
        "max_relative_difference": apart,
    }
    for name, value in figures.items():
        print(f"{name:>26}  {value:.4g}" if isinstance(value, float) else f"{name:>26}  {value}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
