"""One SAE trainer, run in a process of its own on rows from a file; :mod:`bench_sae` starts it once
per trainer and compares.

Every trainer fits the same TopK (no AuxK) to the same rows with Adam, the same learning rate,
warm-up and decay, and gradient norm 1. Time is taken between requests for a batch (HUSAI's: between
reports of progress, every ten steps), so it covers everything a step does: on the clock, and as CPU
time of the process (all threads), which other work on the machine disturbs less. On a GPU it is
taken every 20 steps, as reading the clock means to wait for the device."""

import argparse
import json
import resource
import sys
import time
import types

import torch


class Stopwatch:
    """Notes the time every few steps: as often as it is told of steps on a CPU, after 20 of them on
    a GPU.
    """

    def __init__(self, device):
        self.stride, self.steps, self.stamps = 20 if device.type == "cuda" else 1, 0, []
        self.sync = torch.cuda.synchronize if device.type == "cuda" else (lambda: None)

    def step(self, n=1):
        """Called after ``n`` more steps."""
        self.steps += n
        if not self.stamps or self.steps - self.stamps[-1][0] >= self.stride:
            self.sync()
            self.stamps.append((self.steps, time.perf_counter(), time.process_time()))

    def median(self):
        """Seconds of a step on the clock and of CPU time, the first steps left out."""
        spans = torch.tensor(self.stamps, dtype=torch.float64).diff(dim=0)[3:]
        return (spans[:, 1:] / spans[:, :1]).median(dim=0).values.tolist()


def batches(rows, spec, seed, watch):
    """Endless shuffled batches; notes the time of requests."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator).to(rows.device)
        for start in range(0, len(rows) - spec["batch_size"] + 1, spec["batch_size"]):
            watch.step()
            yield rows[order[start : start + spec["batch_size"]]]


def rate(step, spec):
    """Learning rate factor: linear warm-up and decay."""
    return min(1.0, (step + 1) / spec["warmup"], (spec["steps"] - step) / spec["decay"])


def saelens(rows, spec, seed, watch):
    """SAELens' SAETrainer at its defaults but for the schedule and AuxK."""
    from sae_lens.config import SAETrainerConfig
    from sae_lens.registry import get_sae_training_class
    from sae_lens.training.sae_trainer import SAETrainer

    torch.manual_seed(seed)
    device = str(rows.device)
    name = spec.get("architecture", "topk")
    nested = {"matryoshka_widths": spec["groups"]} if name == "matryoshka" else {}
    sae_class, config_class = get_sae_training_class("matryoshka_batchtopk" if nested else name)
    config = config_class(
        **nested,
        d_in=spec["d_in"],
        d_sae=spec["d_sae"],
        k=spec["k"],
        device=device,
        aux_loss_coefficient=0.0,
        decoder_init_norm=1.0,
    )
    trainer_config = SAETrainerConfig(
        total_training_samples=spec["steps"] * spec["batch_size"],
        train_batch_size_samples=spec["batch_size"],
        lr=spec["lr"],
        lr_end=0.0,
        lr_warm_up_steps=spec["warmup"],
        lr_decay_steps=spec["decay"],
        device=device,
        autocast=spec["bf16"],
    )
    sae = sae_class(config).to(device)
    sae.b_dec.data = rows[:4096].mean(0)
    sae = SAETrainer(trainer_config, sae, batches(rows, spec, seed, watch)).fit()
    return lambda x: sae(x)


def dictionary_learning(rows, spec, seed, watch):
    """dictionary_learning's TopKTrainer.update, as its trainSAE loop calls it."""
    # Its package imports nnsight for an activation buffer that is not used here.
    sys.modules["nnsight"] = types.SimpleNamespace(LanguageModel=None)
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=spec["steps"],
        activation_dim=spec["d_in"],
        dict_size=spec["d_sae"],
        k=spec["k"],
        layer=0,
        lm_name="none",
        lr=spec["lr"],
        auxk_alpha=0,
        warmup_steps=spec["warmup"],
        decay_start=spec["steps"] - spec["decay"],
        seed=seed,
        device=str(rows.device),
    )
    source = batches(rows, spec, seed, watch)
    for step in range(spec["steps"]):
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=spec["bf16"]):
            trainer.update(step, next(source))
    return trainer.ae


