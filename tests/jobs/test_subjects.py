"""Jobs: model directories, paired activation stores, probe activations with an overlap count,
randomised copies, and their manifests.
"""

import numpy as np
import pytest
import torch

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.jobs.activations import activations_job
from husai.jobs.probe_activations import probe_activations_job
from husai.jobs.subject import subject_job
from husai.planning.specs import ActivationsSpec, ProbesSpec, SubjectSpec, read_spec
from husai.probing import datasets
from husai.probing.files import load_probe_data
from husai.provenance import read_json, sha256_file
from husai.subjects import load_subject
from husai.subjects.rows import text_rows
from husai.subjects.text import corpus as corpora

SPEC = {
    "kind": "language",
    "name": "language",
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 2,
    "n_ctx": 32,
    "vocab_size": 300,
    "tokens": 4096,
    "batch_size": 8,
    "seed": 3,
}
COUNTS = {"train": 3000, "held_out": 200, "confirmation": 200}
HOOKS = ["blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"]


def subject(**changes):
    return read_spec(SubjectSpec, {**SPEC, **changes})


def rows(**changes):
    counts = {f"{split}_rows": n for split, n in {**COUNTS, **changes}.items()}
    return ActivationsSpec(name="language", seed=3, rows=counts)


def small_corpus(_=None):
    texts = [
        t for name in ("157_amazon_5star", "93_glue_stsb") for t in datasets.load_texts(name)[:250]
    ]
    rows = list({datasets.row_hash(t): t[:200] for t in texts}.items())
    splits = ["held_out"] * 30 + ["confirmation"] * 30 + ["train"] * len(rows)

    def documents(report):
        report |= {"n_rows": len(rows), "overlap_rows": 0, "sha256": "0"}
        for split, row in zip(splits, rows, strict=False):
            yield corpora.Document(split, *row)

    return corpora.Corpus(documents)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("subjects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "build_corpus", small_corpus)
        subject_job(subject(), root / "language/model", device="cpu")
    return root


def test_a_model_directory_is_complete_and_its_manifest_hashes_it(root):
    model = root / "language/model"
    names = {
        "model.safetensors",
        "config.json",
        "metrics.json",
        "tokenizer.json",
        "corpus.safetensors",
        "corpus.json",
    }
    outputs = {r["path"]: r["sha256"] for r in read_json(model / "manifest.json")["outputs"]}
    assert set(outputs) == names
    assert all(sha256_file(model / path) == sha for path, sha in outputs.items())
    assert read_json(model / "manifest.json")["text_overlap_rows"] == 0
    metrics = read_json(model / "metrics.json")
    assert {"loss", "unigram_loss", "beats_unigram", "leak_probe", "accuracy"} <= set(metrics)


def test_the_same_spec_gives_the_same_weights(root, tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "build_corpus", small_corpus)
    subject_job(subject(), tmp_path / "again/manifest.json", device="cpu")
    assert sha256_file(tmp_path / "again/model.safetensors") == sha256_file(
        root / "language/model/model.safetensors"
    )


def test_a_randomised_copy_shares_tokenizer_and_corpus_but_not_weights(root):
    spec = subject(name="language-random", randomise=True)
    metrics = subject_job(spec, root / "language-random/model/manifest.json", device="cpu")
    here, parent = root / "language-random/model", root / "language/model"
    assert metrics["randomised"] and metrics["parent"] == "language"
    for name in ("tokenizer.json", "corpus.safetensors"):
        assert sha256_file(here / name) == sha256_file(parent / name)
    assert sha256_file(here / "model.safetensors") != sha256_file(parent / "model.safetensors")
    with pytest.raises(HusaiError, match="no such file"):
        subject_job(
            subject(name="other-random", randomise=True), root / "other-random/model", device="cpu"
        )


def test_hooks_of_a_subject_store_the_same_tokens_in_the_same_order(root):
    stored = [
        activations_job(
            rows(), root / "language/model", h, root / f"language/activations/{h}", device="cpu"
        )
        for h in HOOKS
    ]
    assert stored[0] == stored[1] == {"train": 3000, "held_out": 200, "confirmation": 200}
    records = [read_json(root / f"language/activations/{h}/manifest.json") for h in HOOKS]
    assert records[0]["row_order"] == records[1]["row_order"]
    stores = [ActivationStore.open(root / f"language/activations/{h}/train") for h in HOOKS]
    assert [s.d for s in stores] == [16, 16] and stores[0].n_rows == 3000
    loaded = load_subject(root / "language/model")
    chosen = text_rows(loaded, root / "language/model", COUNTS, 3)["train"]
    tokens, positions = next(iter(chosen.batches(100)))
    assert (positions != 0).all()
    context, position = 5, positions[5][positions[5] >= 0][0]
    row = int((positions[:5] >= 0).sum())
    both = loaded.activations(tokens[context : context + 1], HOOKS)
    for store, hook in zip(stores, HOOKS, strict=True):
        torch.testing.assert_close(
            store.rows(row, row + 1)[0], both[hook][0, position], rtol=1e-4, atol=1e-5
        )


def test_separators_and_first_positions_are_never_drawn(root):
    loaded = load_subject(root / "language/model")
    for chosen in text_rows(loaded, root / "language/model", COUNTS, 3).values():
        tokens, positions = next(iter(chosen.batches(10_000)))
        row, column = torch.nonzero(positions >= 0, as_tuple=True)
        assert (tokens[row, positions[row, column]] != 0).all()
        pairs = torch.stack([row, positions[row, column]], 1)
        assert len(torch.unique(pairs, dim=0)) == len(pairs)


def test_too_many_rows_and_unknown_hooks_or_keys_are_one_clear_line(root, tmp_path):
    model = root / "language/model"
    with pytest.raises(
        HusaiError, match=r"activations.train_rows: 10000000 rows asked.*split 'train' has"
    ):
        activations_job(rows(train=10_000_000), model, HOOKS[0], tmp_path, device="cpu")
    with pytest.raises(HusaiError, match=r"no hook 'blocks.9.hook_mlp_out'"):
        activations_job(rows(), model, "blocks.9.hook_mlp_out", tmp_path, device="cpu")
    with pytest.raises(HusaiError, match="--spec: rows: missing; language reads text"):
        spec = ActivationsSpec(name="language")
        activations_job(spec, model, HOOKS[0], tmp_path, device="cpu")
    with pytest.raises(HusaiError, match=r"rows\.train_row: unknown key.*mean 'train_rows'"):
        read_spec(ActivationsSpec, {"name": "language", "rows": {"train_row": 3}})
    assert (
        not (tmp_path / "manifest.json").exists() and (tmp_path / "manifest.failed.json").exists()
    )


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_probe_activations_are_the_tokens_that_count_in_file_order(root, tmp_path, pooling):
    spec = {
        "selection": ["95_toxic_is"],
        "confirmation": [],
        "ood": ["87_glue_cola"],
        "max_rows": 200,
        "hooks": HOOKS,
        "pooling": pooling,
    }
    probe_activations_job(
        ProbesSpec(**spec), root / "language/model", tmp_path / "manifest.json", device="cpu"
    )
    data = datasets.load_dataset("95_toxic_is", 200)
    loaded = load_subject(root / "language/model")
    for hook in HOOKS:
        record = load_probe_data(tmp_path, hook, "95_toxic_is", pooling)
        assert len(record.offsets) == 201 and np.array_equal(record.y, data.y)
        ids = loaded.encode(data.prompts[7:8])[0]
        alone = loaded.model.run_with_cache(torch.from_numpy(ids)[None])[1][hook][0]
        # SAEs are not trained on the first token of a context.
        wanted = alone[1:] if pooling == "mean" else alone[-1:]
        kept = record.tokens[record.offsets[7] : record.offsets[8]]
        torch.testing.assert_close(kept, wanted, rtol=1e-4, atol=1e-5)
        assert len(load_probe_data(tmp_path, hook, "87_glue_cola", pooling).y) == 200
        assert len(load_probe_data(tmp_path, hook, "87_glue_cola", pooling, ood=True).y) == 300
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["text_overlap_rows"] == 0 and manifest["corpus_checked"]
    assert set(manifest["datasets"]) == {"95_toxic_is", "87_glue_cola", "87_glue_cola_OOD"}


def test_probe_activations_are_stored_in_the_format_of_the_store(root, tmp_path):
    spec = {"selection": ["95_toxic_is"], "max_rows": 200, "hooks": HOOKS[:1], "dtype": "float16"}
    probe_activations_job(ProbesSpec(**spec), root / "language/model", tmp_path, device="cpu")
    data = load_probe_data(tmp_path, HOOKS[0], "95_toxic_is", "mean")
    assert data.tokens.dtype == torch.float16 and data.activations().dtype == torch.float32


def test_test_rows_that_were_training_text_are_counted(root, tmp_path):
    # The corpus of this fixture holds the first 250 rows of 157_amazon_5star, whatever the probes
    # do with them.
    spec = {"selection": ["157_amazon_5star"], "max_rows": 250, "hooks": HOOKS[:1]}
    found = probe_activations_job(
        ProbesSpec(**spec), root / "language/model", tmp_path, device="cpu"
    )
    assert found["text_overlap_rows"] >= 90


def test_probe_requests_that_make_no_sense_are_one_clear_line(root, tmp_path):
    with pytest.raises(HusaiError, match="name data sets"):
        probe_activations_job(ProbesSpec(hooks=HOOKS), root / "language/model", tmp_path)
    with pytest.raises(HusaiError, match="nearest: 87_glue_cola"):
        spec = ProbesSpec(selection=["87_glue_colla"], hooks=HOOKS)
        probe_activations_job(spec, root / "language/model", tmp_path)
    with pytest.raises(HusaiError, match=r"no such file|holds no subject"):
        spec = ProbesSpec(selection=["87_glue_cola"], hooks=HOOKS)
        probe_activations_job(spec, root / "nothing/model", tmp_path)


def test_a_modular_subject_stores_every_pair_once(tmp_path):
    spec = {
        "kind": "modular",
        "name": "modular",
        "p": 13,
        "d_model": 16,
        "d_mlp": 32,
        "n_heads": 2,
        "max_steps": 5,
    }
    subject_job(read_spec(SubjectSpec, spec), tmp_path / "model", device="cpu")
    stored = activations_job(
        ActivationsSpec(name="modular"),
        tmp_path / "model",
        "blocks.0.hook_resid_post",
        tmp_path / "a",
        device="cpu",
    )
    assert stored == {"train": 135, "held_out": 17, "confirmation": 17}
    loaded = load_subject(tmp_path / "model")
    assert not loaded.config["spec"].get("leak") and loaded.n_ctx == 3


def test_an_unknown_kind_is_one_clear_line():
    with pytest.raises(HusaiError, match=r"'modulo'.*'modular', 'language'"):
        read_spec(SubjectSpec, {"kind": "modulo", "name": "x"})
