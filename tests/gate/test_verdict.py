"""What a decision amounts to."""

import pytest

from husai.gate.verdict import AS_BROUGHT, NOT_RELEASED, RELEASED, verdict_on

HERE = {"event": "started", "trained_here": True, "drawn": True}


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
    ],
)
def test_only_saes_trained_here_on_drawn_data_sets_are_released(
    shipped, passed, attempts, verdict, caveats
):
    said, not_excluded = verdict_on(shipped, passed, attempts)
    assert (said, len(not_excluded)) == (verdict, caveats)
