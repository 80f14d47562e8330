"""Whether the SAE engine computes on a GPU what it computes on a CPU, one check at a time.

    python benchmarks/gpu_checks.py references|graphs|formats|readers|auxk
        [--device cuda] [--tiny] [--json FILE]

Each check prints a table, appends its figures to FILE as one line of JSON, and exits with 1 when
something is off. With ``--device cpu --tiny`` the same code runs in seconds where there is no GPU;
what only a GPU can show (recorded steps) is then reported as not reached.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from bench_sae import synthetic_rows

from husai.activations import ActivationStore, BatchReader, write_store
from husai.recipe import ARCHITECTURES, FIXED_K, Recipe
from husai.sae.fused import fits_code
from husai.sae.training import arithmetic, lane
from husai.sae.training.arithmetic import (
    EXACT_LIMIT,
    FORMATS,
    ROUNDED_LIMIT,
    Arithmetic,
    Trial,
    choose,
)
from husai.sae.training.ensemble import train_ensemble
from husai.sae.training.members import Ensemble, Member

MEMBERS = (Member(0, 0.5), Member(1, 0.7))
EARLY_STEPS = 5
"""Rounding stays small for a few steps; later it decides which latents fire, and runs part."""
EARLY_LIMIT, EV_LIMIT = 1e-2, 0.01
REPLAY_LIMIT = 1e-3


def recipe(architecture: str, d_sae: int, k: int, **changes) -> Recipe:
    """A recipe of any architecture without AuxK unless asked for."""
    own = {"k": k} if architecture in FIXED_K else {"sparsity_coefficient": 0.5}
    own |= {"target_hook_name": "out"} if architecture == "transcoder" else {}
    fixed = {"auxk_coefficient": 0.0, "b_dec_init": "mean"}
    return Recipe("check", "rows", architecture, d_sae, **{**fixed, **own, **changes})


def target_of(rows: torch.Tensor, architecture: str) -> torch.Tensor | None:
    """What a transcoder is to reconstruct; None for an autoencoder."""
    return rows.flip(1) * 0.5 + 1 if architecture == "transcoder" else None


def wait(device: torch.device) -> None:
    """Until the device has done everything it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step(ensemble: Ensemble) -> None:
    """One step of every member."""
    for own in ensemble.lanes:
        own.step()


def losses_of(ensemble: Ensemble) -> list[float]:
    """Mean loss of every member since the last call; an error where one is not finite."""
    return [loss for own in ensemble.lanes for loss in own.take_losses()]


def close(ensemble: Ensemble) -> None:
    """Stop background threads and forget recorded steps."""
    for own in ensemble.lanes:
        own.close()


