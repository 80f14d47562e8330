"""An activation store of 20 million rows from text: peak memory, and whether one that was killed
twice equals one that was not.

    python benchmarks/store_from_text.py [--rows 20000000] [--kills 2] [--folder DIR]

The subject is a random GPT-NeoX of one layer and 64 values per token, as the time is to go into
text, rows and files. Rows are float16: 2.6 GB a store, two stores and the text in all."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
HOOK, WIDTH, N_CTX = "blocks.0.hook_resid_post", 64, 128
TOKENS_PER_DOCUMENT = 25
"""Of the made-up sentences, at least, by the tokenizer of the tests' model."""
LIMIT_MB = 2000


def run(command: list[str], kill_when=None) -> tuple[float, float]:
    """Seconds and peak resident MB of a command, killed without warning once ``kill_when()``.

    Raises
    ------
    SystemExit
        It failed by itself.
    """
    start, peak = time.monotonic(), 0.0
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while process.poll() is None:
        peak = max(peak, _resident_mb(process.pid))
        if kill_when is not None and kill_when():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.1)
    said = process.communicate()[1]
    if process.returncode not in (0, -signal.SIGKILL):
        sys.exit(f"{' '.join(command[:5])}: status {process.returncode}\n{said[-2000:]}")
    return time.monotonic() - start, peak


def _resident_mb(pid: int) -> float:
    """Highest resident memory of a process so far, as Linux keeps it; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def make_inputs(folder: Path, n_rows: int) -> list[str]:
    """Write model and text; the command that makes the subject."""
    from hub import build

    build.causal_model(folder / "hf", n_layers=1, width=WIDTH)
    n_documents = int(1.2 * n_rows / TOKENS_PER_DOCUMENT) + 2000
    with open(folder / "text.txt", "w") as out:
        for start in range(0, n_documents, 10_000):
            out.writelines(f"{start} {text}\n\n" for text in build.documents(10_000, seed=start))
    corpus = {"sources": [{"kind": "files", "paths": [str(folder / "text.txt")]}]}
    corpus["max_chars_per_row"] = None
    spec = {"kind": "pretrained", "name": "bench", "model": str(folder / "hf"), "n_ctx": N_CTX}
    return _husai("subject", {**spec, "corpus": corpus}, folder / "model/manifest.json")


def store(folder: Path, name: str, n_rows: int) -> list[str]:
    """The command that writes a store."""
    rows = {"train_rows": n_rows, "held_out_rows": 1000, "confirmation_rows": 1000}
    spec = {"name": "bench", "seed": 0, "rows": {**rows, "dtype": "float16"}}
    model = ["--model", str(folder / "model/manifest.json"), "--hook", HOOK]
    return [*_husai("activations", spec, folder / name / "manifest.json"), *model]


def _husai(verb: str, spec: dict, out: Path) -> list[str]:
    where = ["--out", str(out), "--device", "cpu"]
    return [sys.executable, "-m", "husai", verb, "--spec", json.dumps(spec), *where]


def differences(a: Path, b: Path) -> list[str]:
    """Names of the stores' files that are not the same in both, byte by byte."""
    from husai.provenance import sha256_file

    found = [
        {str(p.relative_to(folder)): sha256_file(p) for p in folder.glob("*/*") if p.is_file()}
        for folder in (a, b)
    ]
    names = found[0].keys() | found[1].keys()
    return sorted(n for n in names if found[0].get(n) != found[1].get(n))


def measure(folder: Path, n_rows: int, kills: int) -> bool:
    """Print what was measured; whether it is as it should be."""
    os.environ["PYTHONPATH"] = str(ROOT)
    steps = {"subject and corpus": run(make_inputs(folder, n_rows))}
    steps["store in one go"] = run(store(folder, "whole", n_rows))
    shards = len(list((folder / "whole/train").glob("shard-*")))
    for kill in range(1, kills + 1):
        wanted = max(1, shards * kill // (kills + 1))
        steps[f"killed at shard {wanted}"] = run(
            store(folder, "cut", n_rows),
            lambda wanted=wanted: len(list((folder / "cut/train").glob("shard-*"))) > wanted,
        )
    steps["gone on with"] = run(store(folder, "cut", n_rows))
    for name, (seconds, peak) in steps.items():
        print(f"{name:<22}{seconds:8.1f} s {peak:8.0f} MB")
    wrong = differences(folder / "whole", folder / "cut")
    most = max(peak for _, peak in steps.values())
    print(f"{n_rows} rows of {WIDTH} values, {shards} shards; peak {most:.0f} MB of {LIMIT_MB}")
    print("identical" if not wrong else f"DIFFERENT: {', '.join(wrong)}")
    return not wrong and most < LIMIT_MB


def main() -> int:
    """Measure in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        return 0 if measure(Path(folder), args.rows, args.kills) else 1


if __name__ == "__main__":
    sys.exit(main())
