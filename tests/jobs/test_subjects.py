"""Jobs: model directories, paired activation stores, probe activations with an overlap count,
randomised copies, and their manifests.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.jobs import subjects as jobs
from husai.probing import datasets
from husai.provenance import read_json, sha256_file
from husai.subjects import corpus as corpora
from husai.subjects import load_subject

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
ROWS = {
    "name": "language",
    "train_rows": 3000,
    "held_out_rows": 200,
    "confirmation_rows": 200,
    "dtype": "float32",
    "seed": 3,
}
HOOKS = ["blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"]


def small_corpus(_=None):
    texts = [
        t for name in ("157_amazon_5star", "93_glue_stsb") for t in datasets.load_texts(name)[:250]
    ]
    rows = list({datasets.row_hash(t): t[:200] for t in texts}.items())
    cuts = {"train": rows[60:], "held_out": rows[:30], "confirmation": rows[30:60]}
    report = {
        "n_rows": len(rows),
        "n_excluded": 0,
        "overlap_rows": 0,
        "sha256": corpora.text_sha256(t for _, t in rows),
    }
    return corpora.Corpus(
        {s: [t for _, t in v] for s, v in cuts.items()},
        {s: [h for h, _ in v] for s, v in cuts.items()},
        report,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("subjects")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "build_corpus", small_corpus)
        jobs.subject_job(SPEC, root / "language/model", device="cpu")
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
    jobs.subject_job(SPEC, tmp_path / "again/manifest.json", device="cpu")
    assert sha256_file(tmp_path / "again/model.safetensors") == sha256_file(
        root / "language/model/model.safetensors"
    )


def test_a_randomised_copy_shares_tokenizer_and_corpus_but_not_weights(root):
    spec = {**SPEC, "name": "language-random", "randomise": True}
    metrics = jobs.subject_job(spec, root / "language-random/model/manifest.json", device="cpu")
    here, parent = root / "language-random/model", root / "language/model"
    assert metrics["randomised"] and metrics["parent"] == "language"
    for name in ("tokenizer.json", "corpus.safetensors"):
        assert sha256_file(here / name) == sha256_file(parent / name)
    assert sha256_file(here / "model.safetensors") != sha256_file(parent / "model.safetensors")
    with pytest.raises(HusaiError, match="no such file"):
        jobs.subject_job(
            {**spec, "name": "other-random"}, root / "other-random/model", device="cpu"
        )


def test_hooks_of_a_subject_store_the_same_tokens_in_the_same_order(root):
    stored = [
        jobs.activations_job(
            ROWS, root / "language/model", h, root / f"language/activations/{h}", "cpu"
        )
        for h in HOOKS
    ]
    assert stored[0] == stored[1] == {"train": 3000, "held_out": 200, "confirmation": 200}
    records = [read_json(root / f"language/activations/{h}/manifest.json") for h in HOOKS]
    assert records[0]["row_order"] == records[1]["row_order"]
    stores = [ActivationStore.open(root / f"language/activations/{h}/train") for h in HOOKS]
    assert [s.d for s in stores] == [16, 16] and stores[0].n_rows == 3000
    subject = load_subject(root / "language/model")
    tokens, positions = jobs._text_rows(subject, ROWS, root / "language/model")["train"]
    assert (positions != 0).all()
    context, position = 5, positions[5][positions[5] >= 0][0]
    row = int((positions[:5] >= 0).sum())
    both = subject.activations(tokens[context : context + 1], HOOKS)
    for store, hook in zip(stores, HOOKS, strict=True):
        torch.testing.assert_close(
            store.rows(row, row + 1)[0], both[hook][0, position], rtol=1e-4, atol=1e-5
        )


def test_separators_and_first_positions_are_never_drawn(root):
    subject = load_subject(root / "language/model")
    for tokens, positions in jobs._text_rows(subject, ROWS, root / "language/model").values():
        row, column = torch.nonzero(positions >= 0, as_tuple=True)
        assert (tokens[row, positions[row, column]] != 0).all()
        pairs = torch.stack([row, positions[row, column]], 1)
        assert len(torch.unique(pairs, dim=0)) == len(pairs)


def test_too_many_rows_and_unknown_hooks_or_keys_are_one_clear_line(root, tmp_path):
    model = root / "language/model"
    with pytest.raises(
        HusaiError, match=r"activations.train_rows: 10000000 rows asked.*split 'train' has"
    ):
        jobs.activations_job({**ROWS, "train_rows": 10_000_000}, model, HOOKS[0], tmp_path, "cpu")
    with pytest.raises(HusaiError, match=r"no hook 'blocks.9.hook_mlp_out'"):
        jobs.activations_job(ROWS, model, "blocks.9.hook_mlp_out", tmp_path, "cpu")
    with pytest.raises(HusaiError, match="unknown key 'train_row'; did you mean 'train_rows'"):
        jobs.activations_job({"train_row": 3}, model, HOOKS[0], tmp_path, "cpu")
    assert (
        not (tmp_path / "manifest.json").exists() and (tmp_path / "manifest.failed.json").exists()
    )


def test_probe_activations_are_last_tokens_in_file_order(root, tmp_path):
    spec = {
        "selection": ["95_toxic_is"],
        "confirmation": [],
        "ood": ["87_glue_cola"],
        "max_rows": 200,
        "hooks": HOOKS,
    }
    jobs.probe_activations_job(
        spec, root / "language/model", None, tmp_path / "manifest.json", "cpu"
    )
    data = datasets.load_dataset("95_toxic_is", 200)
    subject = load_subject(root / "language/model")
    for hook in HOOKS:
        record = load_file(tmp_path / hook / "95_toxic_is.safetensors")
        assert record["x"].shape == (200, 16) and np.array_equal(record["y"].numpy(), data.y)
        assert np.array_equal(record["train_rows"].numpy(), datasets.probe_train_rows(data.y))
        ids = subject.encode(data.prompts[7:8])[0]
        alone = subject.model.run_with_cache(torch.from_numpy(ids)[None])[1][hook][0, -1]
        torch.testing.assert_close(record["x"][7], alone, rtol=1e-4, atol=1e-5)
        assert load_file(tmp_path / hook / "87_glue_cola.safetensors")["x"].shape == (200, 16)
        assert load_file(tmp_path / hook / "87_glue_cola_OOD.safetensors")["x"].shape == (300, 16)
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["text_overlap_rows"] == 0 and manifest["corpus_checked"]
    assert set(manifest["datasets"]) == {"95_toxic_is", "87_glue_cola", "87_glue_cola_OOD"}


def test_test_rows_that_were_training_text_are_counted(root, tmp_path):
    # The corpus of this fixture holds the first 250 rows of 157_amazon_5star, whatever the probes
    # do with them.
    spec = {"selection": ["157_amazon_5star"], "max_rows": 250, "hooks": HOOKS[:1]}
    assert (
        jobs.probe_activations_job(spec, root / "language/model", None, tmp_path, "cpu")[
            "text_overlap_rows"
        ]
        >= 90
    )


def test_probe_requests_that_make_no_sense_are_one_clear_line(root, tmp_path):
    with pytest.raises(HusaiError, match="name data sets"):
        jobs.probe_activations_job({}, root / "language/model", HOOKS, tmp_path, "cpu")
    with pytest.raises(HusaiError, match="nearest: 87_glue_cola"):
        jobs.probe_activations_job(
            {"selection": ["87_glue_colla"]}, root / "language/model", HOOKS, tmp_path, "cpu"
        )
    with pytest.raises(HusaiError, match=r"no such file|holds no subject"):
        jobs.probe_activations_job(
            {"selection": ["87_glue_cola"]}, root / "nothing/model", HOOKS, tmp_path, "cpu"
        )


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
    jobs.subject_job(spec, tmp_path / "model", device="cpu")
    stored = jobs.activations_job(
        {"seed": 0}, tmp_path / "model", "blocks.0.hook_resid_post", tmp_path / "a", "cpu"
    )
    assert stored == {"train": 135, "held_out": 17, "confirmation": 17}
    subject = load_subject(tmp_path / "model")
    assert not subject.config["spec"].get("leak") and subject.n_ctx == 3


def test_an_unknown_kind_is_one_clear_line(tmp_path):
    with pytest.raises(
        HusaiError,
        match="kind 'modulo' is not one of modular, language, pretrained; did you mean 'modular'",
    ):
        jobs.subject_job({"kind": "modulo", "name": "x"}, tmp_path, device="cpu")
