"""Verification holds every evidence record against itself, so that a number changed everywhere at
once is still named.
"""

import shutil

import pytest
import report_tree

from husai.provenance import file_records, read_json, write_json
from husai.stress import stress_metrics
from husai.verify.run import verify

STABILITY = ("results/confirmation/stability/candidate.json", "results/confirmation/stability.json")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = report_tree.build_in(tmp_path_factory.mktemp("run"))
    decide(root)
    return report_tree.finish_in(root)


@pytest.fixture
def run(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def decide(root):
    report_tree.judge_in(root, strict=["results/confirmation/stability.json", "results/stress"])


def change(path, edit):
    record = read_json(path)
    edit(record)
    write_json(path, record)


def finish_again(root):
    """Hash the inputs of the stress records again, judge again, and write report, log and index
    again, as a finished run does.
    """
    for kind in ("random_model", "transcoder"):
        with report_tree.inside(root):
            change(
                root / f"results/stress/{kind}.json",
                lambda r: (
                    r.update(inputs=file_records(e["path"] for e in r["inputs"]))
                    if r["inputs"]
                    else None
                ),
            )
    decide(root)
    report_tree.finish_in(root)
    return verify(root).mismatches


def test_an_untouched_run_agrees_with_itself(original):
    found = verify(original)
    assert found.mismatches == [] and found.counts["evidence records"] == 7


@pytest.mark.parametrize(
    "name",
    [
        "S",
        "pwmcc",
        "shared_fraction",
        "activation_r",
        "null_worst",
        "clone_pairs",
        "untraced_seeds",
    ],
)
def test_a_metric_changed_everywhere_at_once_is_named(run, name):
    value = {"value": 0.7, "lcb": 0.65, "ucb": 0.75, "n": 8, "method": "jackknife-t"}
    for path in STABILITY:
        change(run / path, lambda r: r["metrics"].update({name: value}))
    lines = finish_again(run)
    assert {line.split(": ")[0] for line in lines} == set(STABILITY)
    assert all(
        f"metric {name} is 0.7 [0.65, 0.75] (n = 8) but its pairwise values and nulls give " in line
        for line in lines
    )
    assert (
        name != "S"
        or read_json(run / "results/gate/strict/release_policy.json")["metrics"]["stability.S"][
            "value"
        ]
        == 0.7
    )


def test_a_narrower_interval_alone_is_named(run):
    for path in STABILITY:
        change(
            run / path, lambda r: r["metrics"]["S"].update(lcb=r["metrics"]["S"]["value"] - 1e-6)
        )
    assert len(finish_again(run)) == 2


def test_a_null_lowered_together_with_s_is_named(run):
    """The mean of a null is derived from its pairs, as S is from that mean."""

    def lower(record):
        record["nulls"]["gaussian"]["mean"] = 0.1
        record["metrics"]["null_gaussian"]["value"] = record["metrics"]["null_worst"]["value"] = 0.1
        record["metrics"]["S"].update(value=0.5, lcb=0.45, ucb=0.55)

    for path in STABILITY:
        change(run / path, lower)
    named = " ".join(finish_again(run))
    assert all(f"metric {name} is" in named for name in ("S", "null_gaussian", "null_worst"))


def test_a_difference_of_two_ensembles_is_derived_again(run):
    def raise_it(record):
        record["metrics"]["delta_S"].update(value=0.4, lcb=0.35, ucb=0.45)

    change(run / "results/stress/random_model.json", raise_it)
    assert [
        line
        for line in finish_again(run)
        if "metric delta_S is 0.4" in line and "two stability records give" in line
    ]


def test_pairwise_values_cannot_be_left_out_or_changed_in_one_of_two_records(run):
    change(run / STABILITY[1], lambda r: r.pop("pairwise"))
    assert any("its metrics cannot be derived again" in line for line in finish_again(run))
    first, second = (read_json(run / path) for path in STABILITY)
    from husai.statistics import ensemble_metrics

    second["pairwise"] = {
        name: [[min(1.0, v + 0.1) for v in row] for row in matrix]
        for name, matrix in first["pairwise"].items()
    }
    second["metrics"] = ensemble_metrics(second)
    second["rows"], second["split"] = 7, "another"
    write_json(run / STABILITY[1], second)
    lines = finish_again(run)
    assert (
        len(lines) == 1
        and "which was measured on the same files" in lines[0]
        and "S_all" in lines[0]
    )


def test_a_stress_record_must_rest_on_two_stability_records(run):
    weights = "results/saes/language/topk-d512-k16/seed1/sae_weights.safetensors"
    with report_tree.inside(run):
        change(
            run / "results/stress/transcoder.json",
            lambda r: r.update(inputs=file_records([weights, weights])),
        )
    assert any(
        line.startswith("results/stress/transcoder.json: its metrics cannot be derived again")
        for line in finish_again(run)
    )


@pytest.mark.parametrize(
    "inputs",
    [[], None, [{"path": "results/confirmation/stability.json"}]],
    ids=["empty", "missing", "without hash"],
)
@pytest.mark.parametrize("name", ["results/stress/ood.json", STABILITY[1]])
def test_a_record_that_does_not_say_what_it_rests_on_is_named(run, name, inputs):
    change(run / name, lambda r: r.pop("inputs") if inputs is None else r.update(inputs=inputs))
    lines = finish_again(run)
    problem = "an input without path and sha256" if inputs else "names no inputs"
    assert any(line.startswith(name) and problem in line for line in lines)
    shutil.rmtree(run / "results")
    assert any(
        line.startswith(f"reports/evidence/{name}") and problem in line
        for line in verify(run).mismatches
    ), "nor from the copies"


def test_planted_features_rest_on_no_file(run):
    report_tree.record(
        run / "results/baseline/planted.json", "planted", {"recovery": report_tree.metric(0.9)}
    )
    assert not [line for line in finish_again(run) if "planted" in line]


def test_a_record_must_hash_its_own_config(run):
    change(
        run / "results/stress/ood.json",
        lambda r: r["provenance"].update(config={"kind": "another"}),
    )
    assert any(
        "has a config_hash that is not the hash of its config" in line for line in finish_again(run)
    )


def test_stress_metrics_are_differences_of_corrected_values(run):
    """S of the tree's ensembles is 0.3127, 0.2 and 0.25 by construction."""
    candidate, other = (
        read_json(run / f"results/confirmation/stability/{name}.json")
        for name in ("candidate", "transcoder")
    )
    found = stress_metrics("transcoder", candidate, other)
    assert found["delta_S"].value == pytest.approx(0.0627, abs=1e-9)
    assert found["transcoder_delta"].value == pytest.approx(-0.7 * 0.0627, abs=1e-9)
