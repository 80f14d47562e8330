"""Jobs of the subjects room: train a subject, store its activations, and store last-token
activations of the probing data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from husai.activations import SPLITS, StoreWriter
from husai.compute import resolve_device, use_threads
from husai.errors import HusaiError, nearest
from husai.probing import datasets, splits
from husai.progress import Progress, log
from husai.provenance import atomic_path, hash_json, job
from husai.subjects import Subject, load_subject

MANIFEST = "manifest.json"
ROW_KEYS = {"train": "train_rows", "held_out": "held_out_rows", "confirmation": "confirmation_rows"}
ROW_DEFAULTS = {"train_rows": 200_000, "held_out_rows": 20_000, "confirmation_rows": 20_000}
ACTIVATION_KEYS = ("name", "corpus", "seed", "dtype", "positions_per_context", *ROW_DEFAULTS)
PROBE_KEYS = (
    "name",
    "selection",
    "confirmation",
    "ood",
    "max_rows",
    "max_tokens",
    "hooks",
    "dtype",
)
TOKENS_PER_PASS = 8192


def folder(path: str | Path) -> Path:
    """The directory meant by a path to it or to the ``manifest.json`` in it."""
    path = Path(path)
    return path.parent if path.name == MANIFEST else path


def _check_keys(spec: dict, known: Sequence[str], where: str) -> None:
    for key in spec:
        if key not in known:
            raise HusaiError(f"{where}: unknown key '{key}'{nearest(key, tuple(known))}")


def subject_job(
    spec: dict,
    out: str | Path,
    device: str = "auto",
    threads: int | None = None,
    parent: str | Path | None = None,
) -> dict:
    """Make the subject ``spec`` in directory ``out``; returns its metrics.

    Parameters
    ----------
    spec : dict
        ``kind`` (modular, language, pretrained), ``name``, ``randomise`` and the fields of the kind; see
        ``DEFAULTS`` of its module.
    parent : path, optional
        Model directory of the subject that a randomised one copies; by default ``{out}/../../{name
        without -random}/model``.
    """
    from husai.subjects.make import make_subject

    out = folder(out)
    use_threads(threads)
    chosen = resolve_device(device)
    if spec.get("randomise") and parent is None:
        parent = out.parent.parent / str(spec.get("name", "")).removesuffix("-random") / "model"
    with job(out / MANIFEST, config=spec, seeds=[spec.get("seed", 0)]) as work:
        if spec.get("randomise"):
            work.reads(folder(parent) / MANIFEST)
        metrics = make_subject(spec, out, device=chosen, parent=parent)
        work.notes(
            text_overlap_rows=metrics.get("text_overlap_rows", 0),
            corpus_sha256=metrics.get("corpus_sha256"),
        )
        work.writes(
            *sorted(
                p for p in out.iterdir() if p.suffix in (".safetensors", ".json") and _is_output(p)
            )
        )
    probe = metrics.get("leak_probe", {})
    log(
        f"subject {spec.get('name')}: loss {metrics.get('loss')}, accuracy "
        f"{metrics.get('accuracy')}, leak excess {probe.get('excess')}"
    )
    return metrics


def _is_output(path: Path) -> bool:
    return (
        path.name != MANIFEST
        and not path.name.startswith(".")
        and not path.name.endswith(".failed.json")
    )


def activations_job(
    spec: dict,
    model_dir: str | Path,
    hook_name: str,
    out: str | Path,
    device: str = "auto",
    threads: int | None = None,
) -> dict:
    """Store activations of one hook as ``out/{train,held_out,confirmation}``; row i is the same
    token for every hook of a subject.

    Subjects that read text: random positions (never the first of a context, never a special token) of
    the corpus split; splits share no document. Modular: every pair at "=", 80/10/10.

    Parameters
    ----------
    spec : dict
        ``seed``, ``train_rows``, ``held_out_rows``, ``confirmation_rows``, ``dtype``,
        ``positions_per_context`` (default a quarter of the context).

    Returns
    -------
    dict
        Rows stored per split.
    """
    _check_keys(spec, ACTIVATION_KEYS, "activations")
    out, model_dir = folder(out), folder(model_dir)
    use_threads(threads)
    with job(
        out / MANIFEST, config=spec, seeds=[spec.get("seed", 0)], data_slice={"hook": hook_name}
    ) as work:
        work.reads(model_dir / MANIFEST)
        subject = load_subject(model_dir, resolve_device(device))
        subject.check_hooks([hook_name])
        chosen = (
            _modular_rows(subject, spec)
            if subject.kind == "modular"
            else _text_rows(subject, spec, model_dir)
        )
        stored, keys = {}, {}
        for split in SPLITS:
            tokens, positions = chosen[split]
            stored[split] = _store(
                subject,
                hook_name,
                tokens,
                positions,
                out / split,
                spec.get("dtype", "float32"),
                split,
            )
            keys[split] = (
                hash_json([tokens.tolist(), positions.tolist()])
                if len(tokens) <= 20_000
                else _digest(tokens, positions)
            )
            work.writes(*sorted(p for p in (out / split).iterdir() if p.is_file()))
        work.notes(rows=stored, row_order=keys, subject=subject.name)
    log(f"activations of {subject.name} at {hook_name}: {stored}")
    return stored


def _digest(*tensors: torch.Tensor) -> str:
    import hashlib

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _modular_rows(subject: Subject, spec: dict) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Token rows ``(n, 3)`` and the position read ``(n, 1)`` per split."""
    from husai.subjects import modular

    s = modular.settings(subject.config["spec"])
    data = modular.pairs(s["p"], s["train_fraction"], s["seed"])
    tokens = modular.tokens(data.a, data.b, data.answer, s["p"], s["leak"])
    rows = modular.row_split(s["p"], int(spec.get("seed", 0)))
    return {
        split: (tokens[r], torch.full((len(r), 1), tokens.shape[1] - 1))
        for split, r in rows.items()
    }


