"""Verb ``subject``: make the model under study."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from husai.jobs.arguments import add_compute, add_spec, describe
from husai.progress import log
from husai.provenance import folder, job

MANIFEST = "manifest.json"


def add_arguments(command: ArgumentParser) -> None:
    describe(
        command,
        reads="the probing data sets' training text, or the model hub",
        writes="model/ with weights, metrics and leak probe",
        costs="minutes on two CPU cores",
    )
    add_spec(command)
    command.add_argument(
        "--out",
        type=Path,
        required=True,
        help="manifest to write, results/subjects/{subject}/model/manifest.json",
    )
    add_compute(command)


def run(args: Namespace) -> None:
    """Make the subject of ``--spec``."""
    from husai.planning.specs import SubjectSpec, read_spec

    spec = read_spec(SubjectSpec, args.spec)
    subject_job(spec, args.out, device=args.device)


def subject_job(spec, out: str | Path, *, device: str = "auto") -> dict:
    """Make the subject ``spec`` in folder ``out``; returns its metrics. A randomised one copies
    ``{out}/../../{name without -random}/model``.
    """
    from husai.compute import resolve_device
    from husai.recipe import RANDOM
    from husai.subjects.make import make_subject

    out, parent = folder(out), None
    if spec.randomise:
        parent = out.parent.parent / spec.name.removesuffix(RANDOM) / "model"
    with job(out / MANIFEST, config=spec.values(), seeds=[spec.seed]) as work:
        if parent is not None:
            work.reads(parent / MANIFEST)
        metrics = make_subject(spec.values(), out, device=resolve_device(device), parent=parent)
        overlap = metrics.get("text_overlap_rows", 0)
        work.notes(text_overlap_rows=overlap, corpus_sha256=metrics.get("corpus_sha256"))
        work.writes(*sorted(p for p in out.iterdir() if _is_output(p)))
    probe = metrics.get("leak_probe", {})
    log(
        f"subject {spec.name}: loss {metrics.get('loss')}, accuracy {metrics.get('accuracy')}, "
        f"leak excess {probe.get('excess')}"
    )
    return metrics


def _is_output(path: Path) -> bool:
    return (
        path.suffix in (".safetensors", ".json")
        and path.name != MANIFEST
        and not path.name.startswith(".")
        and not path.name.endswith(".failed.json")
    )
