"""No figure depends on the number of threads or on companions: weights, curves and the whole
stability record.
"""

import pytest
import torch
from sae_helpers import recipe, rows

from husai.compute import single_threaded
from husai.sae import train_ensemble
from husai.stability import measure_stability

SEEDS = [3, 5, 8]
DATA, HELD_OUT = rows(6000, d=64, features=200), rows(1500, d=64, seed=1, features=200)


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def trained(threads, seeds=SEEDS, **changes):
    """An ensemble trained with so many threads."""
    torch.set_num_threads(threads)
    shape = {"d_sae": 256, "steps": 30, "batch_size": 512, "dead_after_rows": 5000} | changes
    k = {"k": 16} if shape.get("architecture", "topk") != "relu" else {}
    result = train_ensemble(
        recipe(**{**k, **shape}), seeds, DATA, held_out=HELD_OUT, curve_points=3
    )
    assert torch.get_num_threads() == threads
    return result


def same_bits(one, other):
    for a, b in zip(one.saes, other.saes, strict=True):
        assert (
            torch.equal(a.W_enc, b.W_enc)
            and torch.equal(a.W_dec, b.W_dec)
            and torch.equal(a.b_enc, b.b_enc)
        )
    assert repr(other.curves) == repr(one.curves)
    assert other.final == one.final


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"architecture": "batchtopk"},
        {"architecture": "relu"},
        {"k": 128},
        {"shared_data_order": True},
    ],
)
def test_threads_change_no_bit_of_the_weights_and_the_curves(changes):
    one = trained(1, **changes)
    for threads in (2, 5):
        same_bits(one, trained(threads, **changes))


def test_threads_change_no_metric_of_the_stability_record():
    ensemble, found = trained(1), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        report = measure_stability(
            ensemble.saes, HELD_OUT, seeds=SEEDS, initial_decoders=ensemble.initial_decoders
        )
        found.append({name: metric.value for name, metric in report.metrics().items()})
    assert found[1] == pytest.approx(found[0], abs=1e-9)


def test_companions_change_no_bit():
    together, alone = trained(2), trained(1, [5])
    assert torch.equal(together.saes[1].W_dec, alone.saes[0].W_dec)
    mine = [{**row, "pwmcc": None} for row in together.curves if row["seed"] == 5]
    assert repr(mine) == repr(alone.curves)


def test_single_threaded_gives_the_threads_back_whatever_happens():
    torch.set_num_threads(3)
    with pytest.raises(ValueError, match="inside"), single_threaded() as granted:
        assert (granted, torch.get_num_threads()) == (3, 1)
        raise ValueError("inside")
    assert torch.get_num_threads() == 3
