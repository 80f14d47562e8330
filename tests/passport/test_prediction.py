"""Certificates held against a second set of seeds."""

import math

import numpy as np
import pytest
import torch

from husai.errors import HusaiError
from husai.passport.certify import certify
from husai.passport.planted import PlantedDesign, planted_sae, planted_world
from husai.passport.prediction import calibration, halves, predict

PLAN = PlantedDesign(d_in=32, d_sae=80, l0=4, cosine=0.85, n_rows=800)


@pytest.fixture(scope="module")
def planted():
    world = planted_world(PLAN, 11)
    return [planted_sae(world, 100 + s)[0] for s in range(12)], world.rows


@pytest.fixture(scope="module")
def found(planted):
    saes, rows = planted
    return predict(saes[:6], saes[6:], rows)


def test_certified_latents_reappear_in_the_second_set(found):
    assert found.held_share >= 0.95
    assert min(found.certified) > 20
    assert max(found.base_rate) < 0.7


def test_theta_is_calibrated(found):
    assert found.calibration_error < 0.05
    thetas = [b.theta for b in found.calibration]
    assert thetas == sorted(thetas)
    assert sum(b.latents for b in found.calibration) == sum(found.living)


def test_few_seeds_foretell_the_rest_and_more_do_it_better(found):
    assert 0.85 < found.auc[2] <= 1.0
    assert found.auc[4] >= found.auc[2]


def test_halves_are_looked_up_in_each_other(planted, found):
    saes, rows = planted
    both = halves(certify(saes, rows, null_draws=0))
    assert [len(one.names) for one in both] == [6, 6]
    assert both[0].certified == found.certified and both[0].held_share == found.held_share
    row = both[1].row()
    assert row["of_which_hold"] >= 0.95 > row["all_that_hold"]
    assert not halves(certify(saes[:4], rows, null_draws=0)), "two seeds certify nothing"
    assert not halves(certify(saes[:8], None, null_draws=0)), "nor do cosines alone"
    assert not halves(certify([*saes[:6], saes[0]], rows, null_draws=0)), "nor do copies"


def test_unrelated_seeds_foretell_nothing(planted):
    _, rows = planted
    world = planted_world(PLAN, 11)
    empty = {name: getattr(world, name)[:0] for name in ("shared", "duplicate", "split", "faint")}
    world = world._replace(whole=world.whole[:0], children=world.children[:, :0], **empty)
    found = predict(*[[planted_sae(world, s + k)[0] for s in range(3)] for k in (0, 50)], rows)
    assert found.certified == [0, 0, 0]
    assert math.isnan(found.held_share)


def test_sets_that_share_a_seed_are_refused(planted):
    saes, rows = planted
    with pytest.raises(HusaiError, match="share a seed"):
        predict(saes[:4], [saes[5], saes[2]], rows)


def test_too_few_saes_are_refused(planted):
    saes, rows = planted
    with pytest.raises(HusaiError, match="at least 3 and 1"):
        predict(saes[:2], saes[2:], rows)


def test_calibration_by_hand():
    found = calibration(np.array([0, 2, 2]), np.array([0.1, 0.8, 0.8]), np.array([0.25, 1.0, 0.5]))
    assert found == [(0.1, 0.25, 1), (0.8, 0.75, 2)]


def test_the_first_sae_does_not_depend_on_the_second_set(planted, found):
    saes, rows = planted
    again = predict(saes[:6], saes[7:9], rows)
    assert again.certified == found.certified
    assert torch.tensor(again.held).isfinite().all()
