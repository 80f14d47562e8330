"""What a decision amounts to."""

import pytest

from husai.gate.verdict import AS_BROUGHT, NOT_RELEASED, RELEASED, verdict_on
from husai.probing.draws import draw_seeds, draw_sets

POOL = [f"{number}_{what}" for number, what in enumerate(("headline_a", "headline_b", "x", "y"))]
HERE = {
    "event": "started",
    "trained_here": True,
    "drawn": {"key": "a hash", "pool": POOL},
    "data": draw_sets(POOL, 3, "a hash"),
    "seeds": sorted(draw_seeds("a hash", "confirmation", 8)),
    "stress_seeds": draw_seeds("a hash", "stress", 5),
}


@pytest.mark.parametrize(
    ("shipped", "passed", "attempts", "verdict", "caveats"),
    [
        (True, True, [HERE], RELEASED, 1),
        (True, False, [HERE], NOT_RELEASED, 0),
        (False, True, [HERE], NOT_RELEASED, 0),
        (True, True, [], AS_BROUGHT, 2),
        (True, True, [HERE | {"trained_here": False}], AS_BROUGHT, 2),
        (True, True, [HERE | {"drawn": False}], AS_BROUGHT, 2),
        (True, True, [HERE, HERE | {"drawn": None}], AS_BROUGHT, 2),
        (True, True, [HERE | {"drawn": True}], AS_BROUGHT, 2),
        (True, True, [HERE | {"drawn": {"key": "another", "pool": POOL}}], AS_BROUGHT, 2),
        (True, True, [HERE | {"drawn": {"key": "a hash", "pool": HERE["data"]}}], AS_BROUGHT, 2),
        (True, True, [HERE | {"data": POOL[:3]}], AS_BROUGHT, 2),
        (True, True, [HERE | {"data": []}], AS_BROUGHT, 2),
        (True, True, [HERE | {"drawn": {"key": "a hash", "pool": [1, {}]}}], AS_BROUGHT, 2),
        (True, True, [HERE | {"seeds": [*range(8)]}], AS_BROUGHT, 2),
        (True, True, [HERE | {"stress_seeds": [1, "x", None]}], AS_BROUGHT, 2),
        (True, True, [HERE | {"stress_seeds": None}], AS_BROUGHT, 2),
    ],
)
def test_only_saes_trained_here_on_drawn_data_sets_are_released(
    shipped, passed, attempts, verdict, caveats
):
    said, not_excluded = verdict_on(shipped, passed, attempts)
    assert (said, len(not_excluded)) == (verdict, caveats)
