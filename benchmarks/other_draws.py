"""How much the verdict of the embedded default hangs on its confirmation: the finished run's
candidate confirmed again under other configuration hashes, and so with other seeds and other data
sets drawn.

    python benchmarks/other_draws.py [RUN] [--draws 3] [--folder DIR]   # RUN: a folder where make run ended

Everything before the confirmation is copied; each copy's ledger is its own and empty, so that each
is a first attempt. Twenty to forty minutes a draw on two cores. Prints the gates and what fails,
RUN itself first."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
AFTER_SELECTION = ("confirmation", "gate", "passport", "release", "stress", "benchmarks")
TOLD = ("saebench.", "ood.", "cebench.", "stability.S lcb", "stability.shared_fraction lcb")
TOLD += ("faithfulness.recovered lcb",)
"""How the conditions begin that are printed when they pass, too."""
DECISION = Path("results/gate/strict/release_policy.json")


def prepared(run: Path, folder: Path, number: int) -> None:
    """Copy what the run made before its confirmation, and add activations of the data sets of this
    draw; a folder that is there goes on instead.

    What was measured of the selection's data sets stands: the list of all activations keeps its
    age."""
    if (folder / "probed").exists():
        return
    if not (folder / "results").exists():
        shutil.copytree(
            run / "results",
            folder / "results",
            ignore=lambda at, names: AFTER_SELECTION if Path(at) == run / "results" else (),
        )
    shutil.rmtree(folder / "results/external/baselines/confirmation", ignore_errors=True)
    lists = [p.relative_to(run) for p in run.glob("results/subjects/*/probes/manifest.json")]
    for path in lists:
        (folder / path).unlink(missing_ok=True)
    snakemake(folder, number, *map(str, lists))
    for path in lists:
        shutil.copystat(run / path, folder / path)
    (folder / "probed").touch()


def snakemake(folder: Path, number: int, *targets: str) -> None:
    """Run the workflow there with another salt in the hash that everything is drawn from."""
    overlay = folder / "draw.yaml"
    overlay.write_text(f"external: {{datasets: {{confirmation: {{salt: {number}}}}}}}\n")
    flow = [sys.executable, "-m", "snakemake", "--profile", ROOT / "profiles/local", "--nolock"]
    flow += ["--snakefile", ROOT / "Snakefile", "--directory", folder]
    flow += ["--configfile", ROOT / "config/config.yaml", overlay, "--", *targets]
    with open(folder / "log.txt", "a") as log:
        status = subprocess.run([str(word) for word in flow], stdout=log, stderr=log).returncode
    if status:
        sys.exit(f"snakemake ended with status {status}; see {folder / 'log.txt'}")


def shown(folder: Path) -> None:
    """The gates of a decision, and the conditions that it fails."""
    decision = json.loads((folder / DECISION).read_text())
    gates = {name: passed for name, passed in decision["gates"].items() if name != "pass_all"}
    print(f"\n{folder}: {decision['verdict']}, {sum(gates.values())} of {len(gates)} gates pass")
    for row in decision["rows"]:
        margin = row["condition"].startswith(TOLD)
        if margin or not row["passed"]:
            bounds = "" if row["lcb"] is None else f" [{row['lcb']:.4f}, {row['ucb']:.4f}]"
            value = "" if row["value"] is None else f"{row['value']:.4f}{bounds}"
            print(f"{'passes' if row['passed'] else 'FAILS ':6} {row['condition']} {value}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", type=Path, default=ROOT)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench/draws")
    args = parser.parse_args()
    shown(args.run)
    for number in range(1, args.draws + 1):
        folder = args.folder / f"draw{number}"
        prepared(args.run, folder, number)
        snakemake(folder, number)
        shown(folder)


if __name__ == "__main__":
    main()
