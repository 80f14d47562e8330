"""A store whose writing was cut off is gone on with after its last whole shard, and equals one that
was written in one go.
"""

import pytest
import torch

from husai.activations import ActivationStore, StoreWriter
from husai.activations.store import HEADER
from husai.activations.writer import JOURNAL
from husai.provenance import read_json

ROWS = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
SHARD = 16 * 4 * 4  # 16 rows


class Killed(BaseException):
    pass


def write(path, rows, resume="the rows", until=None):
    with StoreWriter(path, 4, shard_bytes=SHARD, resume=resume) as writer:
        for start in range(writer.n_rows, len(rows), 7):
            if until is not None and start >= until:
                raise Killed
            writer.append(rows[start : start + 7])
        return writer


def test_a_store_killed_twice_equals_one_written_in_one_go(tmp_path):
    write(tmp_path / "whole", ROWS)
    for until, shards in ((40, 2), (80, 5)):
        with pytest.raises(Killed):
            write(tmp_path / "cut", ROWS, until=until)
        assert len(read_json(tmp_path / "cut" / JOURNAL)["shards"]) == shards
        assert not (tmp_path / "cut" / HEADER).exists()
    begun = []
    writer = StoreWriter(tmp_path / "cut", 4, shard_bytes=SHARD, resume="the rows")
    begun.append(writer.n_rows)
    writer.append(ROWS[writer.n_rows :])
    writer.close()
    assert begun == [80]
    files = [sorted(p.name for p in (tmp_path / n).iterdir()) for n in ("whole", "cut")]
    assert files[0] == files[1] and JOURNAL not in files[0]
    for name in files[0]:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert torch.equal(ActivationStore.open(tmp_path / "cut").tensor(), ROWS)


@pytest.mark.parametrize("how", ["other name", "damaged shard", "no name"])
def test_what_is_not_the_same_write_is_not_gone_on_with(tmp_path, how):
    with pytest.raises(Killed):
        write(tmp_path / "s", ROWS, until=60)
    if how == "damaged shard":
        (tmp_path / "s/shard-00001.bin").write_bytes(b"x" * SHARD)
    resume = {"other name": "others", "damaged shard": "the rows", "no name": None}[how]
    writer = StoreWriter(tmp_path / "s", 4, shard_bytes=SHARD, resume=resume)
    assert writer.n_rows == (16 if how == "damaged shard" else 0)
    writer.append(ROWS[writer.n_rows :])
    writer.close()
    assert torch.equal(ActivationStore.open(tmp_path / "s").tensor(), ROWS)
    ActivationStore.open(tmp_path / "s").verify()


def test_a_finished_store_of_the_same_name_is_all_there(tmp_path):
    write(tmp_path / "s", ROWS)
    with StoreWriter(tmp_path / "s", 4, shard_bytes=SHARD, resume="the rows") as writer:
        assert writer.n_rows == 100
    assert torch.equal(ActivationStore.open(tmp_path / "s").tensor(), ROWS)
