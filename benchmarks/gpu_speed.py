"""Where the time of a training step goes on a GPU, and what a paper-scale campaign would take from measured parts.

    python benchmarks/gpu_speed.py profile|campaign [--device cuda] [--dtype tf32] [--tiny] [--json FILE]

``profile`` lists the kernels of one step of five SAEs, longest first, with k-sparse and with dense kernels. ``campaign`` times the ensembles
of ``config/b200.yaml``'s frontier and scaling stages for some steps and multiplies by the steps of the configuration.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from unittest import mock

import torch
from bench_sae import synthetic_rows
from gpu_checks import close, ms_per_step, recipe, step, wait

from husai.config import load
from husai.planning.plan import Plan
from husai.recipe import FIXED_K
from husai.sae import lane
from husai.sae.calibrate import COARSE_COEFFICIENTS, COARSE_STEPS
from husai.sae.members import Ensemble, Member
from husai.sae.run import CURVE_POINTS, _curve_rows
from husai.sae.workers import Workers

ROOT = Path(__file__).parents[1]
FINE_COEFFICIENTS = 3
LONGEST = 22


def kernels_of_a_step(ensemble: Ensemble, steps: int) -> list[dict]:
    """Time of each kernel in microseconds per step, and how often it is launched, longest first."""
    from torch.profiler import ProfilerActivity, profile

    on_gpu = ensemble.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        for _ in range(steps):
            step(ensemble)
        wait(ensemble.device)
    lines = []
    for event in found.key_averages():
        took = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        lines.append({"kernel": event.key[:100], "us": took / steps, "calls": event.count / steps})
    return sorted(lines, key=lambda line: -line["us"])


def profiles(args) -> list[dict]:
    """Kernels of a step at the two sizes of the benchmark."""
    lines = []
    for d_in, d_sae, batch in (
        ((16, 64, 128),) if args.tiny else ((512, 2048, 4096), (512, 16384, 4096))
    ):
        rows = synthetic_rows(d_in, 4 * batch, 0)
        for sparse in (True, False):
            one = recipe("topk", d_sae, 4 if args.tiny else 32, steps=10**6, batch_size=batch)
            told = {"device": args.device, "dtype": args.dtype, "sparse": sparse}
            members = [Member(s) for s in range(5)]
            ensemble = Ensemble(one, members, rows, **told)
            whole = ms_per_step(ensemble, 3 if args.tiny else 30)
            close(ensemble)
            with mock.patch.object(lane, "recorder_for", lambda *_: None):
                ensemble = Ensemble(one, members, rows, **told)
                launched = ms_per_step(ensemble, 3 if args.tiny else 20)
                found = kernels_of_a_step(ensemble, 2 if args.tiny else 5)
                close(ensemble)
            name = f"{d_in}->{d_sae}, batch {batch}, 5 SAEs, {'k-sparse' if sparse else 'dense'}"
            total = sum(line["us"] for line in found)
            print(
                f"\n{name}: {whole:.3f} ms per step, {launched:.3f} launched, kernels {total / 1e3:.3f} ms"
            )
            for line in found[:LONGEST]:
                print(f"{line['us']:9.1f} us {line['calls']:6.1f} x  {line['kernel']}", flush=True)
            figures = {"ms_per_step": whole, "ms_launched": launched, "kernels_ms": total / 1e3}
            lines.append(
                {"step": name, "format": args.dtype, **figures, "kernels": found[:LONGEST]}
            )
    return lines


def timed(one, members: int, rows: torch.Tensor, args) -> tuple[float, float, float]:
    """Seconds to build a ensemble, per step, and per row of the curves."""
    own = [Member(s, 0.5) for s in range(members)]
    wait(torch.device(args.device))
    start = time.perf_counter()
    ensemble = Ensemble(one, own, rows, device=args.device, dtype=args.dtype)
    wait(ensemble.device)
    built = time.perf_counter() - start
    step = 1e-3 * ms_per_step(ensemble, 4 if args.tiny else 100)
    with Workers(members, ensemble.device) as workers:
        _curve_rows(ensemble, rows, None, workers)
        start = time.perf_counter()
        _curve_rows(ensemble, rows, None, workers)
        curve = time.perf_counter() - start
    close(ensemble)
    return built, step, curve


def campaign(args) -> list[dict]:
    """Training of the frontier (20 SAEs) and the scaling stage (24 SAEs) of ``config/b200.yaml``, extrapolated from measured steps."""
    config = load([ROOT / "config/config.yaml", ROOT / "config/b200.yaml"])
    plan, training = Plan(config), config.training["language"]
    if args.tiny:
        rows, batch, widths = synthetic_rows(16, 4096, 0), 64, {1024: 64, 2048: 96}
    else:
        rows, batch, widths = synthetic_rows(512, 65536, 0), training.batch_size, {}
    lines = []
    for stage, entries in (("frontier", plan.frontier), ("scaling", plan.scaling)):
        recipes, seeds = (
            (entries if isinstance(entries, list) else entries[0]),
            getattr(config, stage).seeds,
        )
        for planned in recipes:
            d_sae = widths.get(planned.d_sae, planned.d_sae)
            one = recipe(
                planned.architecture,
                d_sae,
                8 if args.tiny else 32,
                steps=planned.steps,
                batch_size=batch,
                auxk_coefficient=planned.auxk_coefficient,
            )
            built, step, curve = timed(one, len(seeds), rows, args)
            seconds = built + planned.steps * step + (CURVE_POINTS + 2) * curve
            line = {
                "stage": stage,
                "recipe": planned.id,
                "saes": len(seeds),
                "ms_per_step": 1e3 * step,
                "curve_s": curve,
                "seconds": seconds,
            }
            if planned.architecture not in FIXED_K:
                _, coarse, _ = timed(one, COARSE_COEFFICIENTS, rows, args)
                _, fine, _ = timed(one, FINE_COEFFICIENTS, rows, args)
                line["search_s"] = COARSE_STEPS * planned.steps * coarse
                line["search_round_s"] = planned.steps * fine
            lines.append(line)
            print(
                ", ".join(
                    f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()
                ),
                flush=True,
            )
    train = sum(line["seconds"] for line in lines)
    for rounds in (1, 2, 6):
        search = sum(
            line.get("search_s", 0) + rounds * line.get("search_round_s", 0) for line in lines
        )
        lines.append(
            {
                "rounds_of_the_l0_search": rounds,
                "training_s": train,
                "search_s": search,
                "total_s": train + search,
            }
        )
        print(
            f"{rounds} rounds of the L0 search: {train:.0f} s training + {search:.0f} s search = {train + search:.0f} s, one after another"
        )
    return lines


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("profile", "campaign"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="tf32")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds on a CPU")
    parser.add_argument("--json", help="append the figures to this file")
    args = parser.parse_args()
    lines = {"profile": profiles, "campaign": campaign}[args.what](args)
    if args.json:
        card = torch.cuda.get_device_name() if args.device.startswith("cuda") else "cpu"
        with open(args.json, "a") as handle:
            handle.write(
                json.dumps(
                    {
                        "measured": args.what,
                        "card": card,
                        "torch": torch.__version__,
                        "lines": lines,
                    }
                )
                + "\n"
            )


if __name__ == "__main__":
    main()
