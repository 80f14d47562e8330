"""Where the time of a step goes on a GPU, and what a campaign would take from measured parts.

    python benchmarks/gpu_speed.py profile|campaign [--device cuda] [--dtype tf32] [--tiny]

``profile`` lists the kernels of one step of five SAEs, longest first (k-sparse kernels; dense ones
with ``--dense``). ``campaign`` times the ensembles of the frontier and scaling stages of
``config/b200.yaml`` for some steps and multiplies by the steps of the configuration.
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
from husai.sae.training import lane
from husai.sae.training.calibrate import COARSE_COEFFICIENTS, COARSE_STEPS
from husai.sae.training.members import Ensemble, Member
from husai.sae.training.run import CURVE_POINTS, _curve_rows
from husai.sae.training.workers import Workers

ROOT = Path(__file__).parents[1]
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
    sizes = [(16, 64, 128)] if args.tiny else [(512, 2048, 4096), (512, 16384, 4096)]
    for d_in, d_sae, batch in sizes:
        rows = synthetic_rows(d_in, 4 * batch, 0)
        for sparse in (False,) if args.dense else (True,):
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
            print(f"\n{name}: {whole:.3f} ms per step, {launched:.3f} launched, ", end="")
            print(f"kernels {total / 1e3:.3f} ms")
            for line in found[:LONGEST]:
                print(f"{line['us']:9.1f} us {line['calls']:6.1f} x  {line['kernel']}", flush=True)
            figures = {"ms_per_step": whole, "ms_launched": launched, "kernels_ms": total / 1e3}
            about = {"step": name, "format": args.dtype}
            lines.append({**about, **figures, "kernels": found[:LONGEST]})
    return lines


def timed(one, members: int, rows: torch.Tensor, args) -> tuple[float, float, float]:
    """Seconds to build a ensemble, per step, and per row of the curves."""
    own = [Member(s, 0.5) for s in range(members)]
    wait(torch.device(args.device))
    start = time.perf_counter()
    ensemble = Ensemble(one, own, rows, device=args.device, dtype=args.dtype)
    wait(ensemble.device)
    built = time.perf_counter() - start
    step = 1e-3 * ms_per_step(ensemble, 4 if args.tiny else 60)
    with Workers(members, ensemble.device) as workers:
        _curve_rows(ensemble, rows, None, workers)
        start = time.perf_counter()
        _curve_rows(ensemble, rows, None, workers)
        curve = time.perf_counter() - start
    close(ensemble)
    return built, step, curve


def campaign(args) -> list[dict]:
    """Training of the frontier and the scaling stage of ``config/b200.yaml``, extrapolated."""
    config = load([ROOT / "config/config.yaml", ROOT / "config/b200.yaml"])
    plan, training = Plan(config), config.training["language"]
    if args.tiny:
        rows, batch, widths = synthetic_rows(16, 4096, 0), 64, {1024: 64, 2048: 96}
    else:
        rows, batch, widths = synthetic_rows(512, 16384, 0), training.batch_size, {}
    lines, known = [], {}

    def measured(one, members: int) -> tuple[float, float, float]:
        key = one.architecture, one.d_sae, one.frozen_decoder, members
        if key not in known:
            known[key] = timed(one, members, rows, args)
        return known[key]

    for stage, recipes in (("frontier", plan.frontier), ("scaling", plan.scaling)):
        n = len(getattr(config, stage).seeds)
        for planned in recipes:
            own = {
                "steps": planned.steps,
                "batch_size": batch,
                "auxk_coefficient": planned.auxk_coefficient,
            }
            d_sae, k = widths.get(planned.d_sae, planned.d_sae), 8 if args.tiny else 32
            own["frozen_decoder"] = planned.frozen_decoder
            one = recipe(planned.architecture, d_sae, k, **own)
            built, step, curve = measured(one, n)
            seconds = built + planned.steps * step + (CURVE_POINTS + 2) * curve
            figures = {
                "ms_per_step": 1e3 * step,
                "curve_s": curve,
                "start_s": built,
                "seconds": seconds,
            }
            line = {"stage": stage, "recipe": planned.id, "saes": n, **figures}
            if planned.architecture not in FIXED_K:
                coarse = measured(one, COARSE_COEFFICIENTS)[1]
                line["search_s"] = COARSE_STEPS * planned.steps * coarse
                line["search_trial_s"] = planned.steps * measured(one, 1)[1]
            lines.append(line)
            print(json.dumps(line), flush=True)
    train = sum(line["seconds"] for line in lines)
    for trials in (1, 3, 12):
        each = [line.get("search_s", 0) + trials * line.get("search_trial_s", 0) for line in lines]
        search = sum(each)
        lines.append(
            {
                "full_trainings_of_the_l0_search": trials,
                "training_s": train,
                "search_s": search,
                "total_s": train + search,
            }
        )
        print(
            f"{trials} full trainings in the L0 search: {train:.0f} s training + {search:.0f} s search",
            f"= {train + search:.0f} s, one after another",
        )
    return lines


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("profile", "campaign"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="tf32")
    parser.add_argument("--dense", action="store_true", help="profile dense kernels")
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
