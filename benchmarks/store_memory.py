"""Memory of training from a store of a hundred million rows of 512 values: 205 GB to read, a
quarter of a gigabyte on the disk.

The store is real as far as the reader can tell: its header names one shard file of random rows
again and again."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROWS, WIDTH, SHARD_ROWS = 100_000_000, 512, 131_072
LIMIT_MB = 2000


def repeated_store(path: Path, n_rows: int, d: int, shard_rows: int) -> None:
    """A store of ``n_rows`` rows, a multiple of ``shard_rows`` or a little more, in which one shard
    file occurs many times.
    """
    import torch

    from husai.activations import write_store
    from husai.provenance import hash_json

    write_store(path, torch.randn(shard_rows, d, generator=torch.Generator().manual_seed(0)))
    header = json.loads((path / "store.json").read_text())
    shard = header["shards"][0]
    copies = -(-n_rows // shard_rows)
    header = {
        **{k: v for k, v in header.items() if k != "header_sha256"},
        "n_rows": copies * shard_rows,
        "shards": [shard] * copies,
    }
    (path / "store.json").write_text(json.dumps({**header, "header_sha256": hash_json(header)}))


def train(path: str, seeds: int, steps: int, threads: int) -> None:
    """Train from the store at ``path`` and print rows and memory as JSON; run in a process of its
    own.
    """
    import torch

    from husai.activations import ActivationStore
    from husai.recipe import Recipe
    from husai.sae.training.members import Ensemble, Member
    from husai.sae.training.workers import Workers

    torch.set_num_threads(threads)
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    store = ActivationStore.open(path)
    recipe = Recipe("bench", "rows", "topk", 2048, k=32, steps=steps, batch_size=4096)
    ensemble = Ensemble(recipe, [Member(s) for s in range(seeds)], store)
    Workers(1, ensemble.device).advance(ensemble.lanes, steps)
    losses = [loss for lane in ensemble.lanes for loss in lane.take_losses()]
    for lane in ensemble.lanes:
        lane.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "rows": len(store),
                "gigabytes": len(store) * store.row_bytes / 1e9,
                "imported_mb": imported,
                "peak_mb": peak,
                "in_windows": ensemble.lanes[0].readers[0].in_windows,
                "loss": losses,
            }
        )
    )


def table(args) -> list[dict]:
    """Print peak memory for one and for several seeds, from a million and from a hundred million
    rows.
    """
    print(
        "\n## Memory of training from a store, 512->2048, batch 4096\n\n| rows | GB | SAEs | "
        "steps | peak MB | of it imports |\n|---|---|---|---|---|---|"
    )
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in (1_000_000, ROWS):
            path = Path(folder) / str(rows)
            repeated_store(path, rows, WIDTH, SHARD_ROWS)
            for seeds in (1, args.seeds):
                command = [
                    sys.executable,
                    __file__,
                    str(path),
                    str(seeds),
                    str(args.steps),
                    str(args.threads),
                ]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    sys.exit(
                        f"store_memory: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
                    )
                line = {"seeds": seeds, "steps": args.steps, **json.loads(done.stdout)}
                found.append(line)
                row = (
                    f"{line['rows']:,}",
                    f"{line['gigabytes']:.1f}",
                    seeds,
                    args.steps,
                    f"{line['peak_mb']:.0f}",
                    f"{line['imported_mb']:.0f}",
                )
                print("| " + " | ".join(map(str, row)) + " |", flush=True)
    worst = max(line["peak_mb"] for line in found)
    print(f"\nlargest {worst:.0f} MB, limit {LIMIT_MB} MB")
    if worst > LIMIT_MB:
        sys.exit(f"store_memory: {worst:.0f} MB is more than {LIMIT_MB} MB")
    return found


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    train(sys.argv[1], *(int(a) for a in sys.argv[2:5]))
