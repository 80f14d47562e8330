"""Making a subject: train it, refer to a published one or randomise another, and write its model
directory with the corpus it may read.
"""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from husai.compute import single_threaded
from husai.errors import HusaiError
from husai.progress import log
from husai.provenance import atomic_path, folder, read_json, write_json, write_text
from husai.subjects import TOKENIZER, given, language, modular, pretrained, transformer
from husai.subjects import tokenizer as tokenizers
from husai.subjects.text import corpus as corpora
from husai.subjects.text.contexts import CORPUS, load_contexts, shaper, write_contexts

CORPUS_REPORT = "corpus.json"
METRICS = "metrics.json"
RANDOM_SEED = 1_000_003
"""Added to a subject's seed where its copy draws random weights, so that no other draw of the
subject shares the stream."""


def make_subject(
    spec: dict, out: Path, *, device: str | torch.device = "cpu", parent: str | Path | None = None
) -> dict:
    """Make the subject of ``spec``, the values of a ``husai.planning.specs.SubjectSpec``.

    Writes into ``out``: config.json, metrics.json, the weights unless they are referred to; of a
    subject that reads text also tokenizer.json, corpus.safetensors and corpus.json.

    ``corpus.safetensors`` holds contexts per split, int32 ``(n, n_ctx)``, and ``hashes``, the row
    hashes of all documents. A randomised subject (``randomise: true``) needs ``parent``, the model
    directory whose shape, scale, tokenizer and corpus it takes. Returns the metrics.

    Raises
    ------
    HusaiError
        ``randomise`` lacks a parent or is asked of kind rows, or the kind refuses its settings.
    """
    kind = spec["kind"]
    out.mkdir(parents=True, exist_ok=True)
    if kind == "rows":
        return _rows(spec, out)
    if spec["randomise"]:
        model, metrics = _randomised(spec, out, parent, device)
    elif kind == "modular":
        # A subject's weights must not depend on how many cores it was given.
        with single_threaded():
            model, metrics = modular.train(spec, device)
        transformer.save(model, out, spec)
    elif kind == "language":
        model, metrics = _language(spec, out, device)
    else:
        model, metrics = _pretrained(spec, out, device)
    metrics = {
        "subject": spec["name"],
        "kind": kind,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        **metrics,
    }
    write_json(out / METRICS, metrics)
    return metrics


def _language(spec: dict, out: Path, device: str | torch.device) -> tuple[Any, dict]:
    """Train a tokenizer and a small causal model on the corpus."""
    s, corpus = language.settings(spec), corpora.build_corpus(spec["corpus"])
    texts = (d.text for d in corpus if d.split == "train")
    fast = tokenizers.train_tokenizer(texts, s["vocab_size"])
    record = {"task": "next_token", "n_ctx": s["n_ctx"]}
    record["separator"] = fast.token_to_id(tokenizers.SEPARATOR)
    written = write_text_of(out, fast, corpus, record, spec)
    contexts = {name: np.array(matrix) for name, matrix in load_contexts(out).items()}
    with single_threaded():
        model, metrics = language.train(spec, contexts, fast.get_vocab_size(), device)
    transformer.save(model, out, spec)
    return model, {**metrics, **written}


def _pretrained(spec: dict, out: Path, device: str | torch.device) -> tuple[Any, dict]:
    """Find a published model and measure it on the corpus."""
    model, fast, record = pretrained.fetch(spec, device)
    n_ctx = min(spec["n_ctx"], record["n_ctx"])
    corpus = corpora.build_corpus(spec["corpus"])
    written = write_text_of(out, fast, corpus, {**record, "n_ctx": n_ctx}, spec)
    write_json(out / transformer.CONFIG, {"spec": spec, **record})
    if record["task"] == "next_token":
        metrics = _held_out_metrics(model, load_contexts(out), spec, device)
    else:
        metrics = {"leak_probe": {"not_applicable": "an encoder predicts no target"}}
    return model, {**metrics, **written}


