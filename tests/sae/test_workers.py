"""Members side by side: every one takes its steps, one worker at a time, on one thread."""

import threading
import time

import pytest
import torch

from husai.sae.training.workers import Workers

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


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


def test_a_member_has_one_thread_however_many_there_are(threads):
    threads(4)
    lanes = [Turtle(0.001), Turtle(0.001)]
    with Workers(2, CPU) as workers:
        workers.advance(lanes, 3)
    assert {n for lane in lanes for n in lane.taken} == {1}


def test_an_error_in_a_lane_reaches_the_caller(threads):
    class Broken:
        def step(self):
            raise ValueError("lane 1")

    threads(2)
    with pytest.raises(ValueError, match="lane 1"), Workers(2, CPU) as workers:
        workers.advance([Turtle(0), Broken()], 5)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("count", [1, 4])
def test_results_come_in_the_order_of_the_items(threads, count):
    threads(count)
    with Workers(7, CPU) as workers:
        assert workers.map(lambda i: i * i, range(7)) == [i * i for i in range(7)]
        with pytest.raises(ZeroDivisionError):
            workers.map(lambda i: 1 / i, range(2))
