"""Activation rows of text: usable positions, each once, the same ones whatever the batching; a
store killed twice equals one written in one go.
"""

import numpy as np
import pytest
import torch
from hub import build

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.planning.specs import PretrainedSpec
from husai.subjects import PADDING, Subject, language, pretrained, rows, transformer

HOOK = "blocks.0.hook_resid_post"


@pytest.fixture(scope="module")
def subject():
    s = language.settings({"d_model": 16, "n_layers": 1, "n_heads": 2, "n_ctx": 16})
    model = transformer.build(language.model_config(s, 40), seed=0).eval()
    return Subject("toy", "language", model)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = build.encoder_model(tmp_path_factory.mktemp("bert"))
    spec = PretrainedSpec(kind="pretrained", name="b", model=str(folder))
    model, tokenizer, record = pretrained.fetch(spec.values())
    return Subject("b", "pretrained", model, tokenizer, record)


def contexts_of(encoder, n=60):
    ids = encoder.encode(build.documents(n, seed=3), 40)
    out = np.full((n, 40), PADDING, dtype=np.int32)
    for row, i in zip(out, ids, strict=True):
        row[: len(i)] = i
    return out


def choose(subject, contexts, wanted, per_context=4, seed=3):
    return rows.TextRows(subject, contexts, "train", wanted, per_context, seed, {})


def flat(chosen, n):
    """``(context, position)`` of every row, contexts by their tokens."""
    found = []
    for tokens, positions in chosen.batches(n):
        for ids, where in zip(tokens, positions, strict=True):
            found += [(tuple(ids.tolist()), int(p)) for p in where if p >= 0]
    return found


def test_rows_are_usable_positions_each_once_and_as_many_as_wanted(encoder):
    contexts = contexts_of(encoder)
    chosen = choose(encoder, contexts, 200)
    found = flat(chosen, 7)
    assert len(found) == len(set(found)) == 200
    for ids, position in found:
        assert position > 0 and ids[position] not in (PADDING, *encoder.special.ids)
    assert flat(chosen, 7) == found
    assert flat(choose(encoder, contexts, 200, seed=4), 7) != found


def test_more_positions_are_read_where_contexts_run_out(subject):
    contexts = np.random.default_rng(0).integers(1, 40, (10, 16)).astype(np.int32)
    assert len(flat(choose(subject, contexts, 150), 4)) == 150  # all of them
    with pytest.raises(HusaiError, match=r"activations.train_rows: 151 rows asked.* has 150"):
        choose(subject, contexts, 151)


def test_stored_rows_are_the_activations_at_the_chosen_positions(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "TOKENS_PER_PASS", 256)
    chosen = choose(encoder, contexts_of(encoder), 150)
    assert rows.store_rows(encoder, HOOK, chosen, tmp_path / "s", "float32", "train") == 150
    stored = ActivationStore.open(tmp_path / "s").tensor()
    size = rows._contexts_at_once(chosen, encoder)
    for number in range(0, 150, 17):
        ids, position = flat(chosen, size)[number]
        alone = encoder.capture(torch.tensor([i for i in ids if i >= 0])[None], [HOOK])[HOOK]
        torch.testing.assert_close(stored[number], alone[0, position], rtol=1e-4, atol=1e-5)


def test_a_store_of_text_killed_twice_equals_one_written_in_one_go(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "TOKENS_PER_PASS", 160)
    monkeypatch.setattr(rows, "SHARD_BYTES", 64 * 16 * 2)
    contexts = np.random.default_rng(0).integers(1, 40, (300, 16)).astype(np.int32)
    chosen, passes = choose(subject, contexts, 900), []

    def write(path, stop=None):
        passes.clear()
        honest = Subject.capture

        def capture(self, tokens, names):
            passes.append(1)
            if stop is not None and len(passes) > stop:
                raise KeyboardInterrupt
            return honest(self, tokens, names)

        with monkeypatch.context() as patch:
            patch.setattr(Subject, "capture", capture)
            return rows.store_rows(subject, HOOK, chosen, path, "float16", "train", "name")

    assert write(tmp_path / "whole") == 900
    full = len(passes)
    for stop in (9, 12):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "cut", stop)
    assert write(tmp_path / "cut") == 900
    assert len(passes) < full - 8
    files = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "cut").iterdir())
    for name in files:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
