"""The strict decision: what passes, what fails, and that the reason names the culprit."""

import copy
import math
import random
from dataclasses import replace

import pytest
from gate_records import HASH, PASSING, RECIPE, interval, passing, record
from hypothesis import given, settings
from hypothesis import strategies as st

from husai.cebench.bound import score_bound
from husai.errors import HusaiError
from husai.evidence import Evidence, Metric
from husai.gate import evaluate, load_policy
from husai.gate.checks import CHECKS
from husai.gate.policy_reader import parse_policy

STRICT = load_policy("strict")


def decide(records, candidate=HASH):
    return evaluate(STRICT, records, candidate)


def test_a_sound_candidate_passes_every_gate():
    decision = decide(passing())
    assert (
        decision.pass_all
        and all(decision.gates.values())
        and decision.failing == []
        and decision.unattainable == []
    )
    assert decision.metrics["stability.S"] == {
        "value": 0.6,
        "lcb": pytest.approx(0.59),
        "ucb": pytest.approx(0.61),
        "n": 8,
    }


TRUTH = [
    ("integrity", "integrity__leak_excess", 0.05, 0.051),
    ("integrity", "integrity__plateau_gain", 0.00499, 0.005),
    ("integrity", "integrity__cos_to_init", 0.799, 0.8),
    ("integrity", "integrity__dead_fraction", 0.10, 0.1001),
    ("integrity", "integrity__text_overlap_rows", 0, 1),
    ("integrity", "integrity__shared_init_pairs", 0, 1),
    ("integrity", "stability__clone_pairs", 0, 1),
    ("reproducibility", "stability__S", 0.3101, 0.3099),
    ("reproducibility", "stability__shared_fraction", 0.3101, 0.3099),
    ("reproducibility", "stability__null_worst", 0.9, 0.901),
    ("reproducibility", "stability__assessable", 1, 0),
    ("is_sae", "stability__explained_variance", 0.5101, 0.5099),
    ("is_sae", "stability__explained_variance_vs_frozen", 0.0101, 0.01),
    ("is_sae", "stability__l0_per_d_in", 0.25, 0.251),
    ("is_sae", "stability__dense_fraction", 0.10, 0.101),
    ("is_sae", "stability__redundancy", 0.10, 0.101),
    ("reproducibility", "stability__S_worst_seed", 0.30, 0.2999),
    ("reproducibility", "stability__shared_fraction_weighted", 0.3101, 0.3099),
    *(
        ("reproducibility", f"stability__null_{kind}", 0.9, 0.901)
        for kind in ("gaussian", "init", "covariance", "crowding", "frozen")
    ),
    ("functional", "stability__activation_agreement", 0.3101, 0.3099),
    ("random_model", "random_model__delta_S", 0.0101, 0.01),
    ("random_model", "random_model__delta_probing", 0.0101, 0.01),
    ("is_sae", "faithfulness__recovered", 0.7101, 0.7099),
    ("is_sae", "faithfulness__recovered_vs_frozen", 0.0101, 0.01),
    ("transcoder", "transcoder__delta_S", -0.0399, -0.0401),
    ("ood", "ood__excess_drop", 0.0199, 0.0201),
    ("saebench", "saebench__delta_vs_frozen", 0.0101, 0.01),
    ("saebench", "saebench__delta_vs_neurons", 0.0101, 0.01),
    ("saebench", "saebench__delta_vs_pca", -0.0099, -0.0101),
    ("saebench", "saebench__delta_vs_dense", -0.0399, -0.0401),
    ("cebench", "cebench__delta_vs_frozen", 0.0101, 0.01),
]


@pytest.mark.parametrize(("gate", "name", "good", "bad"), TRUTH)
def test_each_condition_on_both_sides_of_its_threshold(gate, name, good, bad):
    assert decide(passing(**{name: good})).pass_all
    decision = decide(passing(**{name: bad}))
    assert decision.failing == [gate] and not decision.pass_all
    assert name.replace("__", ".") in decision.reasons[gate]


def test_a_reason_shows_as_many_digits_as_the_verdict_needs():
    decision = decide(passing(integrity__dead_fraction=0.1000001))
    assert "integrity.dead_fraction = 0.1000001 fails <= 0.1" in decision.reasons["integrity"]


