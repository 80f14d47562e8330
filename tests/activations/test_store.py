"""The activation store: what is written comes back, and every kind of damage is one clear error."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.activations import ActivationStore, StoreWriter, write_store
from husai.activations.writer import PARTIAL
from husai.errors import HusaiError


def rows(n, d=4, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 60),
    d=st.integers(1, 5),
    per_shard=st.integers(1, 20),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    pieces=st.integers(1, 4),
    data=st.data(),
)
def test_any_range_of_rows_reads_back_as_written(
    tmp_path_factory, n, d, per_shard, dtype, pieces, data
):
    path = tmp_path_factory.mktemp("store")
    x = rows(n, d)
    kept = x.to(getattr(torch, dtype)).float()
    with StoreWriter(
        path, d, dtype, shard_bytes=per_shard * kept[0].to(getattr(torch, dtype)).nbytes
    ) as writer:
        for piece in x.chunk(pieces):
            writer.append(piece)
    store = ActivationStore.open(path)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    store.verify()
    assert (store.n_rows, store.d, store.dtype, len(store.files)) == (
        n,
        d,
        dtype,
        -(-n // per_shard) + 1,
    )
    assert torch.equal(store.rows(start, stop), kept[start:stop])
    assert torch.equal(store.tensor(max_rows=start), kept[:start])
    assert torch.equal(store.tensor(), kept)


def test_a_new_write_replaces_a_store_whole(tmp_path):
    with StoreWriter(tmp_path, 4, shard_bytes=32) as writer:
        writer.append(rows(9))
    write_store(tmp_path, rows(2, seed=5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["shard-00000.bin", "store.json"]
    assert torch.equal(ActivationStore.open(tmp_path).tensor(), rows(2, seed=5))


def test_the_digest_follows_the_contents(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_store(tmp_path / name, rows(5, seed=seed))
    a, b, c = (ActivationStore.open(tmp_path / n).digest for n in "abc")
    assert a == b != c


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_refused_by_number(tmp_path, bad):
    x = rows(20)
    x[13, 2] = bad
    with (
        pytest.raises(HusaiError, match=r"row 33 holds -?(nan|inf)"),
        StoreWriter(tmp_path, 4) as writer,
    ):
        writer.append(rows(20))
        writer.append(x)
    assert list(tmp_path.iterdir()) == []


def test_a_value_too_large_for_float16_is_refused(tmp_path):
    with pytest.raises(
        HusaiError, match=r"row 1 holds 70000, too large for float16; store as bfloat16 or float32"
    ):
        write_store(tmp_path, torch.tensor([[1.0], [70000.0]]), "float16")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda p: StoreWriter(p, 4, "float64"),
            "dtype 'float64' is not one of float32, float16, bfloat16",
        ),
        (lambda p: StoreWriter(p, 0), "at least one value"),
        (
            lambda p: StoreWriter(p, 4).append(rows(3, 5)),
            r"shape \(3, 5\) do not fit a store of width 4",
        ),
        (lambda p: StoreWriter(p, 4).append(rows(3)[0]), r"shape \(4,\)"),
        (lambda p: StoreWriter(p, 4).close(), "no rows were written"),
        (lambda p: write_store(p, torch.zeros(3)), r"got a tensor of shape \(3,\)"),
        (lambda p: ActivationStore.open(p / "nowhere"), "no activation store here"),
    ],
)
def test_bad_input_is_one_line(tmp_path, call, message):
    with pytest.raises(HusaiError, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_rows_outside_the_store_are_refused(tmp_path):
    write_store(tmp_path, rows(5))
    with pytest.raises(HusaiError, match=r"rows 3\.\.6 are outside the store, which has 5"):
        ActivationStore.open(tmp_path).rows(3, 6)


def truncate(path):
    with open(path / "shard-00001.bin", "r+b") as handle:
        handle.truncate(20)


def remove(path):
    (path / "shard-00001.bin").unlink()


def edit_header(path):
    header = json.loads((path / "store.json").read_text())
    (path / "store.json").write_text(json.dumps({**header, "n_rows": 3}))


def break_header(path):
    (path / "store.json").write_text('{"schema": "husai.act')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "truncated or overwritten, 20 bytes where 32 are due"),
        (remove, "is missing"),
        (edit_header, "changed since"),
        (break_header, "JSON"),
    ],
)
def test_damage_is_seen_on_open(tmp_path, damage, message):
    with StoreWriter(tmp_path, 4, shard_bytes=32) as writer:
        writer.append(rows(6))
    damage(tmp_path)
    with pytest.raises(HusaiError, match=message):
        ActivationStore.open(tmp_path)


def test_one_flipped_bit_fails_verify(tmp_path):
    write_store(tmp_path, rows(6))
    data = bytearray((tmp_path / "shard-00000.bin").read_bytes())
    data[17] ^= 1
    (tmp_path / "shard-00000.bin").write_bytes(data)
    with pytest.raises(HusaiError, match=r"shard-00000\.bin: contents differ from the sha256"):
        ActivationStore.open(tmp_path).verify()


WRITE_AND_WAIT = """
import sys, torch
from husai.activations import StoreWriter
writer = StoreWriter(sys.argv[1], 4, shard_bytes=32)
writer.append(torch.ones(5, 4))
print("written", flush=True)
sys.stdin.read()
"""


def test_a_killed_write_is_no_store(tmp_path):
    write_store(tmp_path, rows(6))
    with subprocess.Popen(
        [sys.executable, "-c", WRITE_AND_WAIT, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout.readline() == b"written\n"
        os.kill(child.pid, signal.SIGKILL)
    assert list(tmp_path.glob("*" + PARTIAL))
    with pytest.raises(HusaiError, match="writing did not finish"):
        ActivationStore.open(tmp_path)
    write_store(tmp_path, rows(2))
    ActivationStore.open(tmp_path).verify()


def test_an_error_is_not_hidden_by_a_disk_that_is_full(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        with pytest.raises(KeyError, match="first"), StoreWriter(tmp_path / "s", 4) as writer:
            writer.append(rows(10))
            raise KeyError("first")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_shard_that_the_header_does_not_name_fails_verify(tmp_path):
    write_store(tmp_path, rows(6))
    (tmp_path / "shard-00001.bin").write_bytes(b"0" * 16)
    with pytest.raises(HusaiError, match=r"shard-00001\.bin is no shard that store\.json names"):
        ActivationStore.open(tmp_path).verify()


def test_reading_gives_memory_back(tmp_path):
    """A hundred passes over a range leave no mapped pages behind that would count as this process's
    memory.
    """
    write_store(tmp_path, torch.zeros(1 << 16, 64))
    store = ActivationStore.open(tmp_path)
    out = torch.empty(1 << 16, 64)
    store.read_into(0, out)
    smaps = Path("/proc/self/smaps").read_text() if os.path.exists("/proc/self/smaps") else ""
    entry = smaps[smaps.find("shard-00000.bin") :]
    if entry and smaps.find("shard-00000.bin") >= 0:
        resident = int(entry[entry.find("Rss:") + 4 :].split()[0])
        assert resident <= 64


def test_a_store_survives_pickling_for_worker_processes(tmp_path):
    import pickle

    write_store(tmp_path, rows(6))
    store = ActivationStore.open(tmp_path)
    store.rows(0, 2)
    assert torch.equal(pickle.loads(pickle.dumps(store)).tensor(), rows(6))


def test_time_of_writing_does_not_enter_the_header(tmp_path):
    write_store(tmp_path / "a", rows(3))
    time.sleep(0.01)
    write_store(tmp_path / "b", rows(3))
    assert (tmp_path / "a" / "store.json").read_bytes() == (
        tmp_path / "b" / "store.json"
    ).read_bytes()


def test_a_store_of_another_hook_or_subject_is_refused(tmp_path):
    write_store(tmp_path / "s", torch.ones(3, 2), meta={"subject": "a", "hook_name": "h"})
    store = ActivationStore.open(tmp_path / "s")
    store.check_origin("a", "h")
    for subject, hook in (("b", "h"), ("a", "g")):
        with pytest.raises(HusaiError, match=r"holds activations of (subject a|hook_name h), but"):
            store.check_origin(subject, hook)
    write_store(tmp_path / "silent", torch.ones(3, 2))
    ActivationStore.open(tmp_path / "silent").check_origin("b", "g")
