"""SAE training speed side by side: HUSAI's ensemble against SAELens, dictionary_learning and
sparsify, in one run on one machine.

    .bench-venv/bin/python benchmarks/bench_sae.py [--device cuda] [--quick] [--only NAME]
    [--scaling] python benchmarks/bench_sae.py --crossover | --matmul-fraction [--sizes
    64->512,128->1024] | --store-memory

Prints milliseconds per step and per SAE, the ratio to HUSAI, and the explained variance on held-out
rows; with ``--scaling`` how cost and memory grow with seeds and tokens. Three tables need HUSAI
alone: ``--crossover`` where sparse and dense kernels meet, ``--matmul-fraction`` the fraction of
the device's matmul rate that is reached (on a GPU it follows the comparison), ``--store-memory``
the memory of training from a hundred million rows. See README.md here for how to read them."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

HERE = Path(__file__).parent
SIZES = {
    "128->1024": {"d_in": 128, "d_sae": 1024, "batch_size": 2048, "seeds": 5, "steps": 300},
    "512->2048": {"d_in": 512, "d_sae": 2048, "batch_size": 4096, "seeds": 3, "steps": 120},
}
GPU_SIZES = {
    "512->2048": {"d_in": 512, "d_sae": 2048, "batch_size": 4096, "seeds": 5, "steps": 500}
}
GPU_FRACTION_SIZES, CPU_FRACTION_SIZES = "512->16384", "64->512,128->1024"
OTHERS = ("saelens", "dictionary_learning", "sparsify")


def synthetic_rows(d_in, n_rows, seed):
    """Rows made of 4*d_in sparse directions with heavy-tailed frequencies, plus noise; unit
    variance per dimension on average.
    """
    fixed, generator = torch.Generator().manual_seed(1234), torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(4 * d_in, d_in, generator=fixed), dim=1)
    frequency = 0.2 * torch.arange(1, 4 * d_in + 1) ** -0.5
    rows = torch.empty(n_rows, d_in)
    for start in range(0, n_rows, 8192):
        n = min(8192, n_rows - start)
        active = torch.rand(n, 4 * d_in, generator=generator) < frequency
        rows[start : start + n] = (
            active * torch.empty(n, 4 * d_in).exponential_(generator=generator)
        ) @ directions
    rows += 0.02 * torch.randn(n_rows, d_in, generator=generator) + 0.5
    return rows * 3.0


def run(trainer, spec, rows):
    """Train in a process of its own; returns its JSON result, or the last line of its error."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        command = [
            sys.executable,
            str(HERE / "sae_trainers.py"),
            trainer,
            "--rows",
            rows,
            "--spec",
            json.dumps(spec),
            "--out",
            str(out),
        ]
        path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": str(spec["threads"]),
            "HF_HUB_OFFLINE": "1",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no output"])[-1]}
        return json.loads(out.read_text())