def test_the_saebench_point_condition_counts_by_itself():
    narrow = Metric(0.009, 0.001, 0.02, 8, "crossed")
    assert decide(passing(saebench__delta_vs_frozen=narrow)).failing == ["saebench"]


@pytest.mark.parametrize("name", [row[1] for row in TRUTH])
@pytest.mark.parametrize(
    "broken",
    [
        None,
        {"value": None, "lcb": None, "ucb": None, "n": 8},
        {"value": math.nan, "lcb": 0.9, "ucb": 1.0, "n": 8},
        "0.9",
    ],
    ids=["absent", "null", "nan", "text"],
)
def test_what_cannot_be_read_fails_its_gate_and_is_named(name, broken):
    records = passing(**{name: {} if broken is None else broken}) if broken != "0.9" else passing()
    kind, metric_name = name.split("__")
    target = next(r for r in records if r["kind"] == kind)
    if broken is None:
        del target["metrics"][metric_name]
    elif broken == "0.9":
        target["metrics"][metric_name] = "0.9"
    decision = decide(records)
    gate = next(row[0] for row in TRUTH if row[1] == name)
    assert gate in decision.failing and metric_name in decision.reasons[gate]


@pytest.mark.parametrize("kind", list(PASSING))
def test_a_missing_record_fails_and_a_foreign_one_does_not_stand_in(kind):
    rest = [r for r in passing() if r["kind"] != kind]
    assert f"there is no {kind} evidence" in " ".join(decide(rest).reasons.values())
    decision = decide([*rest, record(kind, PASSING[kind], recipe_hash="another")])
    assert not decision.pass_all and "not for the candidate" in " ".join(decision.reasons.values())


@pytest.mark.parametrize(
    ("entry", "part"),
    [
        (Metric(0.6, 0.7, 0.5, 8), "lcb 0.7 above ucb 0.5"),
        (Metric(0.9, 0.5, 0.6, 8), "outside its own interval"),
        (Metric(1.6, 1.5, 1.7, 8), "lies outside what it can be"),
        (Metric(math.inf, 0.5, None, 8), "infinite value"),
        (Metric(0.6, math.nan, 0.7, 8), "lcb NaN"),
        (Metric(True, 0.5, 0.7, 8), "not a number"),
        (Metric(0.6, 0.55, 0.65, 0), "not a positive count"),
        (Metric(0.6, None, None, 8), "unbounded"),
        (0.6, "not a metric"),
    ],
)
def test_malformed_numbers(entry, part):
    records = passing()
    records[1]["metrics"]["S"] = entry
    decision = decide(records)
    assert decision.failing == ["reproducibility"] and part in decision.reasons["reproducibility"]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"schema": "husai.evidence/0"}, "has schema"),
        ({"provenance": {}}, "no provenance"),
        ({"inputs": [{"path": "x"}]}, "without path and sha256"),
        ({"inputs": None}, "no list of inputs"),
    ],
)
def test_malformed_records(change, part):
    records = passing()
    records[4].update(change)
    decision = decide(records)
    assert {"ood", "integrity"} <= set(decision.failing) and part in decision.reasons["ood"]


def test_records_that_are_not_records():
    assert decide([*passing(), [1, 2]]).failing == ["integrity"]
    assert not decide([{"metrics": 3}, None]).pass_all


def test_stale_evidence_is_named():
    records = passing()
    records[2]["provenance"]["code_hash"] = "older"
    decision = decide(records)
    assert (
        decision.failing == ["integrity"]
        and "2 code versions" in decision.reasons["integrity"]
        and "random_model" in decision.reasons["integrity"]
    )
    again = passing()
    again.append(copy.deepcopy(again[1]))
    again[-1]["provenance"]["config_hash"] = "other"
    assert "configurations of stability" in decide(again).reasons["integrity"]
    runs = [r | {"run_config_hash": "a"} for r in passing()]
    assert decide(runs).pass_all
    runs[3]["run_config_hash"] = "b"
    assert "run configurations" in decide(runs).reasons["integrity"]


def test_too_few_seeds():
    records = passing()
    records[1] = record("stability", PASSING["stability"], seeds=7)
    assert "rests on 7 seeds where 8 are needed" in decide(records).reasons["reproducibility"]
    records[1] = record("stability", PASSING["stability"], seeds=8) | {"seeds": [1] * 8}
    assert "rests on 1 seeds" in decide(records).reasons["functional"]


