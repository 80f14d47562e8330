"""Rows that others computed, in every format; what is no matrix of finite numbers is refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from husai.activations import ActivationStore, write_store
from husai.activations.files import open_rows
from husai.errors import HusaiError

ROWS = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))


def test_every_format_gives_the_same_rows(tmp_path):
    np.save(tmp_path / "a.npy", ROWS.numpy())
    save_file({"x": ROWS, "labels": torch.zeros(50)}, tmp_path / "a.safetensors")
    torch.save(ROWS, tmp_path / "a.pt")
    torch.save({"rows": ROWS, "hook": "blocks.0"}, tmp_path / "b.pt")
    torch.save(ROWS.half(), tmp_path / "half.pt")
    for name in ("a.npy", "a.safetensors", "a.pt", "b.pt"):
        assert torch.equal(open_rows(tmp_path / name), ROWS)
    assert open_rows(tmp_path / "half.pt").dtype == torch.float16


def test_a_store_and_a_folder_of_splits_are_stores(tmp_path):
    write_store(tmp_path / "hook/held_out", ROWS)
    for path in ("hook/held_out", "hook", "hook/manifest.json"):
        store = open_rows(tmp_path / path)
        assert isinstance(store, ActivationStore) and store.n_rows == 50


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (ROWS[0], "a matrix"),
        (ROWS[:0], "at least one row"),
        (torch.ones(3, 2, dtype=torch.int64), "floating point"),
        (torch.tensor([[1.0], [torch.nan]]), "row 1 holds NaN"),
        ({"a": ROWS, "b": ROWS}, r"it holds 2 \(a, b\)"),
        ([1, 2], "holds list"),
    ],
)
def test_what_is_no_matrix_of_finite_numbers_is_one_clear_line(tmp_path, value, message):
    torch.save(value, tmp_path / "a.pt")
    with pytest.raises(HusaiError, match=message):
        open_rows(tmp_path / "a.pt")


def test_files_that_cannot_be_read_are_one_clear_line(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "i.npy", np.ones((3, 2), dtype=np.int32))
    (tmp_path / "a.safetensors").write_bytes(b"x" * 20)
    (tmp_path / "a.pt").write_bytes(b"x" * 20)
    (tmp_path / "a.csv").write_text("1,2")
    for name, message in [
        ("a.npy", "not readable"),
        ("i.npy", "holds int32"),
        ("a.safetensors", "not readable"),
        ("a.pt", "not readable"),
        ("a.csv", "are read from"),
        ("absent.npy", "no activation rows here"),
    ]:
        with pytest.raises(HusaiError, match=message) as caught:
            open_rows(tmp_path / name)
        assert "\n" not in str(caught.value)
