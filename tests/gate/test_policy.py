"""Policies: the shipped ones say what method.md section 4 says, and every mistake in a file is
reported at once.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from gate_records import HASH, passing

from husai.cli import main
from husai.errors import HusaiError
from husai.gate import evaluate, load_policy
from husai.gate.policy import PINNED
from husai.gate.policy_files import policy_name
from husai.gate.policy_reader import parse_policy

GOOD = """
policy: mine
schema: husai.policy/1
gates:
  stable:
    why: Seeds agree.
    min_n: 5
    conditions:
      - {evidence: stability, metric: S, basis: lcb, op: ">=", threshold: 0.3}
"""


def conditions(name):
    return {
        (g.name, c.metric, c.basis, c.op, c.threshold)
        for g in load_policy(name).gates
        for c in g.conditions()
    }


def test_strict_is_section_4_of_the_method():
    assert [g.name for g in load_policy("strict").gates] == [
        "integrity",
        "is_sae",
        "reproducibility",
        "functional",
        "random_model",
        "transcoder",
        "ood",
        "saebench",
        "cebench",
    ]
    asked = conditions("strict")
    for row in (
        ("integrity", "plateau_gain", "point", "<", 0.005),
        ("integrity", "cos_to_init", "point", "<", 0.8),
        ("integrity", "dead_fraction", "point", "<=", 0.10),
        ("integrity", "text_overlap_rows", "point", "<=", 0.0),
        ("integrity", "shared_init_pairs", "point", "<=", 0.0),
        ("reproducibility", "S", "lcb", ">=", 0.30),
        ("reproducibility", "shared_fraction", "lcb", ">=", 0.30),
        ("reproducibility", "null_worst", "point", "<=", 0.9),
        ("is_sae", "explained_variance", "lcb", ">=", 0.5),
        ("is_sae", "explained_variance_vs_frozen", "lcb", ">", 0.0),
        ("is_sae", "l0_per_d_in", "point", "<=", 0.25),
        ("is_sae", "dense_fraction", "point", "<=", 0.1),
        ("is_sae", "redundancy", "point", "<=", 0.1),
        ("reproducibility", "S_worst_seed", "point", ">=", 0.3),
        ("reproducibility", "shared_fraction_weighted", "lcb", ">=", 0.3),
        ("reproducibility", "null_crowding", "point", "<=", 0.9),
        ("functional", "activation_agreement", "lcb", ">=", 0.3),
        ("saebench", "delta_vs_neurons", "lcb", ">", 0.0),
        ("saebench", "delta_vs_pca", "lcb", ">=", -0.02),
        ("random_model", "delta_S", "lcb", ">", 0.0),
        ("transcoder", "delta_S", "lcb", ">=", -0.05),
        ("ood", "excess_drop", "ucb", "<=", 0.03),
        ("saebench", "delta_vs_frozen", "lcb", ">", 0.0),
        ("saebench", "delta_vs_frozen", "point", ">=", 0.01),
        ("saebench", "delta_vs_dense", "lcb", ">=", -0.05),
        ("is_sae", "recovered", "lcb", ">=", 0.70),
        ("is_sae", "recovered_vs_frozen", "lcb", ">", 0.0),
        ("random_model", "delta_probing", "lcb", ">", 0.0),
        ("cebench", "delta_vs_frozen", "lcb", ">", 0.0),
    ):
        assert row in asked
    assert not load_policy("strict").original
    assert {"one_version", "one_config", "verified", "derived", "one_attempt"} == set(
        load_policy("strict").gates[0].checks
    )


@pytest.mark.parametrize("name", ["strict", "cycle3"])
def test_shipped_policies_are_pinned(name):
    assert load_policy(name).sha256 == PINNED[name]


def test_a_lenient_file_named_strict_is_a_changed_policy(tmp_path):
    text = load_policy("strict")
    shipped = Path(text.path).read_text()
    lenient = tmp_path / "strict.yaml"
    lenient.write_text(shipped.replace("threshold: 0.30", "threshold: -9"))
    changed = evaluate(load_policy(lenient), passing(), HASH)
    assert changed.pass_all and changed.to_dict()["policy_changed"] is True
    assert changed.to_markdown().startswith("# Policy `strict` (a CHANGED policy): PASS")
    assert evaluate(text, passing(), HASH).to_markdown().startswith("# Policy `strict`: PASS")


def test_a_policy_in_which_no_gate_counts_is_refused():
    with pytest.raises(HusaiError, match="gates: none of them counts"):
        parse_policy(GOOD.replace("min_n: 5", "min_n: 5\n    counts: false"))


def test_cycle3_has_the_old_names_and_thresholds():
    policy = load_policy("cycle3")
    assert [g.name for g in policy.gates if g.counts] == [
        "random_model",
        "transcoder",
        "ood",
        "external",
    ]
    assert ("ood", "ood_drop", "point", "<=", 0.1) in conditions("cycle3")
    assert set(policy.gates[3].modes) == {
        m + s for m in ("auto", "saebench", "cebench", "joint") for s in ("", "-lcb")
    }


def test_a_user_file_is_loaded_by_path(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD)
    policy = load_policy(file)
    assert policy.name == "mine" and policy.gates[0].min_n == 5 and len(policy.sha256) == 64


def test_an_unknown_policy_names_the_nearest():
    with pytest.raises(HusaiError, match=r"'strct' is unknown.*did you mean 'strict'"):
        load_policy("strct")
    with pytest.raises(HusaiError, match="no such policy file"):
        load_policy("folder/none.yaml")


def test_all_mistakes_are_listed_at_once_with_the_nearest_name():
    text = (
        GOOD.replace("metric: S", "metric: shared_fractoin")
        .replace("0.3}", "1e-3}")
        .replace("lcb", "lbc")
        .replace("why:", "wy:")
    )
    with pytest.raises(HusaiError) as error:
        parse_policy(text.replace('">="', '"=>"').replace("min_n: 5", "min_n: 0"), "mine.yaml")
    message = str(error.value)
    assert message.startswith("mine.yaml: 7 mistakes") and "\n" not in message
    for part in (
        "did you mean 'shared_fraction'",
        "'1e-3' is text in YAML; write 0.001",
        "'lbc' is not one of point, lcb, ucb; did you mean 'lcb'",
        "gates.stable.wy: unknown key; did you mean 'why'",
        "gates.stable.why: expected a sentence",
        "'=>' is not one of",
        "gates.stable.min_n",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ("schema: husai.policy/1", "schema: husai.policy/9", "schema: expected"),
        ("policy: mine", "policy: mine\npolicy: mine", "line 3: key 'policy' appears twice"),
        ("evidence: stability", "evidence: stabilty", "did you mean 'stability'"),
        ("threshold: 0.3", "threshold: .nan", "expected a finite number"),
        ("threshold: 0.3", "threshold: true", "expected a finite number"),
        (", threshold: 0.3", "", "needs threshold"),
        ("threshold: 0.3", "threshold: 0.3, range: [1, 0]", "lowest 1.0 is above highest 0.0"),
        ("threshold: 0.3", "threshold: 0.3, required: 1", "expected true or false"),
        ("stable:", "pass_all:", "reserved"),
        ("min_n: 5", "checks: [verifed]", "did you mean 'verified'"),
        ("gates:", "evidence: {one_candidat: true}\ngates:", "did you mean 'one_candidate'"),
        ("gates:", "evidence: {checked: false}\ngates:", "evidence.checked: False is not true"),
        ("gates:", "evidence: orginal\ngates:", "evidence: expected 'original'"),
        ("policy: mine", "policy: [", "not valid YAML"),
        ("gates:", "fixed: {saebench: {penalt: l1}}\ngates:", "did you mean 'penalty'"),
        ("gates:", "fixed: {sebench: {}}\ngates:", "did you mean 'saebench'"),
        ("gates:", "fixed: {cebench: {min_pairs: few}}\ngates:", "expected a positive integer"),
        ("gates:", "fixed: [saebench]\ngates:", "fixed: expected evidence kinds"),
    ],
)
def test_single_mistakes(old, new, part):
    with pytest.raises(HusaiError) as error:
        parse_policy(GOOD.replace(old, new))
    assert part in str(error.value)


def test_conditions_and_modes_exclude_each_other():
    with pytest.raises(HusaiError, match="either conditions or modes"):
        parse_policy("policy: a\nschema: husai.policy/1\ngates: {x: {why: b}}")
    with pytest.raises(HusaiError, match="expected at least one gate"):
        parse_policy("policy: a\nschema: husai.policy/1\ngates: {}")
    with pytest.raises(HusaiError, match="expected a mapping"):
        parse_policy("- 1")


def test_own_evidence_kinds_are_declared():
    text = GOOD.replace("stability, metric: S", "mine, metric: x")
    with pytest.raises(HusaiError, match="own kinds go under declares"):
        parse_policy(text)
    assert parse_policy(text + "declares: {mine: [x]}\n").gates[0].conditions()[0].metric == "x"


def test_options_that_do_not_exist_are_refused():
    policy = load_policy("cycle3")
    with pytest.raises(HusaiError, match="no gate 'extern'; did you mean 'external'"):
        policy.with_options(required={"extern": True})
    with pytest.raises(HusaiError, match="no mode 'both'"):
        policy.with_options(modes={"external": "both"})
    with pytest.raises(HusaiError, match="did you mean 'max_ood_drop'"):
        policy.with_options(thresholds={"max_ood_drp": 0.2})


def test_the_gate_imports_no_torch():
    modules = (
        "husai.gate, husai.selection.strict, husai.gate.selftest.simulation, "
        "husai.gate.selftest.adversaries, husai.gate.selftest.ground_truth, husai.gate.ledger, husai.jobs.gate"
    )
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (GOOD.replace("threshold: 0.3", f"threshold: {'9' * 400}").encode(), "a finite number"),
        (GOOD.replace("threshold: 0.3", f"threshold: {'9' * 5000}").encode(), "not valid YAML"),
        (GOOD.replace("threshold: 0.3", f"threshold: 0x{'9' * 5000}").encode(), "not valid YAML"),
        (GOOD.replace("threshold: 0.3", "threshold: '1.2.3'").encode(), "a finite number"),
        (GOOD.replace("threshold: 0.3", "threshold: .nan").encode(), "a finite number"),
        (b"policy: \xff\xfe", "not readable as text"),
        (b"policy: 2024-13-45", "not valid YAML"),
        (b"? [a]\n: 1", "not valid YAML"),
        (BOMB.encode(), "its aliases stand for over 100000 values"),
        (b"a: &a [*a]", "its aliases stand for over 100000 values"),
        (b"a: " + b"[" * 50_000 + b"]" * 50_000, "nested too deeply"),
        (GOOD.replace("min_n: 5", "mode: [a]").encode(), "mode: '['a']' is not one of"),
        (GOOD.replace("gates:", "declares: {own: ['(']}\ngates:").encode(), "no pattern"),
    ],
)
def test_a_hostile_policy_file_is_one_line_that_names_it(tmp_path, capsys, text, part):
    (tmp_path / "mine.yaml").write_bytes(text)
    argv = ["gate", "--policy", str(tmp_path / "mine.yaml"), "--evidence", str(tmp_path)]
    assert main([*argv, "--output-dir", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and f"{tmp_path}/mine.yaml: " in printed and part in printed


VALUES = (None, [], {}, "x", "", [["a"]], {"a": 1}, {"a": [[]]}, 10**400, -1, float("nan"), True)


def places(value, prefix=()):
    """The way to every value in parsed YAML."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*prefix, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*prefix, key))


@pytest.mark.parametrize("place", list(places(yaml.safe_load(GOOD))), ids=str)
def test_any_value_of_another_type_is_named_or_read(place):
    for value in VALUES:
        data = yaml.safe_load(GOOD)
        parent = data
        for key in place[:-1]:
            parent = parent[key]
        parent[place[-1]] = value
        try:
            parse_policy(yaml.safe_dump(data), "mine.yaml")
        except HusaiError as error:
            assert str(error).startswith("mine.yaml: ")


@pytest.mark.parametrize("modes", ["{a: [[]]}", "{a: [[], []]}", "{a: []}", "{}", "{a: [[], [1]]}"])
def test_a_mode_that_asks_nothing_is_refused(modes):
    text = f"policy: a\nschema: husai.policy/1\ngates: {{g: {{why: x, modes: {modes}}}}}"
    with pytest.raises(HusaiError, match=r"gates\.g\.modes"):
        parse_policy(text)


def test_a_policys_folder_has_its_whole_name():
    names = ("strict", "strict.v2", "a/strict.v2.yaml", "b/mine.yml")
    assert [policy_name(n) for n in names] == ["strict", "strict.v2", "strict.v2", "mine"]
