"""Text from files and data sets: every format, each document once, in the order of the seed;
duplicates and evaluation text are left out and counted; bad files are one clear line.
"""

import json

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hub import build

from husai.errors import HusaiError
from husai.planning.specs import CorpusSpec
from husai.probing import datasets
from husai.subjects import tokenizer
from husai.subjects.text import contexts, sources
from husai.subjects.text import corpus as corpora
from husai.subjects.text.contamination import Runs

TEXTS = build.documents(300, seed=7)


@pytest.fixture
def folder(tmp_path):
    lines = [json.dumps({"text": t}) for t in TEXTS]
    (tmp_path / "a.jsonl").write_text("\n".join(lines[:100]) + "\n\n")
    (tmp_path / "b.txt").write_text("\n\n".join(TEXTS[100:200]), encoding="utf-8-sig")
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS[200:]}), tmp_path / "c.parquet")
    return tmp_path


def files(*paths, **more):
    return {"kind": "files", "paths": [str(p) for p in paths], **more}


def corpus_of(*found, **more):
    light = {"confirmation": ["21_headline_istrump"], "max_rows": 1500}
    return corpora.build_corpus(CorpusSpec(**light, sources=list(found), **more).values())


@pytest.fixture(autouse=True)
def few_data_sets(monkeypatch):
    monkeypatch.setattr(datasets, "split", lambda: (["87_glue_cola"], ["21_headline_istrump"]))


def test_every_format_gives_its_documents_once_in_the_order_of_the_seed(folder):
    source = files(folder / "*.jsonl", folder / "*.txt", folder / "*.parquet", folder / "a.jsonl")
    first, again, other = (list(sources.read_source(source, seed)) for seed in (1, 1, 2))
    assert sorted(first) == sorted(TEXTS) == sorted(other)
    assert first == again != other


def test_the_shuffle_holds_back_a_bounded_number_of_documents():
    taken = []
    stream = sources.shuffled((taken.append(i) or str(i) for i in range(1000)), seed=0, size=10)
    next(stream)
    assert len(taken) == 11
    assert sorted(map(int, stream)) != list(range(1000))


def test_a_data_set_of_the_hub_in_a_folder_is_read(tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    build.text_dataset(build.snapshot(tmp_path, build.DATASET, "datasets"), n=50)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    source = {"kind": "dataset", "name": build.DATASET, "split": "test"}
    assert sorted(sources.read_source(source)) == sorted(build.documents(5, 2))
    with pytest.raises(HusaiError, match=r"no field 'txt'; did you mean 'text'"):
        list(sources.read_source({**source, "field": "txt"}))
    with pytest.raises(HusaiError, match=r"data set 'tests/absent': the hub cannot be reached"):
        list(sources.read_source({"kind": "dataset", "name": "tests/absent"}))


def test_duplicates_and_evaluation_text_are_left_out_and_counted(tmp_path):
    row = datasets.load_dataset("21_headline_istrump").prompts[3]
    long = max(datasets.load_dataset("21_headline_istrump").prompts, key=lambda t: len(t.split()))
    run = " ".join(long.split()[:16])
    lines = [*TEXTS[:50], TEXTS[3].upper(), f"  {row}  ", f"Somebody wrote: {run}, and left."]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in lines))
    corpus = corpus_of(files(tmp_path / "a.jsonl"))
    found = list(corpus)
    assert {d.text.lower() for d in found} == {t.lower() for t in TEXTS[:50]}
    report = corpus.report
    left_out = ("n_read", "n_duplicates", "n_excluded_rows", "n_excluded_runs", "overlap_rows")
    assert [report[key] for key in left_out] == [53, 1, 1, 1, 0]
    assert [d.split for d in corpus] == [d.split for d in found]


def test_a_document_keeps_its_split_whatever_is_read_beside_it(folder):
    alone = {d.row_hash: d.split for d in corpus_of(files(folder / "a.jsonl"))}
    beside = {d.row_hash: d.split for d in corpus_of(files(folder / "*"))}
    assert len(alone) == 100 and len(beside) == 300
    assert all(beside[h] == split for h, split in alone.items())


