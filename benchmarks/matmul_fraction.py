"""Which fraction of the rate at which a device multiplies matrices the SAE engine reaches, step by
step, on any device.

The rate is measured, not looked up: the encoder's own product, (S, B, d_in) x (S, d_in, d_sae),
alone, in the number format of training.

*Useful* operations of a step are those a k-sparse SAE cannot do without: per row and SAE, 2 d_in
d_sae for the encoder and 2 k (d_in + 3 d_out) for decoding, the code's gradient and both weight
gradients. Top-k, normalisation, clipping, Adam and reading batches count as none, so that all of
them lower the fraction. *Performed* operations are larger where dense kernels were the faster ones:
2 d_sae (2 d_in + 3 d_out)."""

from __future__ import annotations

import time

import torch

from husai.recipe import Recipe
from husai.sae.kernels import matmul
from husai.sae.training.arithmetic import tf32
from husai.sae.training.members import Ensemble, Member
from husai.sae.training.run import STEPS_AT_ONCE
from husai.sae.training.workers import Workers

HEADER = (
    "| size | batch | SAEs | format | kernels | ms per step | useful GFLOP | reached GFLOP/s "
    "| matmul GFLOP/s | fraction | of operations performed |"
)


def useful_flops(recipe: Recipe, d_in: int, d_out: int) -> int:
    """Floating point operations per step and SAE that a k-sparse SAE needs."""
    return 2 * recipe.batch_size * (d_in * recipe.d_sae + recipe.k * (d_in + 3 * d_out))


def performed_flops(recipe: Recipe, d_in: int, d_out: int, sparse: bool) -> int:
    """Floating point operations in products per step and SAE, as done."""
    return (
        useful_flops(recipe, d_in, d_out)
        if sparse
        else 2 * recipe.batch_size * recipe.d_sae * (2 * d_in + 3 * d_out)
    )


def seconds(work, device: torch.device, blocks: int = 5, least: float = 0.2) -> list[float]:
    """Seconds per call of ``work`` in each of several blocks of calls that last ``least`` seconds
    or more, after a first block.
    """
    found, calls = [], 1
    while len(found) <= blocks:
        start = time.perf_counter()
        for _ in range(calls):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - start
        if elapsed < least and not found:
            calls = max(calls + 1, int(calls * min(10.0, 1.2 * least / elapsed)))
            continue
        found.append(elapsed / calls)
    return found[1:]


def matmul_rate(ensemble: Ensemble, d_in: int) -> float:
    """Operations per second of the encoder's product alone: the best of several blocks."""
    recipe, chosen, S = ensemble.recipe, ensemble.arithmetic, ensemble.lanes[0].size
    x = torch.randn(S, recipe.batch_size, d_in, device=ensemble.device).to(
        chosen.products or ensemble.dtype
    )
    W = ensemble.parameters["W_enc"][:S].to(x.dtype).mT
    with tf32(chosen.tf32), torch.no_grad():
        best = min(seconds(lambda: matmul(x, W), ensemble.device))
    return 2.0 * S * recipe.batch_size * d_in * recipe.d_sae / best


def measure(
    d_in: int,
    d_sae: int,
    k: int,
    batch: int,
    seeds: int,
    rows: torch.Tensor,
    device: str,
    dtype: str,
) -> dict:
    """One line of the table as a dictionary."""
    recipe = Recipe(
        "bench",
        "rows",
        "topk",
        d_sae,
        k=k,
        steps=10**6,
        batch_size=batch,
        auxk_coefficient=0.0,
        b_dec_init="mean",
    )
    ensemble = Ensemble(recipe, [Member(s) for s in range(seeds)], rows, device=device, dtype=dtype)
    rate, sparse = matmul_rate(ensemble, d_in), ensemble.arithmetic.sparse
    with Workers(seeds, ensemble.device) as workers:
        workers.advance(ensemble.lanes, 6)
        step = (
            sorted(
                seconds(lambda: workers.advance(ensemble.lanes, STEPS_AT_ONCE), ensemble.device)
            )[2]
            / STEPS_AT_ONCE
        )
    for lane in ensemble.lanes:
        lane.close()
    useful, performed = (
        seeds * useful_flops(recipe, d_in, d_in),
        seeds * performed_flops(recipe, d_in, d_in, sparse),
    )
    products = str(ensemble.arithmetic.products or ensemble.dtype).removeprefix("torch.")
    return {
        "size": f"{d_in}->{d_sae}",
        "batch": batch,
        "seeds": seeds,
        "format": "tf32" if ensemble.arithmetic.tf32 else products,
        "kernels": "k-sparse" if sparse else "dense",
        "ms_per_step": 1e3 * step,
        "useful_gflop": useful / 1e9,
        "reached_gflops": useful / step / 1e9,
        "matmul_gflops": rate / 1e9,
        "fraction": useful / step / rate,
        "fraction_performed": performed / step / rate,
    }


def table(args, synthetic_rows) -> list[dict]:
    """Print the table for ``args.sizes`` and return its lines."""
    print(
        f"\n## Fraction of the measured matmul rate, k {args.k}\n\n{HEADER}\n{'|---' * 11}|",
        flush=True,
    )
    found = []
    for size in args.sizes.split(","):
        d_in, d_sae = (int(n) for n in size.split("->"))
        line = measure(
            d_in,
            d_sae,
            args.k,
            args.batch,
            args.seeds,
            synthetic_rows(d_in, 4 * args.batch, 0),
            args.device,
            args.dtype,
        )
        found.append(line)
        shown = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in line.values()]
        print("| " + " | ".join(shown) + " |", flush=True)
    return found
