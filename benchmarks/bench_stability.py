"""Speed of the stability metrics and of the intervals: all pairs of 8 seeds against the bare matrix
products, in one run.

Usage: python benchmarks/bench_stability.py [--d-sae 4096] [--d-in 512] [--seeds 8] [--device cpu]
[--threads N] [--json FILE] [--memory] [--pairs-only]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from memory_stability import run_cases

from husai.compute import resolve_device, use_threads
from husai.stability import gaussian_decoder, hungarian, pairwise, planted_decoders
from husai.statistics import bootstrap_percentile, crossed_interval, jackknife_se, jackknife_t


def seconds(work: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Best wall-clock time of ``repeats`` runs after one warm-up."""
    best = float("inf")
    for i in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if i:
            best = min(best, time.perf_counter() - start)
    return best


def bench_pairs(n: int, d_sae: int, d_in: int, device: torch.device) -> dict[str, float]:
    """All-pairs PWMCC against the products it cannot do without, in turns so that both see the same
    machine.
    """
    decoders = [gaussian_decoder(d_in, d_sae, s).contiguous().to(device) for s in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    bare, ours = float("inf"), float("inf")
    for _ in range(2):
        bare = min(
            bare, seconds(lambda: [decoders[i] @ decoders[j].T for i, j in pairs], device, 1)
        )
        ours = min(ours, seconds(lambda: pairwise(decoders), device, 1))
    return {"bare_products_s": bare, "pairwise_s": ours, "ratio": ours / bare}


def bench_hungarian(d_sae: int, d_in: int, device: torch.device) -> dict[str, float]:
    """One matching of random dictionaries (the hard case) and of dictionaries that share half their
    rows.
    """
    random = [gaussian_decoder(d_in, d_sae, s).to(device) for s in (0, 1)]
    shared = [d.to(device) for d in planted_decoders(2, d_sae, d_in, 0.5)]
    return {
        "random_s": seconds(lambda: hungarian(*random), device, 1),
        "half_shared_s": seconds(lambda: hungarian(*shared), device, 1),
        "random_sparse_s": seconds(lambda: hungarian(*random, exact_limit=d_sae // 4), device, 1),
        "sparse_to_exact_total": float(
            hungarian(*random, exact_limit=d_sae // 4).cosine.sum()
            / hungarian(*random).cosine.sum()
        ),
    }


def bench_intervals() -> dict[str, float]:
    """Intervals per second: one call each, and the jackknife on a stack."""
    rng, found = np.random.default_rng(0), {}
    cpu = torch.device("cpu")
    for n in (5, 8):
        matrix = rng.normal(size=(n, n))
        matrix = matrix + matrix.T
        pairs = matrix[np.triu_indices(n, 1)]
        stack = np.broadcast_to(matrix, (10_000, n, n)).copy()
        found[f"jackknife_t_n{n}_per_s"] = 500 / seconds(
            lambda m=matrix: [jackknife_t(m) for _ in range(500)], cpu
        )
        found[f"jackknife_stacked_n{n}_per_s"] = 10_000 / seconds(
            lambda s=stack: jackknife_se(s), cpu
        )
        found[f"bootstrap_{n}_values_per_s"] = 100 / seconds(
            lambda p=pairs, n=n: [bootstrap_percentile(p[:n]) for _ in range(100)], cpu
        )
        found[f"bootstrap_{len(pairs)}_pairs_per_s"] = 100 / seconds(
            lambda p=pairs: [bootstrap_percentile(p) for _ in range(100)], cpu
        )
    table, families = rng.normal(size=(5, 113)), np.arange(113) // 7
    found["crossed_5x113_per_s"] = 20 / seconds(
        lambda: [crossed_interval(table, families) for _ in range(20)], cpu
    )
    return found


def main() -> None:
    """Parse the arguments, run, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-sae", type=int, default=4096)
    parser.add_argument("--d-in", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--memory",
        action="store_true",
        help="instead: memory at 65536 x 2304, see memory_stability.py (minutes on a CPU)",
    )
    parser.add_argument("--pairs-only", action="store_true", help="only the PWMCC of all pairs")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    if args.memory:
        report({"memory": run_cases(device=args.device, threads=args.threads)}, args.json)
        return
    device = resolve_device(args.device)
    use_threads(args.threads)
    found = {
        "device": str(device),
        "machine": machine_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "shape": [args.seeds, args.d_sae, args.d_in],
    }
    found |= {"pairs": bench_pairs(args.seeds, args.d_sae, args.d_in, device)}
    if args.pairs_only:
        report(found, args.json)
        return
    found |= {
        "hungarian": bench_hungarian(args.d_sae, args.d_in, device),
        "intervals": bench_intervals(),
    }
    report(found, args.json)


def machine_name(device: torch.device) -> str:
    """Model of the GPU or CPU the figures are of."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


def report(found: dict, path: str | None) -> None:
    """Print the figures, and write them where a file is named."""
    print(json.dumps(found, indent=1))
    if path:
        with open(path, "w") as handle:
            json.dump(found, handle, indent=1)


if __name__ == "__main__":
    main()