def test_shared_runs_are_found_whatever_the_case_and_punctuation():
    known = "One two three four five six seven eight nine ten eleven twelve thirteen fourteen."
    runs = Runs([known, "too short to hold a run"])
    assert len(runs) == 2
    tests = [
        "ONE, two - three four five; six seven eight nine (ten) eleven twelve thirteen!",
        "one two three four five six seven eight nine ten eleven twelve",
        "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen",
        "one two three four five six seven eight nine ten eleven twelve thirteenth",
        "",
        "too short to hold a run",
    ]
    assert runs.shared_by(tests).tolist() == [True, False, True, False, False, False]
    halves = [known[:40], known[40:]]  # a run does not go on in the next document
    assert not runs.shared_by(halves).any() and not Runs().shared_by(tests).any()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "caf\xe9".encode("latin-1"), r"a\.txt: not utf-8.*name its encoding"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', r"line 2 is no JSON"),
        ("a.jsonl", b'{"body": "x"}', r"no field 'text'; it has body"),
        ("a.jsonl", b'{"text": 3}', r"holds int, not text"),
        ("a.jsonl", b"[1]", r"no field 'text'"),
        ("a.parquet", b"PAR1", r"not readable as parquet"),
        ("a.doc", b"x", r"a \.doc file is not read"),
        ("a.txt", b"\n\n", r"no text in"),
    ],
)
def test_bad_text_is_one_clear_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HusaiError, match=message) as caught:
        list(corpus_of(files(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_a_named_encoding_is_read_and_a_glob_without_files_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("caf\xe9 au lait".encode("latin-1"))
    (document,) = corpus_of(files(tmp_path / "a.txt", encoding="latin-1"))
    assert document.text == "café au lait"
    with pytest.raises(HusaiError, match=r"'.*none.*' matches no file"):
        list(corpus_of(files(tmp_path / "none*.txt")))


def test_a_corpus_wholly_excluded_is_one_clear_line(tmp_path):
    rows = datasets.load_dataset("21_headline_istrump").prompts[:20]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in rows))
    with pytest.raises(HusaiError, match=r"no text is left of 20 documents \(20 are or repeat"):
        list(corpus_of(files(tmp_path / "a.jsonl")))


def test_contexts_written_as_a_stream_are_those_of_the_whole_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(contexts, "DOCUMENTS", 7)
    fast = tokenizer.train_tokenizer(TEXTS, 300)
    split = ["held_out", "train", "confirmation"]
    documents = [
        corpora.Document(split[min(i % 10, 2)], f"{i:016x}", t) for i, t in enumerate(TEXTS)
    ]
    path = tmp_path / contexts.CORPUS
    shape = lambda: contexts.Packer(16, 0)  # noqa: E731
    corpus = corpora.Corpus(lambda report: iter(documents))
    tokens = contexts.write_contexts(path, corpus, lambda t: tokenizer.encode(fast, t), shape)
    found = contexts.load_contexts(tmp_path)
    for name in corpora.SPLITS:
        ids = tokenizer.encode(fast, [d.text for d in documents if d.split == name])
        assert np.array_equal(found[name], contexts.Packer(16, 0).rows(ids))
        assert tokens[name] == found[name].size
    assert found["hashes"].tolist() == list(range(300))
    from safetensors.numpy import load_file

    assert all(np.array_equal(v, found[k]) for k, v in load_file(path).items())


def test_a_token_budget_ends_the_reading(tmp_path):
    fast, read = tokenizer.train_tokenizer(TEXTS, 300), []
    splits = ["train", "train", "train", "held_out"] * 75

    def documents(report):
        for i, (text, split) in enumerate(zip(TEXTS, splits, strict=True)):
            read.append(i)
            yield corpora.Document(split, f"{i:016x}", text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "DOCUMENTS", 20)
        tokens = contexts.write_contexts(
            tmp_path / contexts.CORPUS,
            corpora.Corpus(documents),
            lambda t: tokenizer.encode(fast, t),
            lambda: contexts.Packer(16, 0),
            max_tokens=1000,
        )
    assert 1000 <= tokens["train"] < 3000 and len(read) < 150


def test_a_damaged_corpus_file_is_one_clear_line(tmp_path):
    (tmp_path / contexts.CORPUS).write_bytes(b"\xff" * 40)
    with pytest.raises(HusaiError, match=r"not readable .* run the subject job again"):
        contexts.load_contexts(tmp_path)
