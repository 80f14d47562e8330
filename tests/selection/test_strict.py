"""The strict selector: a winner by absolute scores, which the rest of the pool cannot sway."""

import pytest
from gate_records import frontier_record, write
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.cycle3.candidates import load_candidates
from husai.errors import HusaiError
from husai.selection.strict import select_strict


def pool(tmp_path, *records):
    return load_candidates([write(tmp_path / "frontier.json", {"records": list(records)})])


def measured(name, frozen, cebench, dense=0.0, seeds=5):
    """This pipeline's records: deltas against a frozen decoder per seed."""
    out = []
    for seed in range(seeds):
        wiggle = 0.002 * (seed - (seeds - 1) / 2)
        strict = {
            "delta_vs_frozen": frozen + wiggle,
            "delta_vs_dense": dense + wiggle,
            "cebench_delta_vs_frozen_fraction": cebench + wiggle,
        }
        extra = {
            "condition_id": f"{name}_seed{seed}",
            "recipe": {"architecture": "topk"},
            "recipe_hash": f"hash-{name}",
            "strict": strict,
        }
        record = frontier_record("topk", seed, 0.0, 0.0, **extra)
        del record["checkpoint"]
        out.append(record)
    return out


def test_strict_takes_the_best_worst_bound(tmp_path):
    records = (
        measured("lopsided", 0.2, 0.0)
        + measured("balanced", 0.06, 0.05)
        + measured("few", 0.5, 0.5, seeds=4)
    )
    selection = select_strict(pool(tmp_path, *records))
    assert [e.name for e in selection.ordered] == ["balanced", "lopsided"]
    entry = selection.selected
    assert (
        entry.metrics["delta_vs_frozen"] == pytest.approx(0.06)
        and entry.metrics["delta_vs_frozen_ci95_low"] < 0.06
    )
    assert (
        entry.score == min(entry.components.values())
        and selection.to_dict()["recipe_hash"] == "hash-balanced"
    )
    with pytest.raises(HusaiError, match="no condition has 5 seeds"):
        select_strict(pool(tmp_path, *measured("few", 0.5, 0.5, seeds=4)))


def test_a_recipe_measured_twice_counts_each_seed_once(tmp_path):
    records = measured("a", 0.1, 0.1)
    alone = select_strict(pool(tmp_path, *records)).selected
    assert select_strict(pool(tmp_path, *records, *records)).selected.score == alone.score
    with pytest.raises(HusaiError):
        select_strict(
            pool(tmp_path, *measured("few", 0.1, 0.1, seeds=4), *measured("few", 0.1, 0.1, seeds=4))
        )


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_losing_candidate_never_changes_the_strict_winner(tmp_path_factory, data):
    values = st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2))
    conditions = data.draw(st.lists(values, min_size=2, max_size=6))
    tmp_path = tmp_path_factory.mktemp("pool")
    records = [measured(f"c{i}", *v) for i, v in enumerate(conditions)]
    everything = select_strict(pool(tmp_path, *[r for group in records for r in group]))
    winner = everything.selected
    loser = data.draw(st.sampled_from([e.name for e in everything.ordered[1:]]))
    rest = [r for i, group in enumerate(records) if f"c{i}" != loser for r in group]
    without = select_strict(pool(tmp_path, *rest)).selected
    assert (without.name, without.score) == (winner.name, winner.score)
