"""Making a subject: train it, fetch it or randomise another one, and write its model directory with
the corpus it may read.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from husai.compute import single_threaded
from husai.errors import HusaiError, nearest
from husai.progress import log
from husai.provenance import atomic_path, read_json, write_json, write_text
from husai.subjects import KINDS, TOKENIZER, transformer
from husai.subjects import corpus as corpora
from husai.subjects import tokenizer as tokenizers

CORPUS = "corpus.safetensors"
CORPUS_REPORT = "corpus.json"
METRICS = "metrics.json"


def make_subject(
    spec: dict, out: Path, *, device: str | torch.device = "cpu", parent: str | Path | None = None
) -> dict:
    """Write ``out`` (weights, config.json, metrics.json; language and hub: tokenizer.json,
    corpus.safetensors, corpus.json).

    ``corpus.safetensors`` holds packed contexts per split, int32 ``(n, n_ctx)``, and ``hashes``,
    the row hashes of all documents. A randomised subject (``randomise: true``) needs ``parent``,
    the model directory whose shape, scale, tokenizer and corpus it takes. Returns the metrics."""
    kind = spec.get("kind")
    if kind not in KINDS:
        raise HusaiError(
            f"subject '{spec.get('name')}': kind '{kind}' is not one of "
            f"{', '.join(KINDS)}{nearest(str(kind), KINDS)}"
        )
    out.mkdir(parents=True, exist_ok=True)
    if spec.get("randomise"):
        model, metrics = _randomised(spec, out, parent, device)
    elif kind == "modular":
        from husai.subjects import modular

        with (
            single_threaded()
        ):  # a subject's weights must not depend on how many cores it was given
            model, metrics = modular.train(spec, device)
    else:
        model, metrics = _reading(spec, out, device)
    transformer.save(model, out, spec)
    metrics = {
        "subject": spec.get("name"),
        "kind": kind,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        **metrics,
    }
    write_json(out / METRICS, metrics)
    return metrics


def _reading(spec: dict, out: Path, device: str | torch.device) -> tuple[Any, dict]:
    """A subject that reads text: corpus, tokenizer, model."""
    corpus = corpora.build_corpus(spec.get("corpus"))
    report = corpus.report
    log(
        f"corpus: {report['n_rows']} documents, {report['n_excluded']} rows excluded as "
        f"evaluation text, overlap {report['overlap_rows']}"
    )
    if spec["kind"] == "language":
        from husai.subjects import language

        s = language.settings(spec)
        fast = tokenizers.train_tokenizer(corpus.documents["train"], s["vocab_size"])
        contexts = pack_corpus(fast, corpus, s["n_ctx"])
        with single_threaded():
            model, metrics = language.train(spec, contexts, fast.get_vocab_size(), device)
    else:
        from husai.subjects import hub, language

        model, fast = hub.fetch(spec, device)
        contexts = pack_corpus(
            fast, corpus, min(spec.get("n_ctx") or model.cfg.n_ctx, model.cfg.n_ctx)
        )
        metrics = _hub_metrics(model, contexts, spec, device, language)
    write_text(out / TOKENIZER, fast.to_str(pretty=False))
    hashes = corpora.hash_numbers([h for split in corpora.SPLITS for h in corpus.hashes[split]])
    with atomic_path(out / CORPUS) as temporary:
        save_file({**contexts, "hashes": hashes}, temporary)
    write_json(
        out / CORPUS_REPORT,
        {**report, "tokens": {split: int(c.size) for split, c in contexts.items()}},
    )
    return model, {
        **metrics,
        "text_overlap_rows": report["overlap_rows"],
        "corpus_sha256": report["sha256"],
    }


def pack_corpus(fast: Any, corpus: corpora.Corpus, n_ctx: int) -> dict[str, np.ndarray]:
    """Packed contexts of every split of the corpus; no context mixes splits."""
    separator = fast.token_to_id(tokenizers.SEPARATOR)
    return {
        split: tokenizers.pack(tokenizers.encode(fast, documents), n_ctx, separator)
        for split, documents in corpus.documents.items()
        if documents
    }


def _hub_metrics(
    model: Any,
    contexts: dict[str, np.ndarray],
    spec: dict,
    device: str | torch.device,
    language: Any,
) -> dict:
    """Held-out loss against the unigram model, and the leak probe, of a model that was not trained
    here.
    """
    d_vocab = int(model.cfg.d_vocab)
    n_contexts = max(1, language.DEFAULTS["max_held_out_tokens"] // contexts["held_out"].shape[1])
    held_out = torch.from_numpy(contexts["held_out"])[:n_contexts]
    unigram = language.unigram_distribution(contexts["train"], d_vocab)
    loss, accuracy = language.evaluate(model, held_out, False, device)
    unigram_loss = -unigram.log()[held_out[:, 1:].long()].mean().item()
    probe = language.leak_probe(
        model,
        held_out,
        unigram,
        {"seed": spec.get("seed", 0), "leak": False},
        device,
        max_contexts=64,
    )
    improvement = {
        "unigram_loss": unigram_loss,
        "improvement_nats": unigram_loss - loss,
        "beats_unigram": loss < unigram_loss,
    }
    return {
        "loss": loss,
        "accuracy": accuracy,
        **improvement,
        "d_vocab": d_vocab,
        "leak_probe": probe,
    }


def _randomised(
    spec: dict, out: Path, parent: str | Path | None, device: str | torch.device
) -> tuple[Any, dict]:
    """A copy of ``parent`` with random weights of the same scale; tokenizer and corpus files are
    the parent's.
    """
    if parent is None:
        raise HusaiError(
            f"subject '{spec.get('name')}': randomise needs the model directory of the subject it "
            "copies; train that one first"
        )
    parent = Path(parent)
    parent = parent.parent if parent.name == "manifest.json" else parent
    model, record = transformer.load(parent, device)
    transformer.randomise(model, int(spec.get("seed", 0)) + 1_000_003)
    for name in (TOKENIZER, CORPUS, CORPUS_REPORT):
        if (parent / name).is_file():
            with atomic_path(out / name) as temporary:
                shutil.copyfile(parent / name, temporary)
    metrics: dict[str, Any] = {"randomised": True, "parent": record.get("spec", {}).get("name")}
    if (parent / CORPUS).is_file():
        from husai.subjects import language

        report = read_json(parent / CORPUS_REPORT)
        contexts = load_contexts(parent)
        metrics |= _hub_metrics(model, contexts, spec, device, language)
        metrics |= {"text_overlap_rows": report["overlap_rows"], "corpus_sha256": report["sha256"]}
    return model, metrics


def load_contexts(directory: Path) -> dict[str, np.ndarray]:
    """Packed contexts and document hashes of a subject: ``{split: int32 (n, n_ctx), "hashes": int64
    (n_documents,)}``.
    """
    try:
        return load_file(directory / CORPUS)
    except (OSError, SafetensorError) as error:
        raise HusaiError(
            f"{directory / CORPUS}: not readable ({error}); run the subject job again"
        ) from error
