"""The strict selector: the winner is farthest from its nearest gate, and the rest of the pool
cannot sway the choice."""

import json

import pytest
from gate_records import PASSING, frontier_record, interval, write
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.cycle3.candidates import load_candidates
from husai.errors import HusaiError
from husai.gate import load_policy
from husai.jobs.select import select_job
from husai.selection.margins import SCALES, margins
from husai.selection.strict import select_strict

CONDITIONS = load_policy("strict").all_conditions()


def choose(pool, **options):
    return select_strict(pool, CONDITIONS, **options)


def pool(tmp_path, *records):
    return load_candidates([write(tmp_path / "frontier.json", {"records": list(records)})])


def measured(name, seeds=5, without=(), **changes):
    """This pipeline's records of one condition: all that passes strict, but for ``changes``."""
    known = {f"{kind}.{m}": v for kind, of in PASSING.items() for m, v in of.items()}
    known |= {key.replace("__", "."): value for key, value in changes.items()}
    gated = {k: interval(k, v) for k, v in known.items() if k in SCALES and k not in without}
    out = []
    for seed in range(seeds):
        extra = {
            "condition_id": f"{name}_seed{seed}",
            "recipe": {"architecture": "topk"},
            "recipe_hash": f"hash-{name}",
            "strict": {"delta_vs_frozen": 0.01 * seed},
            "gated": gated,
        }
        record = frontier_record("topk", seed, 0.0, 0.0, **extra)
        del record["checkpoint"]
        out.append(record)
    return out


def test_every_gated_quantity_that_selection_data_show_has_a_unit():
    shown = {"integrity", "stability", "saebench", "cebench", "faithfulness"}
    asked = {f"{c.evidence}.{c.metric}" for c in CONDITIONS if c.evidence in shown}
    of_the_records = {"leak_excess", "text_overlap_rows", "shared_init_pairs", "clone_pairs"}
    of_the_records |= {"untraced_seeds", "assessable"}
    nulls = {name for name in asked if ".null_" in name}
    left = {name for name in asked if name.split(".")[1] in of_the_records}
    assert asked - nulls - left == set(SCALES)


def test_the_margin_is_what_the_gate_would_read_less_its_threshold():
    gated = {"stability.S": interval("S", 0.42), "stability.redundancy": interval("x", 0.04)}
    found = {m.condition: m for m in margins(gated, CONDITIONS)}
    assert found["stability.S lcb >= 0.3"].margin == pytest.approx(0.41 - 0.30)
    assert found["stability.S lcb >= 0.3"].scaled == pytest.approx(0.11 / SCALES["stability.S"])
    assert found["stability.redundancy <= 0.1"].margin == pytest.approx(0.06)


def test_strict_takes_the_best_worst_margin_and_not_the_best_probe(tmp_path):
    """The embedded default once chose S 0.13 for its probes, where S 0.77 was in the pool."""
    records = (
        measured("wide", stability__S=0.13, saebench__delta_vs_frozen=0.2)
        + measured("narrow", stability__S=0.77, saebench__delta_vs_frozen=0.04)
        + measured("few", seeds=4)
    )
    selection = choose(pool(tmp_path, *records))
    assert [e.name for e in selection.ordered] == ["narrow", "wide"]
    entry, wide = selection.ordered
    assert entry.score == min(entry.components.values()) > 0 > wide.score
    assert min(wide.margins, key=lambda m: m.scaled).condition == "stability.S lcb >= 0.3"
    assert selection.to_dict()["recipe_hash"] == "hash-narrow"
    assert selection.selected.representative.seed == 4, "its best probes"
    assert "4 seeds; 5 are needed" in selection.left_out["few"]


def test_what_was_not_measured_is_left_out_with_the_reason(tmp_path):
    lacking = measured("scaled", without=("stability.S", "faithfulness.recovered"))
    foreign = measured("brought", without=("integrity.plateau_gain",))
    selection = choose(pool(tmp_path, *lacking, *foreign))
    assert [e.name for e in selection.ordered] == ["brought"]
    said = selection.left_out["scaled"]
    assert "not measured: " in said and "stability.S" in said and "faithfulness.recovered" in said
    with pytest.raises(HusaiError, match=r"no condition can be chosen.*scaled: not measured"):
        choose(pool(tmp_path, *lacking))


def test_a_quantity_without_a_bound_is_as_far_from_its_gate_as_can_be(tmp_path):
    unbounded = measured("unbounded")
    for record in unbounded:
        record["gated"]["stability.S"] |= {"value": None, "lcb": None, "ucb": None}
    selection = choose(pool(tmp_path, *unbounded, *measured("bad", stability__S=-5.0)))
    assert [e.name for e in selection.ordered] == ["bad", "unbounded"]


def test_the_margins_stand_in_both_files(tmp_path):
    resolved = {"sparsity_coefficient": 3.2}
    records = [{**one, "resolved": resolved} for one in measured("a") + measured("b")]
    path = write(tmp_path / "frontier.json", {"records": records})
    select_job("strict", output_dir=tmp_path, frontier_results=[path])
    body = json.loads((tmp_path / "selected_candidate.json").read_text())
    assert body["resolved"] == resolved
    assert body["selection"]["scales"] == SCALES
    found = {m["condition"]: m["margin"] for m in body["pool"][0]["margins"]}
    assert found["saebench.delta_vs_dense lcb >= -0.05"] == pytest.approx(0.04)
    text = (tmp_path / "selection.md").read_text()
    assert "| gate's condition | `a` | `b` |" in text
    assert "| saebench.delta_vs_dense lcb >= -0.05 | +0.0400 | +0.0400 |" in text


def test_a_recipe_measured_twice_counts_each_seed_once(tmp_path):
    records = measured("a")
    alone = choose(pool(tmp_path, *records)).selected
    assert choose(pool(tmp_path, *records, *records)).selected.score == alone.score
    with pytest.raises(HusaiError):
        choose(pool(tmp_path, *measured("few", seeds=4), *measured("few", seeds=4)))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_losing_candidate_never_changes_the_strict_winner(tmp_path_factory, data):
    values = st.tuples(st.floats(-0.9, 0.9), st.floats(-0.2, 0.2))
    conditions = data.draw(st.lists(values, min_size=2, max_size=6))
    tmp_path = tmp_path_factory.mktemp("pool")
    records = [
        measured(f"c{i}", stability__S=s, saebench__delta_vs_frozen=probe)
        for i, (s, probe) in enumerate(conditions)
    ]
    everything = choose(pool(tmp_path, *[r for group in records for r in group]))
    winner = everything.selected
    loser = data.draw(st.sampled_from([e.name for e in everything.ordered[1:]]))
    rest = [r for i, group in enumerate(records) if f"c{i}" != loser for r in group]
    without = choose(pool(tmp_path, *rest)).selected
    assert (without.name, without.score) == (winner.name, winner.score)
