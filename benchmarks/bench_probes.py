"""Sparse probing of one 1024-wide SAE on 20 data sets: sae-probes against HUSAI's fast engine, in
one run, with a parity table for 3 SAEs.

Both read the same stored activations. Not counted: importing sae-probes, filling its cache, and
what the first use of the fast engine costs a process or a machine, which is printed. Times are
medians of ``--repeats`` runs. Without ``--probes`` the activations are hashed n-grams of the real
texts, projected to ``--d-in`` dimensions.

    python benchmarks/bench_probes.py [--probes results/subjects/language/probes --hook
    blocks.1.hook_resid_post] [--out FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from unittest import mock

import torch
from probe_parity import parity, summary
from probe_world import data_sae, write_probes

from husai.official.engine import MODEL, fill_cache
from husai.probing import datasets, solver
from husai.probing.baselines import dense_probe
from husai.probing.files import probe_data
from husai.probing.protocol import KS, probe_datasets, reseed_noise
from husai.probing.solver import unconverged
from husai.sae.architectures import SAE

ARCHITECTURES = ("topk", "relu", "jumprelu")
INFORMATIVE = 0.6
"""Validation AUC of the dense probe from which on a data set counts (method, external
benchmarks)."""


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Median of each clock."""
    return {clock: statistics.median(run[clock] for run in runs) for clock in runs[0]}


def spread(runs: list[dict[str, float]]) -> str:
    """The fastest and the slowest run by the wall clock, in words."""
    walls = [run["wall"] for run in runs]
    return f"{len(walls)} runs, {min(walls):.3f} to {max(walls):.3f} s"


