"""Members side by side: the same figures whatever the number of threads, and no member left behind."""

import threading
import time

import pytest
import torch
from sae_helpers import recipe, rows

from husai.sae.ensemble import train_ensemble
from husai.sae.workers import Workers

DATA, HELD_OUT = rows(3000), rows(500, seed=1)
CPU = torch.device("cpu")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("changes", [{}, {"shared_data_order": True}, {"dead_after_rows": 500, "auxk_coefficient": 0.03}])
def test_no_figure_depends_on_the_number_of_threads(threads, changes):
    results = []
    for n in (1, 2, 3, 5):
        threads(n)
        results.append(train_ensemble(recipe(steps=120, **changes), [0, 1, 2], DATA, held_out=HELD_OUT))
        assert torch.get_num_threads() == n
    for other in results[1:]:
        for a, b in zip(results[0].saes, other.saes, strict=True):
            assert torch.equal(a.W_enc, b.W_enc) and torch.equal(a.W_dec, b.W_dec) and torch.equal(a.b_enc, b.b_enc)
        assert [r for r in other.curves if r["step"]] == [r for r in results[0].curves if r["step"]]
        assert other.final == results[0].final


class Turtle:
    def __init__(self, pause):
        self.pause, self.taken, self.together = pause, [], threading.Lock()

    def step(self):
        assert self.together.acquire(blocking=False), "a lane was stepped by two workers at once"
        self.taken.append(torch.get_num_threads())
        time.sleep(self.pause)
        self.together.release()


def test_every_lane_takes_its_steps_and_no_two_workers_share_one(threads):
    threads(3)
    lanes = [Turtle(p) for p in (0.0, 0.002, 0.0, 0.001, 0.0)]
    with Workers(len(lanes), CPU) as workers:
        workers.advance(lanes, 7)
        workers.advance(lanes, 2)
    assert [len(lane.taken) for lane in lanes] == [9] * 5


def test_threads_beyond_the_members_are_shared_out(threads):
    threads(4)
    lanes = [Turtle(0.001), Turtle(0.001)]
    with Workers(2, CPU) as workers:
        workers.advance(lanes, 3)
    assert {n for lane in lanes for n in lane.taken} == {2}


def test_an_error_in_a_lane_reaches_the_caller(threads):
    class Broken:
        def step(self):
            raise ValueError("lane 1")

    threads(2)
    with pytest.raises(ValueError, match="lane 1"), Workers(2, CPU) as workers:
        workers.advance([Turtle(0), Broken()], 5)
    assert torch.get_num_threads() == 2
