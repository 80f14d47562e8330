"""Training text: disjoint from evaluation text by row hash, split by document, reproducible; the
tokenizer and packing.
"""

import re
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.errors import HusaiError
from husai.planning.specs import CorpusSpec
from husai.probing import datasets, splits
from husai.subjects import tokenizer as tokenizers
from husai.subjects.text import contexts
from husai.subjects.text import corpus as corpora


class Read(NamedTuple):
    """A corpus read to its end."""

    documents: dict[str, list[str]]
    hashes: dict[str, list[str]]
    report: dict


def read(config):
    corpus = corpora.build_corpus(CorpusSpec(**config).values())
    documents, hashes = ({split: [] for split in corpora.SPLITS} for _ in range(2))
    for document in corpus:
        documents[document.split].append(document.text)
        hashes[document.split].append(document.row_hash)
    return Read(documents, hashes, corpus.report)


CONFIG = {"max_rows": 1500, "max_rows_per_dataset": 500, "max_chars_per_row": 300}


@pytest.fixture(scope="module")
def corpus():
    return read({**CONFIG, "ood": datasets.ood_names()})


def everything(corpus):
    return {h for split in corpora.SPLITS for h in corpus.hashes[split]}


def test_no_document_is_evaluation_text(corpus):
    a, b = datasets.split()
    ood = datasets.ood_names()
    used = everything(corpus)
    assert corpus.report["overlap_rows"] == 0 and len(used) == corpus.report["n_rows"] > 10_000
    for name in [*b[::5], *ood]:
        assert not used & {datasets.row_hash(t) for t in datasets.load_dataset(name).prompts}
    for name in ood:
        assert not used & {datasets.row_hash(t) for t in datasets.load_ood(name).prompts}
    for name in a[::9]:
        data = datasets.load_dataset(name, 1500)
        train = set(splits.probe_train_rows(data.y).tolist())
        assert not used & {
            datasets.row_hash(t) for i, t in enumerate(data.prompts) if i not in train
        }


def words(text):
    return re.findall(r"[a-z0-9\x80-\U0010ffff]+", text.lower())


def test_no_document_shares_thirteen_words_in_a_row_with_evaluation_text(corpus):
    evaluation = set()
    for name in datasets.split()[1][::12]:
        for text in datasets.load_dataset(name).prompts:
            found = words(text)
            evaluation |= {tuple(found[i : i + 13]) for i in range(len(found) - 12)}
    assert evaluation and corpus.report["n_excluded_runs"] > 0
    for text in corpus.documents["train"]:
        found = words(text)
        assert not any(tuple(found[i : i + 13]) in evaluation for i in range(len(found) - 12))


def test_probe_training_rows_and_extra_files_are_used(corpus):
    files = corpus.report["rows_per_file"]
    assert "157_amazon_5star" in files and "93_glue_stsb" in files
    assert max(files.values()) <= 500
    assert not set(files) & set(datasets.split()[1])
    assert max(len(t) for split in corpora.SPLITS for t in corpus.documents[split]) <= 300


def test_splits_share_no_text_and_have_their_size(corpus):
    train, held_out, confirmation = (set(corpus.hashes[s]) for s in corpora.SPLITS)
    assert not train & held_out and not train & confirmation and not held_out & confirmation
    n = corpus.report["n_rows"]
    assert abs(len(held_out) - 0.05 * n) < 5 * np.sqrt(0.05 * 0.95 * n)  # five standard deviations


def test_the_order_of_a_changed_half_moves_data_sets():
    halves = {"selection": ["100_news_fake"], "confirmation": ["157_amazon_5star"]}
    rows = corpora.trainable_rows(CorpusSpec(**halves, ood=datasets.ood_names()).values())
    assert len(rows["100_news_fake"]) == 1024 and rows["157_amazon_5star"] == set()
    assert rows["87_glue_cola"] == set()  # an OOD data set is never training text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"selection": ["87_glue_colla"]},
            "corpus.selection: data set '87_glue_colla'.*87_glue_cola",
        ),
        (
            {"selection": ["100_news_fake"], "confirmation": ["100_news_fake"]},
            "in selection and in confirmation",
        ),
        ({"held_out_fraction": 0.0}, "held_out_fraction must be > 0"),
        ({"held_out_fraction": 0.5, "confirmation_fraction": 0.5}, "below 0.9"),
    ],
)
def test_bad_settings_are_one_clear_line(config, message):
    with pytest.raises(HusaiError, match=message):
        corpora.build_corpus(CorpusSpec(**config).values())


def test_the_tokenizer_is_deterministic_and_lossless(corpus, tmp_path):
    texts = corpus.documents["held_out"][:300]
    first, second = (tokenizers.train_tokenizer(texts, 500) for _ in range(2))
    assert first.to_str() == second.to_str() and first.get_vocab_size() == 500
    first.save(str(tmp_path / "tokenizer.json"))
    loaded = tokenizers.load_tokenizer(tmp_path / "tokenizer.json")
    for text in [*texts[:20], "žluťoučký 🐎\n\t  kůň", ""]:
        ids = tokenizers.encode(loaded, [text])[0]
        assert ids[0] == 0 and loaded.decode(ids.tolist()) == text


def test_left_truncation_keeps_the_tokens_of_the_whole_text(corpus):
    tokenizer = tokenizers.train_tokenizer(corpus.documents["held_out"][:300], 500)
    texts = ["word " * 900, "x" * 700, "", "short", " ".join(corpus.documents["held_out"][:40])]
    whole = tokenizers.encode(tokenizer, texts)
    for n in (1, 7, 64):
        for cut, full in zip(tokenizers.encode(tokenizer, texts, n), whole, strict=True):
            assert np.array_equal(cut, full[-n:])


def test_broken_tokenizer_and_tiny_vocabulary_are_errors(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(HusaiError, match="not readable as a tokenizer"):
        tokenizers.load_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(HusaiError, match="vocab_size"):
        tokenizers.train_tokenizer(["a"], 10)


@settings(max_examples=30)
@given(
    st.lists(st.lists(st.integers(1, 9), max_size=12), min_size=1, max_size=8), st.integers(1, 5)
)
def test_packing_keeps_order_and_separates_documents(documents, n_ctx):
    stream = [t for d in documents for t in [0, *d]]
    packed = contexts.Packer(n_ctx, 0).rows([np.array(d, dtype=np.int64) for d in documents])
    assert packed.flatten().tolist() == stream[: len(stream) // n_ctx * n_ctx]
    assert packed.shape[1] == n_ctx


def test_text_that_fills_no_context_is_one_clear_line(tmp_path):
    corpus = corpora.Corpus(lambda report: iter([corpora.Document("train", "0" * 16, "a")]))
    with pytest.raises(HusaiError, match="2 tokens do not fill one context of 4"):
        contexts.write_contexts(
            tmp_path / contexts.CORPUS,
            corpus,
            lambda texts: [np.array([1]) for _ in texts],
            lambda: contexts.Packer(4, 0),
        )
