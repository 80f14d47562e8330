"""Memory of the stability metrics beyond their inputs at 65536 x 2304, each case in a process of
its own.

Usage: python benchmarks/memory_stability.py [--cases pwmcc alive ...] [--d-sae 65536] [--d-in 2304]
[--device cpu] [--threads N]

Every case makes its inputs, notes the peak so far, computes, and notes the peak again: on a CPU the
resident size of the process, on a GPU what torch allocated. ``LIMIT_MB`` is what the metrics may
need beyond what they are given."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from husai.compute import resolve_device, use_threads
from husai.sae import SAE
from husai.stability import (
    Match,
    agreement_matrix,
    evaluate_sae,
    hungarian,
    pwmcc,
    subspace_overlaps,
)

LIMIT_MB = 2048
ROWS, K = 2048, 64


def decoder(args, device) -> torch.Tensor:
    """Random decoder (d_sae, d_in)."""
    return torch.randn((args.d_sae, args.d_in), device=device)


def whole(args, device):
    """PWMCC of a dictionary against itself."""
    A = decoder(args, device)
    return lambda: pwmcc(A, A)


def alive(args, device):
    """The same with every other latent dead."""
    A = decoder(args, device)
    mask = torch.arange(args.d_sae) % 2 == 0
    return lambda: pwmcc(A, A, mask, mask)


def assignment(args, device):
    """One-to-one matching of two dictionaries; beyond the exact limit, by candidates. ``--d-in``
    sets the time, not the memory.
    """
    A, B = decoder(args, device), decoder(args, device)
    return lambda: float(hungarian(A, B).cosine.mean())


def subspace(args, device):
    """Overlap of the subspaces at every default rank."""
    A, B = decoder(args, device), decoder(args, device)
    return lambda: subspace_overlaps(A, B)[8]


def topk_sae(args, device) -> SAE:
    """TopK SAE whose encoder is a view of its decoder, to keep the input small."""
    W = decoder(args, device)
    return SAE(
        "topk",
        W.T,
        W,
        torch.zeros(args.d_sae, device=device),
        torch.zeros(args.d_in, device=device),
        k=K,
    )


def quality(args, device):
    """Explained variance, L0 and living latents on held-out rows."""
    sae, rows = topk_sae(args, device), torch.randn((ROWS, args.d_in))
    return lambda: evaluate_sae(sae, rows)["l0"]


def agreement(args, device):
    """Correlation of matched latents of two SAEs on held-out rows."""
    saes, rows = [topk_sae(args, device)] * 2, torch.randn((ROWS, args.d_in))
    index = torch.arange(args.d_sae)
    match = Match(index, index, torch.ones(args.d_sae, dtype=torch.float64), args.d_sae, args.d_sae)
    return lambda: float(agreement_matrix(saes, rows, {(0, 1): match}, device=device)[0, 1])


CASES = {
    "pwmcc": whole,
    "alive": alive,
    "assignment": assignment,
    "subspace": subspace,
    "quality": quality,
    "agreement": agreement,
}


def peak_mb(device: torch.device) -> float:
    """Highest memory so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(args) -> dict:
    """One case in this process."""
    device = resolve_device(args.device)
    use_threads(args.threads)
    small = torch.randn((64, 64), device=device)
    pwmcc(small, small)  # what libraries allocate once
    work = CASES[args.case](args, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before, start = peak_mb(device), time.perf_counter()
    value = work()
    taken, beyond = time.perf_counter() - start, peak_mb(device) - before
    found = {
        "case": args.case,
        "shape": [args.d_sae, args.d_in],
        "seconds": round(taken, 1),
        "value": value,
    }
    return {
        **found,
        "inputs_and_program_mb": round(before),
        "beyond_mb": round(beyond),
        "within_limit": beyond < LIMIT_MB,
    }


def run_cases(
    cases=tuple(CASES),
    d_sae: int = 65536,
    d_in: int = 2304,
    device: str = "cpu",
    threads: int | None = None,
) -> list[dict]:
    """Measure the cases one after the other, each in a process of its own, and print each as it is
    done.
    """
    found = []
    for case in cases:
        command = [
            sys.executable,
            __file__,
            "--case",
            case,
            "--d-sae",
            str(d_sae),
            "--d-in",
            str(d_in),
            "--device",
            device,
        ]
        command += ["--threads", str(threads)] if threads else []
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{case}: {done.stderr.strip()}")
        found.append(json.loads(done.stdout))
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> int:
    """Run the cases; exit status 1 when one needs more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--d-sae", type=int, default=65536)
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args)))
        return 0
    return int(
        not all(
            f["within_limit"]
            for f in run_cases(args.cases, args.d_sae, args.d_in, args.device, args.threads)
        )
    )


if __name__ == "__main__":
    sys.exit(main())
