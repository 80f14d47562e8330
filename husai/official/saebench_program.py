"""SAEBench's own sparse-probing evaluation of one SAE directory; run by path in SAEBench's
environment, imports nothing of husai.

    python husai/official/saebench_program.py --sae results/saes/language/topk-d1024-k32/seed42
    --model_name language --cache CACHE
        --datasets 87_glue_cola 90_glue_qnli --ks 1 2 5 16 --output_folder
        results/official/topk-d1024-k32/seed42

With a cache of activations as sae-probes names them
(``model_activations_{model}/{dataset}_{hook}.pt``) no model is loaded, so any subject can be
evaluated; without it ``--model_name`` must be one that TransformerLens knows."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path


def missing_activations(
    cache: Path, model_name: str, hook_name: str, names: list[str]
) -> list[str]:
    """Data sets without cached activations."""
    return [
        n
        for n in names
        if not (cache / f"model_activations_{model_name}" / f"{n}_{hook_name}.pt").is_file()
    ]


def content_hash(args: argparse.Namespace) -> str:
    """16 hex digits of the SAE's files and all options: sae-probes skips results it finds, and
    their names carry neither.
    """
    digest = hashlib.sha256(repr(sorted(vars(args).items())).encode())
    for path in sorted(p for p in args.sae.iterdir() if p.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def main(arguments: list[str] | None = None) -> int:
    """Run the evaluation; prints the result file's name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sae", type=Path, required=True, help="directory in SAELens' inference format"
    )
    parser.add_argument("--model_name", required=True)
    parser.add_argument("--hook_name", help="default: the SAE's own")
    parser.add_argument(
        "--cache", type=Path, help="activations by data set; without it the model is loaded"
    )
    parser.add_argument("--datasets", nargs="+", help="default: all 113")
    parser.add_argument("--ks", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--reg_type", choices=("l1", "l2"), default="l1")
    parser.add_argument("--random_seed", type=int, default=42)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output_folder", type=Path, required=True)
    args = parser.parse_args(arguments)

    from sae_bench.evals.sparse_probing_sae_probes.eval_config import (
        SparseProbingSaeProbesEvalConfig,
    )
    from sae_bench.evals.sparse_probing_sae_probes.main import run_eval
    from sae_lens import SAE

    sae = SAE.load_from_disk(str(args.sae), device=args.device)
    hook_name = args.hook_name or sae.cfg.metadata.hook_name
    sae.cfg.metadata.hook_name, sae.cfg.metadata.model_name = hook_name, args.model_name
    config = SparseProbingSaeProbesEvalConfig(
        model_name=args.model_name,
        random_seed=args.random_seed,
        reg_type=args.reg_type,
        ks=args.ks,
        results_path=str(args.output_folder / "sae_probes" / content_hash(args)),
        model_cache_path=str(args.cache) if args.cache else None,
        **({"dataset_names": args.datasets} if args.datasets else {}),
    )
    if args.cache:
        missing = missing_activations(args.cache, args.model_name, hook_name, config.dataset_names)
        if missing:
            print(
                f"{args.cache}: no activations of {len(missing)} data sets at {hook_name} "
                f"({missing[0]}, ...); fill the cache",
                file=sys.stderr,
            )
            return 1
    release = "_".join(args.sae.resolve().parts[-2:])
    run_eval(config, [(release, sae)], args.device, str(args.output_folder), force_rerun=True)
    print(args.output_folder / f"{release}_custom_sae_eval_results.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
