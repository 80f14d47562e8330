"""Every architecture and option of training beside its nearest plain one, in one run: milliseconds
per step and SAE, and explained variance at equal steps, SAELens' own BatchTopK and Matryoshka among
them.

    .bench-venv/bin/python benchmarks/sae_architectures.py [--device cuda] [--d-in N] [--d-sae N]
    [--batch N] [--k N] [--steps N] [--seeds N]

Every row is trained in a process of its own (see :mod:`sae_trainers`). ReLU and JumpReLU have a
fixed sparsity coefficient: their L0 is not matched, so that their time, but not their explained
variance, compares with that of the others."""

import argparse
import tempfile

from bench_sae import full_spec, run, write_rows

PLAIN = {"topk": {}, "batchtopk": {}, "relu": {}, "jumprelu": {}}
COEFFICIENTS = {"relu": 4.0, "jumprelu": 0.5}
"""Sparsity coefficients that leave a few dozen latents active on the rows made here."""
OPTIONS = {
    "aligned": {"aligned": True},
    "weight decay": {"weight_decay": 0.01},
    "whitening": {"whitening": True},
    "soft-frozen decoder": {"soft_frozen": 0.8},
    "frozen encoder": {"frozen_encoder": True},
}
CASES = [
    *((a, a, "", {}) for a in PLAIN),
    ("matryoshka", "batchtopk", "", {}),
    ("relu", "relu", "dense kernels", {"sparse": False}),
    *((a, a, name, option) for a in ("topk", "relu") for name, option in OPTIONS.items()),
]
"""Architecture, its nearest plain one, name of an option and its fields (``sparse``: of
``train_ensemble``)."""


def measured(args, rows, trainer, architecture, option):
    """Milliseconds per step and SAE on the clock and of CPU time, and explained variance."""
    from husai.sae.training.objectives import matryoshka_groups

    seeds = args.seeds if trainer == "husai" else 1
    coefficient = COEFFICIENTS.get(architecture)
    own = {"k": args.k} if coefficient is None else {"sparsity_coefficient": coefficient}
    size = {"d_in": args.d_in, "d_sae": args.d_sae, "batch_size": args.batch, "k": args.k}
    changes = {"steps": args.steps, "seeds": seeds, "architecture": architecture}
    fields = {name: value for name, value in option.items() if name != "sparse"}
    changes |= {
        "sparse": option.get("sparse"),
        "recipe": {**own, **fields},
        "groups": matryoshka_groups(args.d_sae),
    }
    found = run(trainer, full_spec(size, args, **changes), rows)
    if "error" in found:
        return found
    times = {n: found[n] / seeds for n in ("ms_per_step", "cpu_ms_per_step")}
    return {**times, "ev": sum(found["ev"]) / len(found["ev"])}


def table(args):
    """The table, one line as soon as it is measured."""
    print("| trainer | architecture | option | ms | CPU ms | CPU ms over the plain one's | EV |")
    print("|---|---|---|---|---|---|---|", flush=True)
    plain = {}
    with tempfile.TemporaryDirectory() as folder:
        rows = write_rows(folder, args.d_in, 65536)
        cases = [("husai", *case) for case in CASES]
        cases += [("saelens", a, a, "", {}) for a in ("batchtopk", "matryoshka")]
        for trainer, architecture, nearest, name, option in cases:
            found = measured(args, rows, trainer, architecture, option)
            if "error" in found:
                print(f"| {trainer} | {architecture} | {name} | failed: {found['error']} | | | |")
                continue
            cpu = found["cpu_ms_per_step"]
            own = plain.setdefault((trainer, nearest), cpu)
            line = (trainer, architecture, name, f"{found['ms_per_step']:.3g}", f"{cpu:.3g}")
            print(
                "|", " | ".join((*line, f"{cpu / own:.2f}x", f"{found['ev']:.4f}")), "|", flush=True
            )


def arguments():
    """Sizes; the defaults are those of a small language model on a CPU."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    for name, value in (("d-in", 384), ("d-sae", 768), ("batch", 1024), ("k", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, default=2)
    return parser.parse_args(namespace=argparse.Namespace(quick=False))


if __name__ == "__main__":
    table(arguments())
