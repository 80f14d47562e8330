"""Does a consensus of several seeds beat single seeds at equal width and L0?

    python benchmarks/consensus.py [--cache .bench/passport] [--members 4] [--wide 768]

ReLU SAEs of `passports.yaml`'s width and L0, five seeds, beside five consensus SAEs: each of four
wider members of its own, of whose latents those that recur in half of them or more were averaged
and refitted. Both are trained for the subject's default number of steps. Held-out stability, and
sparse probing of the selection's data sets. What it made is kept in the cache: started again, it
goes on where it was."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from bench_passport import CONFIG, prepared, run_verb

from husai.evidence import Metric, read_metric
from husai.planning.specs import TrainSpec
from husai.probing.tables import probing_metrics
from husai.provenance import read_json

SEEDS = range(700_101, 700_106)
"""Seeds that no configuration trains; of the consensus they name the groups."""
MIN_SHARE = 0.5
STABILITY = ("S", "shared_fraction", "explained_variance", "l0", "dead_fraction")
PROBING = ("delta_vs_dense", "delta_vs_neurons", "delta_vs_pca", "delta_vs_single")


def record(cache: Path, out: str, *words: str) -> dict:
    """A record that ``husai`` writes in ``cache``, unless it is there."""
    if not (cache / out).is_file():
        command = [sys.executable, "-m", "husai", *words, "--out", out]
        subprocess.run(command, cwd=cache, check=True)
    return read_json(cache / out)


def measure(cache: Path, members: int, wide: int) -> dict[str, dict[str, Metric]]:
    """Metrics of both kinds, by recipe."""
    config, work, specs, stored = prepared(cache, CONFIG)
    subject, hook, external = config.external.subject, Path(stored).name, "results/external"
    made = f"results/subjects/{subject}"
    probes, baselines = f"{made}/probes/manifest.json", f"{external}/baselines/{hook}.json"
    model = ("--model", f"{made}/model", "--probes")
    run_verb(cache, probes, "activations", specs.probes(subject), *model)
    probes_of = ("saebench", "--spec", specs.probing(), "--probes", probes)
    record(cache, baselines, *probes_of, "--baselines-only", "--hook", hook)
    training = config.training[subject]
    relu = next(r for r in work.frontier if r.architecture == "relu")
    single = replace(
        relu,
        sparsity_coefficient=None,
        steps=training.steps,
        learning_rate=training.learning_rate,
        tag="",
    )
    several = replace(
        single,
        consensus_members=members,
        consensus_min_share=MIN_SHARE,
        consensus_d_sae=wide,
    )
    found, singles = {}, []
    for recipe in (single, several):
        out = f"results/saes/{subject}/{recipe.id}/manifest.json"
        spec = TrainSpec(recipe=recipe, seeds=list(SEEDS)).text()
        run_verb(cache, out, "train", spec, "--activations", stored)
        where = f"{external}/{recipe.id}"
        agreed = ("stability", "--recipe", out, "--activations", stored)
        probed = (*probes_of, "--saes", out, "--baselines", baselines, "--all-seeds")
        metrics = record(cache, f"{where}/stability.json", *agreed)["metrics"]
        record(cache, f"{where}/probes.json", *probed)
        records = [read_json(cache / where / f"seed{seed}/saebench.json") for seed in SEEDS]
        singles = singles or records
        metrics = {name: read_metric(metrics[name]) for name in STABILITY}
        probing = probing_metrics(records, singles)
        probing["delta_vs_single"] = probing.pop("delta_vs_frozen")
        found[recipe.id] = metrics | probing
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".bench/passport"))
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--wide", type=int, default=768)
    args = parser.parse_args()
    found = measure(args.cache, args.members, args.wide)
    print(f"| | {' | '.join(found)} |")
    print("|---" * (1 + len(found)) + "|")
    for name in (*STABILITY, *PROBING):
        shown = [
            f"{c[name].value:.3f} [{c[name].lcb:.3f}, {c[name].ucb:.3f}]" for c in found.values()
        ]
        print(f"| {name} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
