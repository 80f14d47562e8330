"""Subjects of kind rows: their rows become the splits of a store, in their order; what needs a
model is refused.
"""

import numpy as np
import pytest
import torch

from husai.activations import ActivationStore
from husai.errors import HusaiError
from husai.planning.specs import RowsSpec
from husai.subjects import given, load_subject
from husai.subjects.make import make_subject

ROWS = np.random.default_rng(0).standard_normal((100, 6)).astype(np.float16)


def spec_of(folder):
    path = str(folder / "{hook}.npy")
    return RowsSpec(kind="rows", name="r", path=path, hooks=["a", "b"]).values()


@pytest.fixture
def model(tmp_path):
    for hook in ("a", "b"):
        np.save(tmp_path / f"{hook}.npy", ROWS)
    make_subject(spec_of(tmp_path), tmp_path / "model")
    return tmp_path / "model"


def test_the_splits_are_stretches_of_the_file(model, tmp_path):
    stored = given.store_given(model, "a", tmp_path / "out", {"train": 50}, "float16")
    assert stored == {"train": 50, "held_out": 10, "confirmation": 10}
    for split, start, stop in (("train", 0, 50), ("held_out", 80, 90), ("confirmation", 90, 100)):
        found = ActivationStore.open(tmp_path / "out" / split).tensor()
        assert torch.equal(found, torch.from_numpy(ROWS[start:stop]).float())


def test_what_cannot_be_is_one_clear_line(model, tmp_path):
    with pytest.raises(HusaiError, match="no rows of hook 'c'; it has a, b"):
        given.store_given(model, "c", tmp_path / "out", {}, "float32")
    with pytest.raises(HusaiError, match="kind rows has activations and no model"):
        load_subject(model)
    np.save(tmp_path / "a.npy", ROWS + 1)
    with pytest.raises(HusaiError, match="changed since the subject was made"):
        given.store_given(model, "a", tmp_path / "out", {}, "float32")
    np.save(tmp_path / "b.npy", ROWS[:50])
    spec = spec_of(tmp_path)
    with pytest.raises(HusaiError, match="differ in rows: a 100, b 50"):
        make_subject(spec, tmp_path / "other")
    with pytest.raises(HusaiError, match="randomised"):
        make_subject({**spec, "randomise": True}, tmp_path / "other")