def full_spec(size, args, **changes):
    spec = {
        "k": 32,
        "lr": 1e-3,
        "bf16": False,
        "dtype": args.dtype,
        "device": args.device,
        "threads": args.threads,
        **size,
        **changes,
    }
    if args.quick:
        spec["steps"] = max(30, spec["steps"] // 4)
    return {**spec, "warmup": max(1, spec["steps"] // 20), "decay": max(1, spec["steps"] // 5)}


def write_rows(folder, d_in, n_rows):
    path = str(Path(folder) / f"rows-{d_in}-{n_rows}.pt")
    if not Path(path).exists():
        torch.save(
            {"rows": synthetic_rows(d_in, n_rows, 0), "held_out": synthetic_rows(d_in, 4096, 1)},
            path,
        )
    return path


def compare(name, size, args, folder):
    """One table: every trainer at one size."""
    spec = full_spec(size, args)
    rows = write_rows(folder, spec["d_in"], 65536)
    print(
        f"\n## {name}, batch {spec['batch_size']}, k {spec['k']}, {spec['steps']} steps, HUSAI "
        f"with {spec['seeds']} seeds at once\n"
    )
    print(
        "| trainer | ms per step and SAE | CPU ms | HUSAI is faster by | (CPU time) | explained "
        "variance | peak MB |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    records = {}
    for trainer in ("husai", *args.others.split(",")):
        seeds = spec["seeds"] if trainer == "husai" else 1
        found = records[trainer] = run(trainer, {**spec, "seeds": seeds}, rows)
        if "error" in found:
            print(f"| {trainer} | failed: {found['error']} | | | | | |", flush=True)
            continue
        each, cpu = found["ms_per_step"] / seeds, found["cpu_ms_per_step"] / seeds
        found |= {"ms_per_step_and_sae": each, "cpu_ms_per_step_and_sae": cpu}
        ours = records["husai"]
        ratio, cpu_ratio = (
            v / ours.get(n, float("nan"))
            for n, v in (("ms_per_step_and_sae", each), ("cpu_ms_per_step_and_sae", cpu))
        )
        ev = sum(found["ev"]) / len(found["ev"])
        row = (
            trainer,
            f"{each:.3g}",
            f"{cpu:.3g}",
            f"{ratio:.1f}x",
            f"{cpu_ratio:.1f}x",
            f"{ev:.4f}",
            f"{found['peak_mb']:.0f}",
        )
        print("| " + " | ".join(row) + " |", flush=True)
    return records


def scaling(args, folder):
    """How HUSAI's cost and memory grow with seeds and with tokens."""
    size = {"d_in": 128, "d_sae": 1024, "batch_size": 2048, "seeds": 1, "steps": 150}
    print(
        "\n## Scaling, 128->1024, batch 2048\n\n| seeds | tokens | steps | s in all | ms per step "
        "and SAE | CPU ms | peak MB |\n|---|---|---|---|---|---|---|"
    )
    plan = [(s, 1) for s in (1, 2, 4, 8)] + [(4, t) for t in (2, 4)]
    records = []
    for seeds, factor in plan:
        spec = full_spec(size, args, seeds=seeds, steps=size["steps"] * factor)
        found = run("husai", spec, write_rows(folder, 128, 65536))
        each, cpu = found["ms_per_step"] / seeds, found["cpu_ms_per_step"] / seeds
        tokens = spec["steps"] * spec["batch_size"]
        row = (
            seeds,
            f"{tokens:,}",
            spec["steps"],
            f"{found['total_s']:.1f}",
            f"{each:.1f}",
            f"{cpu:.1f}",
            f"{found['peak_mb']:.0f}",
        )
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        records.append({"seeds": seeds, "tokens": tokens, **found})
    return records


def crossover(args):
    """Time of one step with sparse and with dense kernels over k / d_sae."""
    import time

    clock = time.process_time if args.device == "cpu" else time.perf_counter
    from husai.recipe import Recipe
    from husai.sae.training.members import Ensemble, Member

    print(
        "\n## Sparse against dense kernels, ms per step (CPU time on a CPU)\n\n| size | k | k / "
        "d_sae | sparse | dense |\n|---|---|---|---|---|"
    )
    for d_in, d_sae, batch in ((128, 1024, 2048), (512, 2048, 2048)):
        data = synthetic_rows(d_in, 8192, 0)
        for k in (16, 32, 64, 128, 256, 512):
            recipe = Recipe(
                "bench",
                "rows",
                "topk",
                d_sae,
                k=k,
                steps=100,
                batch_size=batch,
                auxk_coefficient=0.0,
            )
            times = []
            for sparse in (True, False):
                ensemble = Ensemble(
                    recipe, [Member(0)], data, device=args.device, dtype=args.dtype, sparse=sparse
                )
                best = float("inf")
                for _ in range(4):
                    start = clock()
                    ensemble.lanes[0].step()
                    if args.device != "cpu":
                        torch.cuda.synchronize()
                    best = min(best, clock() - start)
                times.append(1e3 * best)
            print(
                f"| {d_in}->{d_sae} | {k} | {k / d_sae:.3f} | {times[0]:.1f} | {times[1]:.1f} |",
                flush=True,
            )


def machine(args):
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.split(":")[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
    device = (
        torch.cuda.get_device_name()
        if args.device.startswith("cuda")
        else f"{model}, {args.threads} threads"
    )
    return (
        f"{device}; torch {torch.__version__}; Python {platform.python_version()}; load "
        f"{os.getloadavg()[0]:.1f}"
    )


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", default=None, help="HUSAI's dtype; default float32 on a CPU, tf32 on a GPU"
    )
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--quick", action="store_true", help="a quarter of the steps")
    parser.add_argument("--only", help="one size, for example 512->2048")
    parser.add_argument(
        "--others", default=",".join(OTHERS), help="trainers to compare with (default %(default)s)"
    )
    parser.add_argument(
        "--scaling", action="store_true", help="also the table over seeds and tokens"
    )
    parser.add_argument(
        "--crossover", action="store_true", help="only the table of sparse against dense kernels"
    )
    parser.add_argument(
        "--matmul-fraction", action="store_true", help="only the fraction of the matmul rate"
    )
    parser.add_argument(
        "--store-memory",
        action="store_true",
        help="only the memory of training from 100 million rows (CPU, 0.3 GB of disk)",
    )
    parser.add_argument("--sizes", help="sizes of --matmul-fraction, for example 64->512,128->1024")
    parser.add_argument("--k", type=int, default=32, help="k of --matmul-fraction")
    parser.add_argument("--batch", type=int, default=4096, help="batch of --matmul-fraction")
    parser.add_argument(
        "--seeds", type=int, default=5, help="SAEs of --matmul-fraction and --store-memory"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of --store-memory")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    on_gpu = args.device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        sys.exit(
            "bench_sae: this machine has no CUDA device; run without --device, or on a machine "
            "that has one"
        )
    args.dtype = args.dtype or ("tf32" if on_gpu else "float32")
    args.sizes = args.sizes or (GPU_FRACTION_SIZES if on_gpu else CPU_FRACTION_SIZES)
    return args


def main():
    args = arguments()
    on_gpu = args.device.startswith("cuda")
    print(machine(args))
    torch.set_num_threads(args.threads)
    sys.path.insert(0, str(HERE.parent))
    records = {}
    if args.crossover:
        return crossover(args)
    if args.store_memory:
        from store_memory import table

        records["store_memory"] = table(args)
    elif not args.matmul_fraction:
        with tempfile.TemporaryDirectory() as folder:
            chosen = {
                n: s for n, s in (GPU_SIZES if on_gpu else SIZES).items() if args.only in (None, n)
            }
            records |= {name: compare(name, size, args, folder) for name, size in chosen.items()}
            if args.scaling:
                records["scaling"] = scaling(args, folder)
    if args.matmul_fraction or (on_gpu and args.only is None):
        from matmul_fraction import table

        records["matmul_fraction"] = table(args, synthetic_rows)
    if args.json:
        Path(args.json).write_text(json.dumps({"machine": machine(args), **records}, indent=1))


if __name__ == "__main__":
    main()