def _rows(spec: dict, out: Path) -> dict:
    """Refer to the files of a subject that is known by its activations alone."""
    if spec["randomise"]:
        raise HusaiError(
            f"subject '{spec['name']}': kind rows has no model whose weights could be randomised"
        )
    found = {hook: given.describe(spec["path"], hook) for hook in spec["hooks"]}
    if len({record["n_rows"] for record in found.values()}) > 1:
        counts = ", ".join(f"{hook} {record['n_rows']}" for hook, record in found.items())
        raise HusaiError(f"subject '{spec['name']}': its hooks differ in rows: {counts}")
    write_json(out / transformer.CONFIG, {"spec": spec, "rows": found})
    metrics = {"subject": spec["name"], "kind": "rows", **next(iter(found.values()))}
    write_json(out / METRICS, metrics)
    return metrics


def write_text_of(out: Path, fast: Any, corpus: corpora.Corpus, record: dict, spec: dict) -> dict:
    """Write tokenizer, contexts and the corpus' report; returns what the metrics say of them."""
    write_text(out / TOKENIZER, fast.to_str(pretty=False))
    special = tokenizers.Special.of(fast, record.get("special"))
    bos = int(fast.encode("a").ids[0]) if record.get("special") and special.opening == 1 else None
    shape = partial(shaper, record["task"], record["n_ctx"], special, record["separator"], bos)
    encode, budget = partial(tokenizers.encode, fast), spec["corpus"]["max_tokens"]
    tokens = write_contexts(out / CORPUS, corpus, encode, shape, budget)
    report = corpus.report
    write_json(out / CORPUS_REPORT, {**report, "tokens": tokens})
    log(
        f"corpus: {report['n_rows']} documents, {tokens['train']} training tokens; left out: "
        f"{report.get('n_duplicates', 0)} duplicates, {report.get('n_excluded_rows', 0)} rows and "
        f"{report.get('n_excluded_runs', 0)} texts with runs of evaluation text"
    )
    return _of_corpus(report)


def _of_corpus(report: dict) -> dict:
    return {"text_overlap_rows": report["overlap_rows"], "corpus_sha256": report["sha256"]}


def _held_out_metrics(
    model: Any, contexts: dict[str, np.ndarray], spec: dict, device: str | torch.device
) -> dict:
    """Figures of a causal model that was not trained here."""
    unigram = language.unigram_distribution(contexts["train"], int(model.cfg.d_vocab))
    held_out, honest = language.first_held_out(contexts), {"seed": spec["seed"], "leak": False}
    return language.held_out_figures(model, held_out, unigram, honest, device, max_contexts=64)


def _randomised(
    spec: dict, out: Path, parent: str | Path | None, device: str | torch.device
) -> tuple[Any, dict]:
    """A copy of ``parent`` with random weights of the same scale, its tokenizer and corpus."""
    if parent is None:
        raise HusaiError(
            f"subject '{spec['name']}': randomise needs the model directory of the subject it "
            "copies; train that one first"
        )
    parent = folder(parent)
    model, record = pretrained.load(parent, device)
    transformer.randomise(model, spec["seed"] + RANDOM_SEED)
    if pretrained.is_reference(record):
        transformer.save_weights(model, out)
        write_json(out / transformer.CONFIG, {**record, "spec": spec})
    else:
        transformer.save(model, out, spec)
    for name in (TOKENIZER, CORPUS, CORPUS_REPORT):
        if (parent / name).is_file():
            with atomic_path(out / name) as temporary:
                shutil.copyfile(parent / name, temporary)
    metrics: dict[str, Any] = {"randomised": True, "parent": record.get("spec", {}).get("name")}
    if (parent / CORPUS).is_file():
        if record.get("task") != "embedding":
            metrics |= _held_out_metrics(model, load_contexts(parent), spec, device)
        metrics |= _of_corpus(read_json(parent / CORPUS_REPORT))
    return model, metrics
