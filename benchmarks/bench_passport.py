"""Do certificates keep their word, and what do they cost? Planted truth, prediction from one set of
seeds to another, and time and memory.

Usage:
  python benchmarks/bench_passport.py planted [--campaigns 20] [--json FILE]
  python benchmarks/bench_passport.py predict [--cache DIR] [--steps N] [--json FILE]
  python benchmarks/bench_passport.py predict DIR --activations STORE [--json FILE]
  python benchmarks/bench_passport.py cost [--d-sae 16384] [--d-in 2304] [--seeds 8] [--device auto]

``planted`` runs that many campaigns of each of the plans below; each certifies eight planted SAEs
and holds the certificates against 40 further seeds. ``predict`` trains sixteen fresh seeds of a
stable and of an unstable recipe on the configured subject (or takes a folder of trained SAEs,
``seed*/``), splits them into two halves and certifies each half for the other. What it made is kept
in the cache: started again, it goes on where it was."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from husai.activations import ActivationStore
from husai.compute import resolve_device
from husai.config import Config, load
from husai.errors import HusaiError
from husai.passport import certify
from husai.passport.certify import measured, relatives
from husai.passport.planted import PlantedDesign, campaign, mean_outcome
from husai.passport.prediction import prediction
from husai.planning.plan import Plan
from husai.planning.spec_builder import SpecBuilder
from husai.planning.specs import TrainSpec
from husai.provenance import finite, read_json, write_json
from husai.sae import SAE, load_sae

PLANS = {
    "cosine 0.95": PlantedDesign(cosine=0.95),
    "cosine 0.90": PlantedDesign(cosine=0.90),
    "cosine 0.85": PlantedDesign(cosine=0.85),
    "cosine 0.80": PlantedDesign(cosine=0.80),
    "cosine 0.75, below the promise": PlantedDesign(cosine=0.75),
    "noise 0.3": PlantedDesign(cosine=0.85, noise=0.3),
    "L0 2": PlantedDesign(cosine=0.85, l0=2),
    "L0 16": PlantedDesign(cosine=0.85, l0=16),
    "96 dimensions, 512 latents": PlantedDesign(
        d_in=96, d_sae=512, l0=12, cosine=0.85, n_rows=1500
    ),
    "24 dimensions, 96 latents": PlantedDesign(d_in=24, d_sae=96, l0=3, cosine=0.85),
    "jumprelu": PlantedDesign(architecture="jumprelu", cosine=0.85),
    "4 seeds": PlantedDesign(n_seeds=4, cosine=0.85),
    "few shared": PlantedDesign(shared=0.05, duplicate=0.05, cosine=0.85),
    "nothing shared, half split, half faint": PlantedDesign(
        shared=0.0, duplicate=0.0, split=0.5, faint=0.45
    ),
    "all private": PlantedDesign(shared=0.0, duplicate=0.0, split=0.0, faint=0.05),
}


CONFIG = (
    Path(__file__).parents[1] / "config/config.yaml",
    Path(__file__).with_name("passports.yaml"),
)
COMPARED = ("relu", "topk")
"""Architectures of the two recipes of the prediction, as the frontier of the configuration has
them."""
FRESH = range(700_001, 700_017)
"""Seeds that no configuration trains."""


def run_planted(campaigns: int) -> list[dict]:
    """Every plan, a line each as it is done, and the mean over all."""
    rows, everything = [], []
    print("| plan | campaigns | certified | false share | standard error | power |")
    print("|---|---|---|---|---|---|")
    for place, (name, plan) in enumerate(PLANS.items()):
        found = [campaign(plan, 1000 * place + k) for k in range(campaigns)]
        everything += found
        rows.append(_line(name, found))
    rows.append(_line("all", everything))
    return rows


def _line(name: str, found: list) -> dict:
    false, error, power = mean_outcome(found)
    certified = sum(c.certified for c in found) / len(found)
    print(
        f"| {name} | {len(found)} | {certified:.1f} | {false:.4f} | {error:.4f} | {power:.3f} |",
        flush=True,
    )
    private = sum(c.false_private for c in found)
    return {
        "plan": name,
        "campaigns": len(found),
        "certified": certified,
        "false_share": false,
        "standard_error": error,
        "power": power,
        "private_certified": private,
    }


def run_verb(cache: Path, out: str, verb: str, spec: str, *options: str) -> None:
    """Run ``husai VERB`` in ``cache`` unless it ended there before with the same spec."""
    done = cache / out
    if done.is_file() and read_json(done)["config"] == json.loads(spec):
        return
    cache.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "husai", verb, "--spec", spec, "--out", out, *options]
    if subprocess.run(command, cwd=cache).returncode:
        raise HusaiError(f"husai {verb} failed in {cache}; its message stands above")


def prepared(
    cache: Path, config_files: Sequence[Path], *options: str
) -> tuple[Config, Plan, SpecBuilder, str]:
    """Configuration, plan, specs and the store of activations of the first hook of the subject of
    the external benchmarks, which is made in ``cache``."""
    config = load(config_files)
    work, subject = Plan(config), config.external.subject
    specs, hook = SpecBuilder(work), config.subjects[subject].hooks[0]
    made = f"results/subjects/{subject}"
    run_verb(cache, f"{made}/model/manifest.json", "subject", specs.subject(subject), *options)
    rows = ("--model", f"{made}/model", "--hook", hook, *options)
    stored = f"{made}/activations/{hook}"
    run_verb(cache, f"{stored}/manifest.json", "activations", specs.activations(subject), *rows)
    return config, work, specs, stored


def fresh_saes(
    cache: Path, config_files: Sequence[Path], steps: int | None, device: str
) -> tuple[list[Path], Path]:
    """Folders of the two recipes' SAEs, trained on the subject of the external benchmarks, and the
    store of held-out rows."""
    config, work, _, stored = prepared(cache, config_files, "--device", device)
    folders = []
    for architecture in COMPARED:
        recipe = next((r for r in work.frontier if r.architecture == architecture), None)
        if recipe is None:
            raise HusaiError(f"predict: the frontier of the configuration has no {architecture}")
        recipe = recipe if steps is None else replace(recipe, steps=steps)
        spec = TrainSpec(recipe=recipe, seeds=list(FRESH)).text()
        out = f"results/saes/{config.external.subject}/{recipe.id}"
        given = ("--activations", stored, "--device", device)
        run_verb(cache, f"{out}/manifest.json", "train", spec, *given)
        folders.append(cache / out)
    return folders, cache / stored / "held_out"


def run_predict(directory: Path, activations: Path, device: torch.device) -> list[dict]:
    """Both directions between two halves of the seeds in ``directory``."""
    paths = sorted(
        (p for p in directory.glob("seed*") if p.is_dir()), key=lambda p: (len(p.name), p.name)
    )
    if len(paths) < 6:
        raise HusaiError(f"{directory}: {len(paths)} seeds; two sets of three or more are needed")
    saes = [load_sae(p, device) for p in paths]
    rows = ActivationStore.open(activations)
    found = measured(saes, rows, [p.name for p in paths], device=device)
    for pair in relatives(found):
        raise HusaiError(f"{paths[pair.a]} and {paths[pair.b]}: {pair.reason}")
    half = len(paths) // 2
    sets = [range(half), range(half, 2 * half)]
    results = []
    for first, second in (sets, sets[::-1]):
        found_here = prediction(found, first, second)
        results.append({"recipe": directory.name} | found_here.summary())
        _print_prediction(directory.name, found_here)
    return results


def _print_prediction(name: str, one) -> None:
    """One direction of a prediction as a row of a table, and its calibration curve as another."""
    print("| recipe | latents | certified | of which hold | all latents that hold | AUC |")
    print("|---|---|---|---|---|---|")
    share, base = sum(one.certified) / sum(one.living), sum(one.base_rate) / len(one.base_rate)
    ranks = ", ".join(f"{m} seeds {value:.3f}" for m, value in one.auc.items())
    print(
        f"| {name} | {sum(one.living)} | {share:.1%} | {one.held_share:.1%} | {base:.1%} | {ranks} |"
    )
    print(f"\nCalibration, mean error {one.calibration_error:.3f}:\n")
    for title in ("theta", "observed", "latents"):
        values = [getattr(line, title) for line in one.calibration]
        cells = [f"{v}" if title == "latents" else f"{v:.2f}" for v in values]
        print(f"| {title} | " + " | ".join(cells) + " |")
    print(flush=True)


def both_predictions(args: argparse.Namespace, device: torch.device) -> list[dict]:
    """The prediction for the folder given, or for the two recipes trained here."""
    if args.directory is not None:
        if args.activations is None:
            raise HusaiError("predict DIR needs --activations STORE: held-out rows of the hook")
        return run_predict(args.directory, args.activations, device)
    files = [*CONFIG, *args.configfile]
    folders, rows = fresh_saes(args.cache, files, args.steps, args.device)
    return [one for folder in folders for one in run_predict(folder, rows, device)]


def run_cost(d_sae: int, d_in: int, seeds: int, rows: int, k: int, device: torch.device) -> dict:
    """Seconds and peak memory of one ensemble of random TopK SAEs, its weights included."""
    generator = torch.Generator().manual_seed(0)
    saes = []
    for _ in range(seeds):
        W = torch.randn((d_sae, d_in), generator=generator) / d_in**0.5
        sae = SAE("topk", W.T.contiguous(), W, torch.zeros(d_sae), torch.zeros(d_in), k=k)
        saes.append(sae.to(device))
    x = torch.randn((rows, d_in), generator=generator)
    start, busy = time.perf_counter(), time.process_time()
    found = certify(saes, x, device=device)
    taken, busy = time.perf_counter() - start, time.process_time() - busy
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) / 2**20
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    result = {
        "device": str(device),
        "shape": [seeds, d_sae, d_in],
        "rows": rows,
        "seconds": round(taken, 1),
        "processor_seconds": round(busy, 1),
        "peak_mb": round(peak),
        "certified": [int(t.certified.sum()) for t in found.tables],
    }
    print(json.dumps(result))
    return result


def main() -> int:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("planted", "predict", "cost"))
    parser.add_argument("directory", nargs="?", type=Path, help="folder of SAEs, for predict")
    parser.add_argument("--activations", type=Path, help="activation store, with a folder")
    parser.add_argument("--cache", type=Path, default=Path(".bench/passport"), help="for predict")
    parser.add_argument(
        "--configfile", nargs="+", type=Path, default=[], help="laid over config/config.yaml"
    )
    parser.add_argument("--steps", type=int, help="of training, for predict; the recipe's own")
    parser.add_argument("--campaigns", type=int, default=20, help="per plan")
    parser.add_argument("--d-sae", type=int, default=16384)
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = resolve_device(args.device)
    try:
        if args.what == "planted":
            found = run_planted(args.campaigns)
        elif args.what == "cost":
            found = run_cost(args.d_sae, args.d_in, args.seeds, args.rows, args.k, device)
        else:
            found = both_predictions(args, device)
    except HusaiError as error:
        print(f"bench_passport: {error}", file=sys.stderr)
        return 1
    if args.json:
        write_json(args.json, finite(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