def ms_per_step(ensemble: Ensemble, steps: int) -> float:
    """Milliseconds of a step over ``steps`` of them, after eight."""
    for _ in range(8):
        step(ensemble)
    wait(ensemble.device)
    start = time.perf_counter()
    for _ in range(steps):
        step(ensemble)
    wait(ensemble.device)
    return 1e3 * (time.perf_counter() - start) / steps


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest over parameters of ``||a - b|| / ||b||``, in float64 on the CPU."""
    pairs = [(a[name].cpu().double(), value.cpu().double()) for name, value in b.items()]
    return max(float((x - y).norm() / y.norm().clamp_min(1e-12)) for x, y in pairs)


def references(args) -> list[dict]:
    """Every architecture in float32 on the device beside float64 on the CPU."""
    d, d_sae, steps = (16, 48, 40) if args.tiny else (64, 256, 300)
    rows, held_out = synthetic_rows(d, 8192, 0), synthetic_rows(d, 2048, 1)
    lines = []
    for architecture in ARCHITECTURES:
        one = recipe(architecture, d_sae, 8, steps=steps, batch_size=256, auxk_coefficient=0.03125)
        target, held_out_target = target_of(rows, architecture), target_of(held_out, architecture)
        early = []
        for device, dtype in ((args.device, "float32"), ("cpu", "float64")):
            ensemble = Ensemble(one, MEMBERS, rows, target, device=device, dtype=dtype)
            for _ in range(EARLY_STEPS):
                step(ensemble)
            close(ensemble)
            early.append(ensemble.parameters)
        told = {"held_out": held_out, "target": target, "held_out_target": held_out_target}
        told["curve_points"] = 1
        ends = [
            train_ensemble(one, [0, 1], rows, **told, device=device, dtype=dtype).final
            for device, dtype in ((args.device, "float32"), ("cpu", "float64"))
        ]
        ev, exact_ev = (sum(r["explained_variance"] for r in end) / 2 for end in ends)
        off = largest_difference(*early)
        lines.append(
            {
                "architecture": architecture,
                "weights_off_after_5_steps": off,
                "explained_variance": ev,
                "explained_variance_float64": exact_ev,
                "l0": sum(r["l0"] for r in ends[0]) / 2,
                "l0_float64": sum(r["l0"] for r in ends[1]) / 2,
                "ok": off < EARLY_LIMIT and abs(ev - exact_ev) < EV_LIMIT,
            }
        )
    return lines


def graphs(args) -> list[dict]:
    """Replayed steps against launched ones: the same weights, and the time of both."""
    d, d_sae, batch = (16, 48, 64) if args.tiny else (512, 2048, 4096)
    rows, lines = synthetic_rows(d, 4 * batch, 0), []
    kinds = [(a, s) for a in ARCHITECTURES for s in (True, False) if a in FIXED_K or not s]
    for architecture, sparse in kinds:
        one = recipe(architecture, d_sae, 8 if args.tiny else 32, steps=1000, batch_size=batch)
        found = {}
        for name in ("replayed", "launched"):
            recorder_for = lane.recorder_for if name == "replayed" else lambda *_: None
            with mock.patch.object(lane, "recorder_for", recorder_for):
                told = {
                    "device": args.device,
                    "dtype": "tf32",
                    "sparse": sparse if architecture in FIXED_K else None,
                }
                ensemble = Ensemble(one, MEMBERS, rows, target_of(rows, architecture), **told)
                for _ in range(12):
                    step(ensemble)
                wait(ensemble.device)
                weights = {n: v.clone() for n, v in ensemble.parameters.items()}
                recorded = is_recorded(ensemble)
                found[name] = weights, ms_per_step(ensemble, 5 if args.tiny else 40), recorded
                losses_of(ensemble)
                close(ensemble)
        (a, fast, recorded), (b, slow, _) = found["replayed"], found["launched"]
        off = largest_difference(a, b)
        lines.append(
            {
                "architecture": architecture,
                "kernels": "k-sparse" if sparse else "dense",
                "recorded": recorded,
                "weights_off": off,
                "ms_replayed": fast,
                "ms_launched": slow,
                "ok": off < REPLAY_LIMIT and (recorded or args.device == "cpu"),
            }
        )
    return lines


def is_recorded(ensemble: Ensemble) -> bool:
    """Whether every lane replays its steps by now."""
    runners = [own._replayed for own in ensemble.lanes]
    return all(r is not None and r.recorded for r in runners)


def kind(chosen: Arithmetic) -> str:
    """Which kernels, in words."""
    return ("fused " if chosen.fused else "") + ("k-sparse" if chosen.sparse else "dense")


def formats(args) -> list[dict]:
    """Error of every kernel and format in units of batch noise, its time, and what is chosen."""
    d, d_sae, batch = (16, 48, 64) if args.tiny else (512, 2048, 4096)
    rows, lines = synthetic_rows(d, 2 * batch, 0), []
    for architecture in ARCHITECTURES:
        one = recipe(architecture, d_sae, 8 if args.tiny else 32, steps=1000, batch_size=batch)
        ensemble = Ensemble(one, MEMBERS, rows, target_of(rows, architecture), device=args.device)
        own, problem = ensemble.lanes[0].settings, ensemble.lanes[0].problem()
        with torch.no_grad():
            trial = Trial(own, problem)
            kinds = [(True, False), (False, False)] if architecture in FIXED_K else [(False, False)]
            if architecture in FIXED_K and fits_code(ensemble.parameters):
                kinds.insert(0, (True, True))
            for sparse, fused in kinds:
                for name in ("float32", "tf32", "bfloat16"):
                    own_format = FORMATS[name]
                    tried = Arithmetic(sparse, own_format.products, own_format.tf32, fused)
                    error, limit = (
                        trial.error(tried),
                        EXACT_LIMIT if name == "float32" else ROUNDED_LIMIT,
                    )
                    took = 1e3 * arithmetic._best_time(own, problem, tried)
                    line = {"architecture": architecture, "kernels": kind(tried), "format": name}
                    line |= {"error": error, "limit": limit, "ms": took, "ok": error <= limit}
                    lines.append(line)
        chosen = {n: choose(own, FORMATS[n], problem) for n in ("float32", "tf32", "bfloat16")}
        for name, taken in chosen.items():
            found = f"{kind(taken)}, {arithmetic._name(taken)}"
            lines.append({"architecture": architecture, "asked": name, "chosen": found, "ok": True})
        close(ensemble)
    return lines


def readers(args) -> list[dict]:
    """Rows that stay on the device and rows streamed from disk: same batches, and their rate."""
    d, n, batch = (16, 4096, 64) if args.tiny else (512, 262_144, 4096)
    rows, lines = (
        synthetic_rows(d, 4096, 0).repeat(n // 4096, 1) + torch.arange(n).unsqueeze(1) / n,
        [],
    )
    with tempfile.TemporaryDirectory() as folder:
        write_store(Path(folder) / "store", rows)
        store = ActivationStore.open(Path(folder) / "store")
        for name, source, hold in (
            ("tensor", rows, None),
            ("store, held", store, True),
            ("store, streamed", store, False),
        ):
            reader = BatchReader(source, batch, 3, device=args.device, hold=hold)
            first = [next(reader).clone().cpu() for _ in range(10)]
            wait(torch.device(args.device))
            start, count = time.perf_counter(), 20 if args.tiny else 200
            for _ in range(count):
                next(reader)
            wait(torch.device(args.device))
            took = time.perf_counter() - start
            reader.close()
            host = BatchReader(source, batch, 3, device="cpu", hold=hold)
            same = all(torch.equal(next(host), b) for b in first)
            host.close()
            rate = count * batch * d * 4 / took / 1e9
            lines.append(
                {
                    "rows": name,
                    "ms_per_batch": 1e3 * took / count,
                    "gb_per_s": rate,
                    "as_on_cpu": same,
                    "ok": same,
                }
            )
        d_sae, k = (48, 8) if args.tiny else (2048, 32)
        one = recipe("topk", d_sae, k, steps=1000, batch_size=batch)
        for name, free in (("held", None), ("streamed", lambda *_: 0)):
            place, five = "husai.activations.batches.free_bytes", [Member(s) for s in range(5)]
            with mock.patch(place, free) if free else mock.patch.dict({}):
                ensemble = Ensemble(one, five, store, device=args.device, dtype="tf32")
                took = ms_per_step(ensemble, 5 if args.tiny else 60)
                losses = losses_of(ensemble)
                close(ensemble)
            lines.append(
                {
                    "rows": f"5 SAEs from a store, {name}",
                    "ms_per_step": took,
                    "loss": losses[0],
                    "ok": True,
                }
            )
    return lines


def auxk(args) -> list[dict]:
    """Steps with dead latents: beside float64 on the CPU, and their time beside steps without."""
    lines, dead = [], {"dead_after_rows": 256, "auxk_coefficient": 0.03125}
    rows = synthetic_rows(16 if args.tiny else 64, 8192, 0)
    for architecture in FIXED_K:
        one = recipe(architecture, 48 if args.tiny else 256, 8, steps=300, batch_size=256, **dead)
        found = []
        for device, dtype in ((args.device, "float32"), ("cpu", "float64")):
            target = target_of(rows, architecture)
            ensemble = Ensemble(one, MEMBERS, rows, target, device=device, dtype=dtype)
            ensemble.parameters["b_enc"][:, :20] -= 50.0
            for _ in range(20 + EARLY_STEPS):  # latents are counted as dead every 20 steps
                step(ensemble)
            marked = [d is not None and int(d.numel()) for own in ensemble.lanes for d in own.dead]
            close(ensemble)
            found.append((ensemble.parameters, marked))
        off = largest_difference(found[0][0], found[1][0])
        ok = off < 5 * EARLY_LIMIT and all(m and m >= 20 for m in found[0][1])
        lines.append(
            {
                "architecture": architecture,
                "dead": found[0][1],
                "dead_float64": found[1][1],
                "weights_off": off,
                "ok": ok,
            }
        )
    d, d_sae, batch = (16, 48, 64) if args.tiny else (512, 2048, 4096)
    rows = synthetic_rows(d, 4 * batch, 0)
    for name, share in (("no dead latents", 0.0), ("a tenth dead", 0.1), ("half dead", 0.5)):
        aux = {"dead_after_rows": 10 * batch, "auxk_coefficient": 0.03125}
        one = recipe("topk", d_sae, 8 if args.tiny else 32, steps=1000, batch_size=batch, **aux)
        five = [Member(s) for s in range(5)]
        ensemble = Ensemble(one, five, rows, device=args.device, dtype="tf32")
        ensemble.parameters["b_enc"][:, : round(share * d_sae)] -= 50.0
        for _ in range(21):
            step(ensemble)
        took, losses = ms_per_step(ensemble, 5 if args.tiny else 30), losses_of(ensemble)
        marked = [0 if d is None else int(d.numel()) for d in ensemble.lanes[0].dead]
        close(ensemble)
        lines.append(
            {
                "steps": name,
                "dead": marked,
                "ms_per_step": took,
                "loss": losses[0],
                "ok": losses[0] == losses[0],
            }
        )
    return lines


CHECKS = {check.__name__: check for check in (references, graphs, formats, readers, auxk)}


def show(lines: list[dict]) -> None:
    """One line per measurement, numbers to four digits."""
    for line in lines:
        told = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in line.items() if k != "ok"}
        shown = ", ".join(f"{name} {value}" for name, value in told.items())
        print(("ok   " if line["ok"] else "OFF  ") + shown, flush=True)


def main() -> int:
    """Run one check; 1 when something is off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("check", choices=CHECKS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds on a CPU")
    parser.add_argument("--json", help="append the figures to this file")
    args = parser.parse_args()
    lines = CHECKS[args.check](args)
    show(lines)
    if args.json:
        with open(args.json, "a") as handle:
            record = {"check": args.check, "torch": torch.__version__, "lines": lines}
            handle.write(json.dumps(record) + "\n")
    return 0 if all(line["ok"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