def test_an_interval_from_fewer_seeds_than_the_record_names_counts_only_those():
    decision = decide(passing(stability__S=Metric(0.6, 0.59, 0.61, 3)))
    assert (
        decision.failing == ["reproducibility"]
        and "rests on 3 seeds where 8 are needed" in decision.reasons["reproducibility"]
    )
    assert decide(passing(stability__clone_pairs=Metric(0))).pass_all, (
        "a count has no interval: n says nothing about its seeds"
    )


def test_selection_data_is_never_gated_and_confirmation_outranks():
    selection = [r | {"phase": "selection"} for r in passing()]
    decision = decide(selection)
    assert not decision.pass_all and "selection's own data" in decision.reasons["saebench"]
    confirmed = [r | {"phase": "confirmation"} for r in passing(stability__S=0.1)]
    assert decide([*passing(), *confirmed]).failing == ["reproducibility"]


def test_no_candidate():
    assert evaluate(STRICT, passing()).pass_all
    mixed = [*passing(), record("ood", PASSING["ood"], recipe_hash="another")]
    assert "candidate is not named" in evaluate(STRICT, mixed).reasons["ood"]
    confirmed = [
        *(r | {"phase": "confirmation"} for r in passing()[:2]),
        *passing()[2:],
        *mixed[-1:],
    ]
    assert (
        evaluate(STRICT, confirmed).candidate["recipe_hash"] == HASH
        and evaluate(STRICT, confirmed).pass_all
    )
    assert not evaluate(STRICT, []).pass_all and not evaluate(STRICT, [], HASH).pass_all


def test_the_worst_of_several_records_decides():
    extra = record("ood", {"excess_drop": 0.2})
    extra["provenance"]["config_hash"] = "config of ood"
    for order in ([*passing(), extra], [extra, *passing()]):
        assert (
            decide(order).failing == ["ood"]
            and decide(order).metrics["ood.excess_drop"]["value"] == 0.2
        )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), drop=st.sampled_from(list(PASSING)), bad=st.booleans())
def test_order_of_evidence_is_irrelevant(seed, drop, bad):
    records = [
        *passing(),
        record("stability", {"S": 0.2}),
        record("ood", PASSING["ood"], recipe_hash="another"),
    ]
    records = [r for r in records if not (bad and r["kind"] == drop)]
    shuffled = records[:]
    random.Random(seed).shuffle(shuffled)
    assert decide(shuffled).to_dict() == decide(records).to_dict()


WORSE = {
    "excess_drop": 1,
    "leak_excess": 1,
    "plateau_gain": 1,
    "cos_to_init": 1,
    "dead_fraction": 1,
    "l0_per_d_in": 1,
    "dense_fraction": 1,
    "redundancy": 1,
    "null_worst": 1,
    **{f"null_{kind}": 1 for kind in ("gaussian", "init", "covariance", "crowding", "frozen")},
}
NEVER_NEGATIVE = {key for key in WORSE if key.startswith("null_")} | {
    "dead_fraction",
    "l0_per_d_in",
    "dense_fraction",
    "redundancy",
}


@settings(max_examples=100, deadline=None)
@given(
    name=st.sampled_from(
        [
            r[1]
            for r in TRUTH
            if "pairs" not in r[1] and "rows" not in r[1] and "assessable" not in r[1]
        ]
    ),
    value=st.floats(-0.2, 0.95),
    half=st.floats(0.0, 0.3),
    less=st.floats(0.0, 0.5),
    wider=st.floats(0.0, 0.5),
)
def test_worse_evidence_never_turns_a_fail_into_a_pass(name, value, half, less, wider):
    key = name.split("__")[1]
    sign = WORSE.get(key, -1)
    if key in NEVER_NEGATIVE:
        value = abs(
            value
        )  # below 0 it would not be worse evidence but impossible evidence, which fails for that
    before = decide(passing(**{name: Metric(value, value - half, value + half, 8)}))
    worse = value + sign * less
    after = decide(passing(**{name: Metric(worse, worse - half - wider, worse + half + wider, 8)}))
    for gate, passed in after.gates.items():
        assert before.gates[gate] or not passed