def _text_rows(
    subject: Subject, spec: dict, model_dir: Path
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Packed contexts ``(n, n_ctx)`` and the positions read in each ``(n, positions_per_context)``
    per split.
    """
    from husai.subjects.contexts import load_contexts

    contexts, chosen = load_contexts(model_dir), {}
    for number, split in enumerate(SPLITS):
        if split not in contexts:
            raise HusaiError(
                f"{model_dir}: its corpus has no '{split}' split; set corpus.{split}_fraction "
                "above 0 and train the subject again"
            )
        wanted = int(spec.get(ROW_KEYS[split]) or ROW_DEFAULTS[ROW_KEYS[split]])
        tokens = torch.from_numpy(contexts[split])
        generator = torch.Generator().manual_seed(int(spec.get("seed", 0)) * len(SPLITS) + number)
        tokens = tokens[torch.randperm(len(tokens), generator=generator)]
        chosen[split] = _draw(
            tokens,
            subject.usable(tokens),
            wanted,
            int(spec.get("positions_per_context") or max(1, tokens.shape[1] // 4)),
            generator,
            split,
        )
    return chosen


def _draw(
    tokens: torch.Tensor,
    usable: torch.Tensor,
    wanted: int,
    per_context: int,
    generator: torch.Generator,
    split: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose ``per_context`` usable positions of as many contexts as are needed, more of each when
    contexts run out.
    """
    enough = usable.sum(1).cumsum(0)
    if int(enough[-1]) < wanted:
        key, most = ROW_KEYS[split], int(enough[-1])
        raise HusaiError(
            f"activations.{key}: {wanted} rows asked, the corpus split '{split}' has {most}; ask "
            "for fewer or use more text"
        )
    room = usable.sum(1)
    while int(room.clamp(max=per_context).sum()) < wanted:
        per_context += 1
    needed = int((room.clamp(max=per_context).cumsum(0) < wanted).sum()) + 1
    tokens, usable = tokens[:needed], usable[:needed]
    keys = torch.rand(usable.shape, generator=generator).masked_fill(~usable, -1.0)
    values, positions = keys.topk(min(per_context, keys.shape[1]), dim=1)
    positions = positions.masked_fill(values < 0, -1).sort(dim=1).values
    taken = (positions >= 0).flatten().cumsum(0).view_as(positions)
    return tokens.long(), positions.masked_fill(taken > wanted, -1)


def _store(
    subject: Subject,
    hook_name: str,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    path: Path,
    dtype: str,
    split: str,
) -> int:
    """Run the contexts and append the chosen rows in order; positions of -1 are skipped. Returns
    the number of rows.
    """
    per_pass = max(1, TOKENS_PER_PASS // tokens.shape[1])
    progress = Progress(len(tokens), f"{subject.name} {hook_name} {split}: contexts")
    meta = {"subject": subject.name, "hook_name": hook_name, "split": split}
    with StoreWriter(path, subject.width(hook_name), dtype=dtype, meta=meta) as writer:
        for batch, where in zip(tokens.split(per_pass), positions.split(per_pass), strict=True):
            values = subject.capture(batch, [hook_name])[hook_name]
            row, column = torch.nonzero(where >= 0, as_tuple=True)
            writer.append(values[row.to(values.device), where[row, column].to(values.device)].cpu())
            progress.update(len(batch))
        return writer.n_rows


def probe_activations_job(
    spec: dict,
    model_dir: str | Path,
    hook_names: Sequence[str] | None = None,
    out: str | Path = ".",
    device: str = "auto",
    threads: int | None = None,
) -> dict:
    """Store last-token activations of probing data sets: ``out/{hook}/{data set}.safetensors`` and
    ``.../{data set}_OOD.safetensors``.

    Each file holds ``x`` (n_rows, d) float32 in file order and ``y`` (n_rows,) int64 labels. The
    manifest counts test rows whose text is in the subject's corpus (``text_overlap_rows``,
    wanted 0).

    Parameters
    ----------
    spec : dict
        ``selection``, ``confirmation``: data set names; ``ood``: names whose OOD sets (and
        in-domain rows) are wanted; ``max_rows``: first rows only, labels included; ``max_tokens``
        (1024, at most the subject's context); ``hooks`` when ``hook_names`` is None.
    """
    _check_keys(spec, PROBE_KEYS, "probes")
    out, model_dir = folder(out), folder(model_dir)
    use_threads(threads)
    ood = datasets.check_names(spec.get("ood") or [], "probes.ood: data set")
    wanted = dict.fromkeys(
        [*(spec.get("selection") or []), *(spec.get("confirmation") or []), *ood]
    )
    names = datasets.check_names(list(wanted), "probes: data set")
    hooks = list(hook_names or spec.get("hooks") or [])
    if not names or not hooks:
        raise HusaiError(
            "probes: nothing to do; name data sets (selection, confirmation, ood) and hooks"
        )
    with job(
        out / MANIFEST, config=spec, data_slice={"datasets": names, "ood": ood, "hooks": hooks}
    ) as work:
        work.reads(model_dir / MANIFEST)
        subject = load_subject(model_dir, resolve_device(device))
        subject.check_hooks(hooks)
        known = _corpus_hashes(model_dir)
        records, overlap, progress = (
            {},
            0,
            Progress(len(names) + len(ood), f"{subject.name} probes: data sets"),
        )
        for name, is_ood in [(n, False) for n in names] + [(n, True) for n in ood]:
            # The OOD sets are small and are always read whole.
            data = (
                datasets.load_ood(name)
                if is_ood
                else datasets.load_dataset(name, spec.get("max_rows"))
            )
            label = f"{name}_OOD" if is_ood else name
            record, files = _probe_file(
                subject, data, label, hooks, out, spec.get("max_tokens") or 1024, known, is_ood
            )
            overlap += record["text_overlap_rows"]
            records[label] = record
            work.writes(*files)
            progress.update(note=label)
        work.notes(
            subject=subject.name,
            datasets=records,
            text_overlap_rows=overlap,
            corpus_checked=known is not None,
        )
    if overlap:
        log(
            f"warning: {overlap} test rows occur in the training text of {subject.name}; give "
            "corpus.max_rows the same value as the probes"
        )
    return {"text_overlap_rows": overlap, "datasets": records}


def _corpus_hashes(model_dir: Path) -> np.ndarray | None:
    from husai.subjects.contexts import CORPUS, load_contexts

    return load_contexts(model_dir)["hashes"] if (model_dir / CORPUS).is_file() else None


def _probe_file(
    subject: Subject,
    data: datasets.Dataset,
    label: str,
    hooks: Sequence[str],
    out: Path,
    max_tokens: int,
    known: np.ndarray | None,
    is_ood: bool,
) -> tuple[dict, list[Path]]:
    """Compute and write one data set for all hooks; returns its manifest record and the files."""
    from husai.subjects.corpus import hash_numbers

    hashes = hash_numbers([datasets.row_hash(p) for p in data.prompts])
    train_rows = np.zeros(0, dtype=np.int64) if is_ood else splits.probe_train_rows(data.y)
    test = np.setdiff1d(np.arange(len(data.y)), train_rows)
    values = subject.activations(data.prompts, hooks, positions="last", max_tokens=max_tokens)
    files = []
    for hook in hooks:
        path = out / hook / f"{label}.safetensors"
        with atomic_path(path) as temporary:
            save_file({"x": values[hook].contiguous(), "y": torch.from_numpy(data.y)}, temporary)
        files.append(path)
    overlap = 0 if known is None else int(np.isin(hashes[test], known).sum())
    record = {
        "n_rows": len(data.y),
        "n_test": len(test),
        "text_overlap_rows": overlap,
        "rows_sha256": hash_json([f"{h & 0xFFFFFFFFFFFFFFFF:016x}" for h in hashes.tolist()]),
        "family": data.family,
    }
    return record, files
