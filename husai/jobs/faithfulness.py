"""Verb ``faithfulness``: what the subject loses when an SAE's reconstruction takes the place of its
activations, on held-out text.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai import provenance
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.jobs.arguments import describe
from husai.jobs.measured import Work, add_seeds, identified, measure_seeds
from husai.provenance import folder


def add_arguments(command: ArgumentParser) -> None:
    """Options of the verb."""
    describe(
        command,
        reads="an SAE, the subject's model/",
        writes="faithfulness.json",
        costs="two forward passes over the texts, and one per SAE",
    )
    add_seeds(command)
    command.add_argument(
        "--model", type=Path, required=True, help="the subject's model/ folder or its manifest"
    )


def run(args: Namespace) -> None:
    """Measure the SAEs of a recipe in the same passes."""
    from husai.compute import use_threads
    from husai.planning.specs import FaithfulnessSpec, read_spec

    use_threads(args.threads)
    spec = read_spec(FaithfulnessSpec, args.spec)

    def measure(work: Work) -> None:
        faithfulness_jobs(spec, work, args.model, device=args.device)

    measure_seeds(args, "faithfulness", measure)


def faithfulness_jobs(
    spec,
    work: Work,
    model_dir: str | Path,
    *,
    device: str = "auto",
) -> list[dict]:
    """Measure SAEs of one hook together and write a record of each,
    ``results/external/{recipe}/seed{seed}/faithfulness.json``.

    A record keeps the losses of every text beside ``recovered``, so that it can be derived again
    (:func:`husai.statistics.recovered_interval`).

    Parameters
    ----------
    spec : FaithfulnessSpec
    work : sequence of (path, path)
        A checkpoint that ``load_sae`` reads, and where its record goes.
    model_dir : path
        The subject's model folder, or the manifest in it.

    Raises
    ------
    HusaiError
        SAEs of different hooks, a transcoder, or a hook that the subject lacks.
    """
    from husai.compute import resolve_device
    from husai.faithfulness import recovered
    from husai.subjects import load_subject
    from husai.subjects.rows import held_out_texts

    where, model_dir = resolve_device(device), folder(model_dir)
    found = [identified(sae_dir, spec, where) for sae_dir, _ in work]
    hooks = {one.hook_name for one in found}
    if len(hooks) > 1:
        raise HusaiError(
            f"faithfulness: SAEs of different hooks ({', '.join(sorted(hooks))}) cannot be spliced "
            "in one pass; group them by hook"
        )
    hook = hooks.pop()
    subject = load_subject(model_dir, where)
    split = "confirmation" if spec.split == "confirmation" else "held_out"
    tokens, answers = held_out_texts(subject, model_dir, split, spec.n_texts, spec.text_seed)
    results = recovered(
        subject,
        hook,
        [one.sae for one in found],
        tokens,
        answers=answers,
        label=f"faithfulness of {len(found)} SAEs at {hook}",
    )
    text_files = [p for p in (model_dir / "corpus.safetensors",) if p.is_file()]
    records = []
    for (_, out), one, result in zip(work, found, results, strict=True):
        name, seeds = one.name, [] if one.name["seed"] is None else [one.name["seed"]]
        inputs = [*one.files, model_dir / "config.json", *text_files]
        with provenance.job(
            Path(out).with_name(Path(out).stem + ".manifest.json"),
            config=spec.values(),
            seeds=seeds,
            data_slice={"split": split, "n_texts": len(tokens)},
        ) as done:
            record = new_record(
                "faithfulness",
                name["subject"],
                name["recipe"],
                name["recipe_hash"],
                {"recovered": result.recovered},
                inputs,
                spec.values(),
                seeds,
                seed=name["seed"],
                hook_name=hook,
                phase=spec.split,
                loss=subject.task,
                sae_meta=name["sae_meta"],
                texts={key: values.tolist() for key, values in result.texts.items()},
            )
            provenance.write_json(out, record)
            done.reads(*inputs)
            done.writes(out)
        records.append(record)
    return records