def test_cebench_threshold_beyond_the_bound_is_unattainable():
    assert score_bound(1024) == pytest.approx(31.97, abs=0.005) and score_bound(
        2048
    ) == pytest.approx(45.23, abs=0.005)  # method.md section 3
    bound = score_bound(1024)
    at_bound = {
        "delta_vs_frozen": Metric(0.0, -0.01, 0.01, 8),
        "bound": interval("b", bound),
        "interpretability_fixed": interval("i", bound),
    }
    records = [r for r in passing() if r["kind"] != "cebench"]
    decision = decide([*records, record("cebench", at_bound)])
    assert (
        decision.unattainable == ["cebench"]
        and "unattainable" in decision.reasons["cebench"]
        and "bound" in decision.reasons["cebench"]
    )
    fine = at_bound | {
        "delta_vs_frozen": Metric(0.1, 0.09, 0.11, 8),
        "interpretability_fixed": interval("i", 9.0),
    }
    assert decide([*records, record("cebench", fine)]).pass_all


def test_what_the_seeds_cannot_resolve_is_named():
    decision = decide(passing(stability__S=Metric(0.5, -0.3, 1.3, 8)))
    assert (
        decision.unattainable == ["reproducibility"]
        and "unresolvable: with n = 8" in decision.reasons["reproducibility"]
    )
    one = decide(passing(stability__activation_agreement=Metric(0.9)))
    assert "functional" in one.unattainable and "gives no interval" in one.reasons["functional"]


def test_the_decision_as_text_and_json():
    decision = decide(passing(ood__excess_drop=0.2))
    text = decision.to_markdown()
    assert text.startswith("# Policy `strict`: FAIL: ood") and "| ood | **fail** |" in text
    lines = decision.lines()
    assert len(lines) == 9 and lines[3].startswith(
        "pass functional: stability.activation_agreement lcb 0.6 [0.59, 0.61], asked lcb >= 0.3: "
    )
    assert lines[6].startswith(
        "FAIL ood: ood.excess_drop ucb 0.2 [0.19, 0.21], asked ucb <= 0.03: ood.excess_drop ucb = "
        "0.21 fails <= 0.03"
    )
    missing = decide([r for r in passing() if r["kind"] != "ood"]).lines()[6]
    assert missing.startswith(
        "FAIL ood: ood.excess_drop ucb missing, asked ucb <= 0.03: ood.excess_drop ucb is "
        "missing: there is no ood evidence"
    )
    assert {
        "policy",
        "candidate",
        "metrics",
        "thresholds",
        "gates",
        "reasons",
        "unattainable",
    } <= decision.to_dict().keys()


@pytest.mark.parametrize(
    ("kind", "change", "gate", "said"),
    [
        ("saebench", {"engine": "fast"}, "saebench", "has engine fast, the policy fixes official"),
        ("saebench", {"dense_k": 512}, "saebench", "has dense_k 512, the policy fixes 128"),
        ("saebench", {"pooling": None}, "saebench", "does not say its pooling"),
        ("saebench", {"n_informative": 11}, "saebench", "has 11 datasets, the policy asks for 12"),
        ("saebench", {"n_families": 7}, "saebench", "has 7 families, the policy asks for 8"),
        ("ood", {"penalty": "l2"}, "ood", "has penalty l2, the policy fixes l1"),
        ("ood", {"n_families": 2}, "ood", "has 2 families, the policy asks for 3"),
        ("cebench", {"n_pairs": 20}, "cebench", "has 20 pairs, the policy asks for 100"),
        ("faithfulness", {"n_texts": None}, "is_sae", "does not say its texts"),
    ],
)
def test_what_was_measured_otherwise_than_the_policy_fixes_fails(kind, change, gate, said):
    records = passing()
    record = next(r for r in records if r["kind"] == kind)
    settings = record.get("probing", {})
    record |= {k: v for k, v in change.items() if k not in settings}
    if "probing" in record:
        record["probing"] = settings | {k: v for k, v in change.items() if k in settings}
    decision = decide(records)
    assert decision.failing == [gate] and said in decision.reasons[gate]


