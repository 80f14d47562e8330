"""Shuffled reading: every row once per epoch, the stated mixing, exact resume, and memory that does
not grow with the rows.
"""

import gc
import json
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.activations import ActivationStore, BatchReader, write_store
from husai.activations.batches import missing_bytes
from husai.activations.order import BlockOrder, permutation, stream_seed
from husai.activations.store import HEADER, SCHEMA
from husai.errors import HusaiError
from husai.provenance import hash_json


def numbered(tmp_path, n, d=2, name="store", dtype="float32"):
    """A store whose row i holds the value i everywhere."""
    write_store(tmp_path / name, torch.arange(float(n))[:, None].expand(n, d), dtype)
    return ActivationStore.open(tmp_path / name)


def stream(reader, batches):
    out = torch.cat([next(reader) for _ in range(batches)])[:, 0].long()
    reader.close()
    return out


def streamed(block_rows=5, window_blocks=4, d=2, prefetch=False):
    """Reader sizes that force streaming with the given blocks and windows."""
    return {
        "resident_bytes": 0,
        "block_bytes": block_rows * d * 4,
        "window_bytes": window_blocks * block_rows * d * 4,
        "prefetch": prefetch,
    }


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 200),
    batch=st.integers(1, 70),
    block=st.integers(1, 40),
    blocks=st.integers(1, 12),
    resident=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_every_epoch_reads_every_row_once_in_an_order_of_its_own(
    tmp_path_factory, n, batch, block, blocks, resident, seed
):
    store = numbered(tmp_path_factory.mktemp("s"), n)
    reader = BatchReader(store, batch, seed, **({} if resident else streamed(block, blocks)))
    assert reader.in_windows != resident
    out = stream(reader, -(-3 * n // batch))
    epochs = out[: 3 * n].view(3, n)
    assert torch.equal(epochs.sort(dim=1).values, torch.arange(n).expand(3, n))
    if n > 20 and (resident or -(-n // block) > 3):
        assert not torch.equal(epochs[0], epochs[1])


@pytest.mark.parametrize("sizes", [{}, streamed(), streamed(prefetch=True), {"prefetch": True}])
def test_resume_is_exact_at_every_step(tmp_path, sizes):
    store = numbered(tmp_path, 103)
    whole = stream(BatchReader(store, 8, 3, **sizes), 40).view(40, 8)
    for step in (0, 1, 12, 13, 25, 38):
        first = BatchReader(store, 8, 3, **sizes)
        for _ in range(step):
            next(first)
        state = json.loads(json.dumps(first.state()))
        first.close()
        second = BatchReader(store, 8, 3, **sizes)
        second.restore(state)
        assert torch.equal(stream(second, 2).view(2, 8), whole[step : step + 2])


def test_a_reader_can_be_restored_while_running(tmp_path):
    reader = BatchReader(numbered(tmp_path, 50), 4, 0, **streamed(prefetch=True))
    start = reader.state()
    first = [next(reader) for _ in range(5)]
    reader.restore(start)
    again = [next(reader) for _ in range(5)]
    reader.close()
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_the_order_is_the_same_with_and_without_prefetching(tmp_path):
    store = numbered(tmp_path, 103)
    assert torch.equal(
        stream(BatchReader(store, 7, 1, **streamed()), 30),
        stream(BatchReader(store, 7, 1, **streamed(prefetch=True)), 30),
    )


def test_a_tensor_and_a_resident_store_give_the_same_batches(tmp_path):
    store = numbered(tmp_path, 60)
    assert torch.equal(
        stream(BatchReader(store, 7, 1), 20), stream(BatchReader(store.tensor(), 7, 1), 20)
    )


def test_readers_in_several_threads_load_the_rows_once(tmp_path, monkeypatch):
    store, loads = numbered(tmp_path, 5000, d=64), []
    right = ActivationStore.read_into
    monkeypatch.setattr(
        ActivationStore, "read_into", lambda self, *a: loads.append(1) or right(self, *a)
    )
    readers = [BatchReader(store, 8, seed) for seed in range(4)]
    threads = [threading.Thread(target=next, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_held_on_the_device_come_in_the_order_of_streaming(tmp_path, dtype):
    store, other = numbered(tmp_path, 103, dtype=dtype), numbered(tmp_path, 103, d=3, name="target")
    for target in (None, other):
        row = 2 * store.torch_dtype.itemsize + (12 if target else 0)
        sizes = {
            "resident_bytes": 0,
            "block_bytes": 5 * row,
            "window_bytes": 20 * row,
            "target": target,
        }
        disk, held = BatchReader(store, 8, 3, **sizes), BatchReader(store, 8, 3, hold=True, **sizes)
        for step in range(40):
            if step == 17:
                state, held = held.state(), BatchReader(store, 8, 3, hold=True, **sizes)
                held.restore(state)
            for a, b in zip(next(disk), next(held), strict=True):
                assert torch.equal(a, b)
        disk.close()
    assert store.is_resident(103, torch.device("cpu")) and not store.is_resident(
        102, torch.device("cpu")
    )


def test_what_is_on_the_device_already_needs_no_more_room(tmp_path):
    store, x = numbered(tmp_path, 100, dtype="float16"), torch.zeros(100, 7)
    cpu = torch.device("cpu")
    assert missing_bytes([store, x], 80, cpu) == 80 * 2 * 2
    store.resident(80, cpu)
    assert missing_bytes([store, x], 80, cpu) == 0 < missing_bytes([store], 100, cpu)


@pytest.mark.parametrize("sizes", [{}, streamed()])
def test_seeds_have_orders_of_their_own(tmp_path, sizes):
    store = numbered(tmp_path, 100)
    orders = [stream(BatchReader(store, 100, seed, **sizes), 1) for seed in range(4)]
    assert all(not torch.equal(orders[a], orders[b]) for a in range(4) for b in range(a))


def test_the_row_budget_reads_the_first_rows_only(tmp_path):
    store = numbered(tmp_path, 100)
    for sizes in ({}, streamed()):
        reader = BatchReader(store, 10, 0, n_rows=37, **sizes)
        assert set(stream(reader, 12).tolist()) == set(range(37))


def test_a_target_is_read_row_for_row(tmp_path):
    source, target = (
        numbered(tmp_path, 103),
        numbered(tmp_path, 103, d=3, name="target", dtype="bfloat16"),
    )
    for sizes in ({}, {"resident_bytes": 0, "block_bytes": 70, "window_bytes": 300}):
        reader = BatchReader(source, 8, 0, target=target, **sizes)
        for _ in range(20):
            x, y = next(reader)
            assert (x.shape, y.shape) == ((8, 2), (8, 3))
            assert torch.equal(x[:, 0].bfloat16(), y[:, 0].bfloat16())
        reader.close()


def test_batches_come_in_the_asked_format(tmp_path):
    store = numbered(tmp_path, 20, dtype="float16")
    for sizes in ({}, streamed()):
        reader = BatchReader(store, 4, 0, dtype=torch.float64, **sizes)
        assert next(reader).dtype == torch.float64
        reader.close()


def test_readers_of_one_store_share_the_rows_in_memory(tmp_path):
    store = numbered(tmp_path, 20)
    for seed in range(3):
        next(BatchReader(store, 4, seed))
    assert len(store._resident) == 1


# --- mixing: the guarantee in BatchReader's docstring


def test_two_rows_of_a_batch_share_a_block_as_often_as_stated():
    """(b-1)/(M-1) for pairs inside a window: counted over many windows against the formula, within
    four standard errors.
    """
    n, b, W, B = 2048, 8, 32, 64
    reader = BatchReaderOnOrder(n, b, W)
    share, batches = [], 0
    for epoch in range(30):
        for index in range(n // (b * W)):
            window = reader.emit(epoch, index)
            for batch in window.split(B):
                block = batch // b
                same = (block[:, None] == block[None]).sum() - B
                share.append(float(same) / (B * (B - 1)))
                batches += 1
    share = torch.tensor(share)
    expected = (b - 1) / (b * W - 1)
    assert abs(float(share.mean()) - expected) < 4 * float(share.std()) / batches**0.5


def test_the_variance_of_batch_means_is_inflated_as_stated():
    """Rows of a block fully correlated (rho = 1): variance of a batch mean is that of independent
    rows times 1 + (B-1)(b-1)/(M-1).
    """
    n, b, W, B = 16384, 8, 64, 128
    value = torch.randn(n // b, generator=torch.Generator().manual_seed(1)).repeat_interleave(b)
    reader = BatchReaderOnOrder(n, b, W)
    means = torch.cat(
        [
            value[reader.emit(e, i)].view(-1, B).mean(1)
            for e in range(40)
            for i in range(n // (b * W))
        ]
    )
    stated = value.var() / B * (1 + (B - 1) * (b - 1) / (b * W - 1))
    assert 0.9 < float(means.var() / stated) < 1.1


class BatchReaderOnOrder:
    """Row numbers of one window, straight from the order."""

    def __init__(self, n, b, W):
        self.order = BlockOrder(n, b, W, seed=7)

    def emit(self, epoch, index):
        order = self.order
        window = order.window_at(epoch * order.n_rows + order._rows_before(epoch, index))
        rows = torch.cat([torch.arange(a, z) for a, z in order.blocks(window)])
        return rows[order.shuffle(window)]


def test_a_block_lands_anywhere_in_an_epoch():
    """The mean place of the first block over 400 epochs is the middle, within four standard errors
    of a uniform place.
    """
    order = BlockOrder(1000, 10, 5, seed=0)
    places = torch.tensor([float((order._order(e) == 0).nonzero()) for e in range(400)])
    assert abs(places.mean() - 49.5) < 4 * (100 / 12**0.5) / 20


@given(
    n=st.integers(1, 5000),
    block=st.integers(1, 64),
    blocks=st.integers(1, 64),
    seed=st.integers(0, 10),
)
@settings(max_examples=60, deadline=None)
def test_windows_tile_the_epoch_and_none_is_small(n, block, blocks, seed):
    order = BlockOrder(n, block, blocks, seed)
    position, sizes = 0, []
    while position < n:
        window = order.window_at(position)
        assert (window.epoch, window.start) == (0, position)
        assert sum(z - a for a, z in order.blocks(window)) == window.n_rows <= order.largest
        sizes.append(len(order.blocks(window)))
        position += window.n_rows
    assert position == n and max(sizes) <= blocks and max(sizes) - min(sizes) <= 1
    assert len(sizes) == 1 or min(sizes) >= blocks // 2


def test_neighbouring_seeds_and_epochs_draw_different_permutations():
    drawn = {tuple(permutation(30, s, e).tolist()) for s in range(20) for e in range(20)}
    assert len(drawn) == 400
    assert stream_seed(0, 1) != stream_seed(1, 0)


# --- memory


def sparse_store(path, n, d):
    """A store of zeros that takes no disk space: the header says n rows, the shard is a hole."""
    path.mkdir()
    with open(path / "shard-00000.bin", "wb") as handle:
        handle.truncate(n * d * 4)
    header = {"schema": SCHEMA, "d": d, "dtype": "float32", "n_rows": n, "meta": {}}
    header["shards"] = [{"file": "shard-00000.bin", "n_rows": n, "sha256": "0" * 64}]
    (path / HEADER).write_text(json.dumps({**header, "header_sha256": hash_json(header)}))


READ = """
import resource, sys, torch
torch.set_num_threads(1)
from husai.activations import ActivationStore, BatchReader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = ActivationStore.open(sys.argv[1])
readers = [BatchReader(store, 4096, seed, window_bytes=32 << 20) for seed in range(2)]
for _ in range(20):
    for reader in readers:
        assert next(reader).shape == (4096, 512)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
for reader in readers:
    reader.close()
"""


def test_a_hundred_million_rows_need_no_more_memory_than_one_million(tmp_path):
    grown = []
    for n in (1_000_000, 100_000_000):
        path = tmp_path / str(n)
        try:
            sparse_store(path, n, 512)
        except OSError:
            pytest.skip("this file system has no sparse files of 200 GB")
        done = subprocess.run(
            [sys.executable, "-c", READ, path], capture_output=True, text=True, check=True
        )
        before, after = map(int, done.stdout.split())
        grown.append((after - before) / 1024)
    assert grown[1] < 600, "two readers: two 32 MiB windows each, batches, 25 MiB of block order"
    assert grown[1] < grown[0] + 100


# --- errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: BatchReader(x, 0, 0), "batch_size must be at least 1"),
        (
            lambda x: BatchReader(x, 4, 0, n_rows=11),
            "n_rows = 11 asked for, but the activations has 10 rows",
        ),
        (lambda x: BatchReader(x[:0], 4, 0), "no rows to train on"),
        (lambda x: BatchReader(x[0], 4, 0), r"rows \(n, d\)"),
        (lambda x: BatchReader(x, 4, 0, target=x[:5]), "source has 10 rows and target 5"),
    ],
)
def test_bad_input_is_one_line(make, message):
    with pytest.raises(HusaiError, match=message):
        make(torch.zeros(10, 3))


def test_restoring_another_run_is_refused(tmp_path):
    x = torch.zeros(10, 3)
    state = BatchReader(x, 4, 0).state()
    with pytest.raises(
        HusaiError, match=r"saved data position has seed = 0, this run has 1; delete the checkpoint"
    ):
        BatchReader(x, 4, 1).restore(state)


@pytest.mark.parametrize("prefetch", [False, True])
def test_an_error_while_loading_reaches_the_caller(tmp_path, prefetch):
    store = numbered(tmp_path, 50)
    reader = BatchReader(store, 4, 0, **streamed(prefetch=prefetch))
    (tmp_path / "store" / "shard-00000.bin").unlink()
    with pytest.raises(HusaiError, match=r"shard-00000\.bin: cannot be read"):
        for _ in range(20):
            next(reader)
    reader.close()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize("sizes", [{}, streamed(prefetch=None)])
def test_a_cuda_device_gets_the_same_batches(tmp_path, sizes, hold):
    store = numbered(tmp_path, 103)
    host, device = (
        BatchReader(store, 8, 3, **sizes),
        BatchReader(store, 8, 3, device="cuda", hold=hold, **sizes),
    )
    for _ in range(40):
        assert torch.equal(next(host), next(device).cpu())
    for reader in (host, device):
        reader.close()


def test_a_dropped_reader_ends_its_threads(tmp_path):
    store = numbered(tmp_path, 200)
    before = threading.active_count()
    for seed in range(3):
        next(BatchReader(store, 4, seed, **streamed(prefetch=True)))
    gc.collect()
    assert threading.active_count() == before
