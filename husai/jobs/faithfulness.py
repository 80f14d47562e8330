"""Verb ``faithfulness``: the subject's loss with an SAE's reconstruction for its activations."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.jobs.arguments import add_path, describe
from husai.jobs.measured import (
    Work,
    add_seeds,
    identified,
    measure_seeds,
    one_hook,
    write_record,
)
from husai.provenance import folder


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="an SAE, the subject's model/",
        writes="faithfulness.json",
        costs="two forward passes over the texts, and one per SAE",
    )
    add_seeds(command)
    add_path(command, "--model", "the subject's model/ folder or its manifest", required=True)


def run(args: Namespace) -> None:
    """Measure the SAEs of a recipe in the same passes."""
    from husai.planning.specs import FaithfulnessSpec, read_spec

    spec = read_spec(FaithfulnessSpec, args.spec)
    measure_seeds(
        args,
        "faithfulness",
        lambda work: faithfulness_jobs(spec, work, args.model, device=args.device),
    )


def faithfulness_jobs(
    spec, work: Work, model_dir: str | Path, *, device: str = "auto"
) -> list[dict]:
    """Measure SAEs of one hook together and write a record of each,
    ``results/external/{recipe}/seed{seed}/faithfulness.json``.

    A record keeps the losses of every text beside ``recovered``, so that it can be derived again
    (:func:`husai.statistics.recovered_interval`).

    Parameters
    ----------
    work : sequence of (path, path)
        A checkpoint that ``load_sae`` reads, and where its record goes.

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
    hook = one_hook(found, "faithfulness", "spliced")
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
    corpus = model_dir / "corpus.safetensors"
    inputs = [model_dir / "config.json", *([corpus] if corpus.is_file() else [])]
    records = []
    for (_, out), one, result in zip(work, found, results, strict=True):
        record = one.record(
            "faithfulness",
            {"recovered": result.recovered},
            inputs,
            spec.values(),
            phase=spec.split,
            loss=subject.task,
            texts={key: values.tolist() for key, values in result.texts.items()},
        )
        write_record(out, record, {"split": split, "n_texts": len(tokens)})
        records.append(record)
    return records