@pytest.mark.parametrize(
    ("kind", "change", "gate"),
    [
        ("ood", {"per_dataset": ["a"]}, "ood"),
        ("ood", {"per_dataset": {"a": 1}}, "ood"),
        ("ood", {"per_dataset": [{"dataset": "a", "family": "f"}]}, "ood"),
        ("ood", {"per_dataset": [{"dataset": {}, "family": "f", "dense_val_lcb": 1}]}, "ood"),
        ("ood", {"per_dataset": [{"dataset": "a", "family": "f", "dense_val_lcb": "1"}]}, "ood"),
        ("saebench", {"probing": [1]}, "saebench"),
        ("saebench", {"probing": "mean"}, "saebench"),
        ("saebench", {"probing": 5}, "saebench"),
        ("faithfulness", {"texts": [1]}, "is_sae"),
        ("faithfulness", {"texts": {"ablated": 3}}, "is_sae"),
        ("cebench", {"n_pairs": "104"}, "cebench"),
        ("cebench", {"n_pairs": None}, "cebench"),
        ("cebench", {"n_pairs": [104]}, "cebench"),
    ],
)
def test_settings_of_another_shape_fail_their_gate(kind, change, gate):
    records = passing()
    next(r for r in records if r["kind"] == kind).update(change)
    decision = decide(records)
    assert decision.failing == [gate] and f"{kind} settings fails: " in decision.reasons[gate]


def test_a_check_that_meets_what_it_cannot_read_fails(monkeypatch):
    def broken(items, unreadable, attempts):
        raise TypeError("'int' object is not iterable")

    monkeypatch.setitem(CHECKS, "one_attempt", broken)
    decision = decide(passing())
    assert (
        decision.failing == ["integrity"]
        and "one_attempt looks at: malformed (TypeError: " in (decision.reasons["integrity"])
    )


OPTIONAL = """policy: lenient
schema: husai.policy/1
gates:
  measured: {why: w, required: false, conditions: [%s]}
  reported: {why: w, counts: false, conditions: [%s]}
"""
ONE = "{evidence: %s, metric: %s, basis: point, op: '>=', threshold: 0, required: false}"


def test_a_decision_that_rests_on_no_evidence_never_passes():
    text = OPTIONAL % (ONE % ("cebench", "delta_vs_frozen"), ONE % ("stability", "S"))
    policy, records = parse_policy(text), passing()
    none = [r for r in records if r["kind"] != "cebench"]
    for missing in (none, [], [*none, record("cebench", {"delta_vs_frozen": 1}, "another")]):
        decision = evaluate(policy, missing, HASH)
        assert (decision.pass_all, decision.failing) == (False, ["measured"])
        assert "nothing is measured for any gate that counts" in decision.reasons["measured"]
        assert "FAIL" in decision.to_markdown()
    assert evaluate(policy, records, HASH).pass_all


ABOUT = {
    "recipe_hash": HASH,
    "condition": RECIPE.id,
    "condition_id": f"{RECIPE.id}_seed3",
    "architecture": "topk",
    "hook_name": RECIPE.hook_name,
    "recipe": RECIPE.to_dict(),
}


def with_recipe():
    described = {"results/candidate/recipe.json": {"hash": HASH, "recipe": RECIPE.to_dict()}}
    foreign = {"results/x/recipe.json": {"hash": HASH, "recipe": {"architecture": [1]}}}
    odd = {"results/weights": {"W_dec": [1, 2]}, "results/y/recipe.json": {"recipe": 5}}
    return [replace(Evidence.read(r), beside={**odd, **foreign, **described}) for r in passing()]


def test_a_candidate_is_the_sae_that_its_evidence_is_about():
    for about in (ABOUT, HASH, None, ABOUT | {"recipe": RECIPE.id}):
        assert evaluate(STRICT, with_recipe(), about).pass_all
    assert not evaluate(STRICT, with_recipe(), ABOUT | {"recipe_hash": "another"}).pass_all


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hook_name", "blocks.99"),
        ("architecture", "jumprelu"),
        ("architecture", ["topk"]),
        ("condition", "RELEASED-sae"),
        ("condition_id", "RELEASED-sae_seed3"),
        ("recipe", "another-sae"),
        ("recipe", {"architecture": "topk", "d_sae": 2048}),
        ("recipe", {"unknown": 1}),
    ],
)
def test_a_candidate_that_is_said_to_be_another_is_refused(key, value):
    with pytest.raises(HusaiError, match=f"the candidate's {key} is .*recipe.json, which") as told:
        evaluate(STRICT, with_recipe(), ABOUT | {key: value})
    assert "\n" not in str(told.value)