def sparsify(rows, spec, seed, watch):
    """sparsify's SparseCoder with the operations of its Trainer's step, which itself needs a
    language model; fused Adam.
    """
    torch.cuda.is_bf16_supported = (
        (lambda: False) if rows.device.type == "cpu" else torch.cuda.is_bf16_supported
    )
    from sparsify import SparseCoder, SparseCoderConfig

    torch.manual_seed(seed)
    sae = SparseCoder(
        spec["d_in"], SparseCoderConfig(num_latents=spec["d_sae"], k=spec["k"]), device=rows.device
    )
    sae.b_dec.data = rows[:4096].mean(0)
    adam = torch.optim.Adam(sae.parameters(), lr=spec["lr"], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rate(step, spec))
    source = batches(rows, spec, seed, watch)
    for _ in range(spec["steps"]):
        x = next(source)
        sae.set_decoder_norm_to_unit_norm()
        sae(x).fvu.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        sae.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        schedule.step()
    return lambda x: sae(x).sae_out


def husai(rows, spec, seed, watch):
    """HUSAI's train_ensemble with all seeds at once, curves at 0, 80 and 100% of the steps."""
    from husai.recipe import Recipe
    from husai.sae.training.ensemble import train_ensemble

    recipe = Recipe(
        "bench",
        "rows",
        spec.get("architecture", "topk"),
        spec["d_sae"],
        **spec.get("recipe", {"k": spec["k"]}),
        steps=spec["steps"],
        batch_size=spec["batch_size"],
        learning_rate=spec["lr"],
        warmup_fraction=spec["warmup"] / spec["steps"],
        decay_fraction=spec["decay"] / spec["steps"],
        auxk_coefficient=0.0,
        b_dec_init="mean",
    )

    def progress(n, note):
        watch.step(n)

    device = str(rows.device)
    seeds = list(range(seed, seed + spec["seeds"]))
    dtype = spec.get("dtype", "float32")
    result = train_ensemble(
        recipe,
        seeds,
        rows,
        held_out=rows[:256],
        device=device,
        dtype=dtype,
        progress=progress,
        sparse=spec.get("sparse"),
        curve_points=1,
    )
    saes = [s.to(device) for s in result.saes]
    return lambda x: [s(x) for s in saes]


def explained_variance(x, x_hat):
    """``1 - sum ||x - x_hat||^2 / sum ||x - mean||^2``."""
    x = x.double()
    return float(1 - (x - x_hat.double()).square().sum() / (x - x.mean(0)).square().sum())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trainer", choices=("husai", "saelens", "dictionary_learning", "sparsify"))
    parser.add_argument("--rows", required=True)
    parser.add_argument("--spec", required=True, help="JSON")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    spec = json.loads(args.spec)
    if spec.get("threads"):
        torch.set_num_threads(spec["threads"])
    device = torch.device(spec["device"])
    saved = torch.load(args.rows, weights_only=True)
    rows, held_out = saved["rows"].to(device), saved["held_out"].to(device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = spec.get("dtype") == "tf32"
        torch.cuda.reset_peak_memory_stats()
    watch = Stopwatch(device)
    start = time.perf_counter()
    model = globals()[args.trainer](rows, spec, 0, watch)
    watch.sync()
    total = time.perf_counter() - start
    with torch.no_grad():
        outputs = model(held_out)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    wall, cpu = watch.median()
    peak = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    result = {
        "ms_per_step": 1e3 * wall,
        "cpu_ms_per_step": 1e3 * cpu,
        "total_s": total,
        "ev": [explained_variance(held_out, o) for o in outputs],
        "peak_mb": peak / 2**20,
    }
    with open(args.out, "w") as handle:
        json.dump(result, handle)


if __name__ == "__main__":
    main()