def first_use() -> dict[str, float]:
    """Seconds that compiled kernels cost a process: as it finds them, and with nothing on disk (a
    machine's very first use).
    """
    program = (
        "import time; t = time.perf_counter(); from husai.probing import solver; solver.kernels()"
    )
    program = f"import torch, scipy.special; {program}; print(time.perf_counter() - t)"

    def seconds(folder: str | None) -> float:
        environment = {**os.environ, **({"NUMBA_CACHE_DIR": folder} if folder else {})}
        return float(
            subprocess.run(
                [sys.executable, "-c", program],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )

    with tempfile.TemporaryDirectory() as folder:
        return {"compiling": seconds(folder), "loading": seconds(folder)}


def clocks() -> tuple[float, float]:
    """Wall clock and CPU time of this process, seconds."""
    return time.perf_counter(), time.process_time()


def elapsed(start: tuple[float, float]) -> dict[str, float]:
    """Seconds since ``start``: on a shared machine the CPU time is the steadier of the two."""
    wall, cpu = clocks()
    return {"wall": wall - start[0], "cpu": cpu - start[1]}


def run_official(sae: SAE, names: list[str], cache: Path, results: Path, args) -> tuple[dict, dict]:
    """``{(data set, k): official entry}`` and seconds."""
    from sae_probes.run_sae_evals import get_save_metrics_path, run_sae_evals

    start = clocks()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        run_sae_evals(
            sae,
            MODEL,
            args.hook,
            args.penalty,
            "normal",
            ks=args.ks,
            results_path=results,
            model_cache_path=cache,
            datasets=names,
            device="cpu",
            seed=42,
        )
    seconds = elapsed(start)
    paths = [(n, get_save_metrics_path(n, args.hook, args.penalty, MODEL, results)) for n in names]
    return {
        (n, row["k"]): row for n, path in paths for row in json.loads(path.read_text())
    }, seconds


def run_fast(sae: SAE, names: list[str], probes: Path, args) -> tuple[list, dict]:
    """Results of the fast engine and seconds, activations read from disk."""
    start = clocks()
    sources = probe_data(probes, args.hook, names, "last")
    found = probe_datasets(sae, sources, args.ks, penalty=args.penalty, device=args.device)
    return found, elapsed(start)


def scikit_learn_fits(sae: SAE, names: list[str], probes: Path, args) -> int:
    """How often the fast engine asks scikit-learn; not part of the time."""
    with mock.patch.object(solver, "refit", side_effect=solver.refit) as refit:
        run_fast(sae, names, probes, args)
    return refit.call_count


def main() -> None:
    """Run and print; ``--out`` keeps every number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--probes",
        type=Path,
        help="last-token probe activations of a subject; by default hashed n-grams",
    )
    parser.add_argument("--hook", default="blocks.0.hook_resid_post")
    parser.add_argument(
        "--sae",
        type=Path,
        nargs="*",
        default=[],
        help="checkpoints to use instead of the built ones",
    )
    parser.add_argument("--n-datasets", type=int, default=20)
    parser.add_argument("--d-in", type=int, default=128)
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--l0", type=int, default=32)
    parser.add_argument("--ks", type=int, nargs="+", default=list(KS))
    parser.add_argument("--penalty", choices=("l1", "l2"), default="l1")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="size of the fallback's activations"
    )
    parser.add_argument(
        "--all-datasets",
        action="store_true",
        help="also time the fast engine on every data set there is",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="runs of the fast engine")
    parser.add_argument("--official-repeats", type=int, default=3, help="runs of sae-probes")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{machine()}; {args.threads} threads")
    with tempfile.TemporaryDirectory() as scratch:
        report = bench(args, Path(scratch))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1))


def bench(args, scratch: Path) -> dict:
    """Time both engines and compare them; returns the report."""
    import sae_probes  # noqa: F401  (importing it is not part of either time)

    every = list(datasets.dataset_names())
    if args.probes:
        every = [n for n in every if (args.probes / args.hook / f"{n}.safetensors").is_file()]
    names = every[:: max(1, len(every) // args.n_datasets)][: args.n_datasets]
    probes = args.probes or scratch / "probes"
    if not args.probes:
        write_probes(
            probes, args.hook, every if args.all_datasets else names, args.d_in, args.scale
        )
    data = list(probe_data(probes, args.hook, names, "last"))
    for source in data:
        fill_cache(source.name, source.tokens, scratch / "cache", args.hook)
    rows = torch.cat([source.tokens[:200] for source in data])
    if args.sae:
        from husai.sae import load_sae

        saes = {str(p): load_sae(p) for p in args.sae}
    else:
        saes = {a: data_sae(a, rows, args.d_sae, args.l0, i) for i, a in enumerate(ARCHITECTURES)}
    cost = first_use()
    print(
        f"first use of the kernels on a machine {cost['compiling']:.1f} s, of a later process "
        f"{cost['loading']:.2f} s (not counted below)"
    )
    run_fast(next(iter(saes.values())), names[:1], probes, args)
    report = {
        "machine": machine(),
        "threads": args.threads,
        "datasets": names,
        "first_use": cost,
        "seconds": {},
        "parity": {},
    }
    with unconverged():
        informative = {d.name: dense_probe(d).val_auc >= INFORMATIVE for d in data}
    noise = {}
    for name, sae in saes.items():
        report["seconds"][name], rows = compare(
            name, sae.to(args.device), names, probes, scratch, args
        )
        report["parity"][name] = [{**r, "informative": informative[r["dataset"]]} for r in rows]
        noise[name] = reseed_noise(sae, data, args.ks, penalty=args.penalty, device=args.device)
    report["reseed_noise"] = {
        name: [{"dataset": d, "k": k, "std": v} for (d, k), v in found.items()]
        for name, found in noise.items()
    }
    print("\n".join(summary(report["parity"], noise)))
    for name, r in [
        (s, r)
        for s, t in report["parity"].items()
        for r in t
        if abs(r["difference"]) > 0.0005 or not r["same_latents"]
    ]:
        print(
            f"difference: {name} {r['dataset']} k={r['k']} official {r['official_auc']:.5f} fast "
            f"{r['auc']:.5f} same latents {r['same_latents']}"
        )
    if args.all_datasets:
        sae = saes[next(iter(saes))].to(args.device)
        runs = [run_fast(sae, every, probes, args)[1] for _ in range(args.repeats)]
        report["all_seconds"], report["max_rss_mb"] = (
            runs,
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        )
        wall = median(runs)["wall"]
        print(
            f"all {len(every)} data sets, one SAE: {wall:.2f} s ({spread(runs)}), peak memory "
            f"{report['max_rss_mb']:.0f} MB"
        )
    return report


def compare(
    name: str, sae: SAE, names: list[str], probes: Path, scratch: Path, args
) -> tuple[dict, list[dict]]:
    """Time one SAE in both engines; returns the runs and every probe's difference."""
    fast_runs, slow_runs = [], []
    for _ in range(args.repeats):
        found, seconds = run_fast(sae, names, probes, args)
        fast_runs.append(seconds)
    for i in range(args.official_repeats):
        results = scratch / "results" / f"{name.replace('/', '-')}-{i}"
        official, seconds = run_official(sae, names, scratch / "cache", results, args)
        slow_runs.append(seconds)
    fast, slow = median(fast_runs), median(slow_runs)
    fits = scikit_learn_fits(sae, names, probes, args)
    print(
        f"{name:10} official {slow['wall']:7.2f} s ({slow['cpu']:.2f} CPU)   fast "
        f"{fast['wall']:6.3f} s ({fast['cpu']:.2f} CPU; "
        f"{spread(fast_runs)})   {slow['wall'] / fast['wall']:6.1f}x "
        f"({slow['cpu'] / fast['cpu']:.1f}x CPU)   "
        f"{len(names)} data sets, k = {args.ks}; {fits} of {len(found) * 11} fits by scikit-learn",
        flush=True,
    )
    return {
        "official": slow_runs,
        "fast": fast_runs,
        "ratio": {c: slow[c] / fast[c] for c in slow},
    }, parity(found, official)


def machine() -> str:
    """Processor model and how many cores and threads it shows, as Linux tells them."""
    found = (
        re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if Path("/proc/cpuinfo").is_file()
        else []
    )
    return (
        f"{found[0] if found else platform.processor()}, {os.cpu_count()} CPUs, "
        f"{platform.machine()}"
    )


if __name__ == "__main__":
    main()
