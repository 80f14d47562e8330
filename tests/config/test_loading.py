"""The configuration reports every mistake at once, with file, key, value and what was expected."""

from pathlib import Path

import pytest

from husai.config import load, merge, read_yaml
from husai.config.data_sets import confirmation_pool, resolved_data_sets
from husai.config.docs import key_table, schema_text
from husai.config.draws import resolved_seeds
from husai.errors import HusaiError
from husai.probing.datasets import family

ROOT = Path(__file__).parents[2]
BASE = ROOT / "config/config.yaml"


def problems(tmp_path, text):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(text)
    with pytest.raises(HusaiError) as caught:
        load([BASE, overlay])
    return str(caught.value).split("\n")


@pytest.mark.parametrize("overlay", [None, "smoke.yaml", "b200.yaml", "search.yaml"])
def test_shipped_configurations_are_valid(overlay):
    config = load([BASE, *([ROOT / "config" / overlay] if overlay else [])])
    assert set(config.subjects) == {"modular", "language"}


def test_all_mistakes_are_reported_at_once_each_with_file_key_and_expectation(tmp_path):
    lines = problems(
        tmp_path,
        "baseline: {k: -3, d_see: 4}\ntraining: {modular: {learning_rate: 1e-3}}\nablations: "
        "{seeds: [1, 1, 2]}\nfrontier: {k: 9999}\n",
    )
    text = "\n".join(lines)
    assert len(lines) == 5
    assert all(line.startswith(str(tmp_path / "overlay.yaml")) for line in lines)
    assert "baseline.k: got -3" in text
    assert "baseline.d_see: unknown key, set to 4; did you mean 'd_sae'?" in text
    assert (
        'learning_rate: got the text "1e-3", expected a number; YAML reads 1e-3 as text here, '
        "write it as 1.0e-3" in text
    )
    assert "frontier.k: k = 9999 is larger than d_sae = " in text
    assert "names a seed twice" in text


def test_a_device_and_a_block_that_cannot_be(tmp_path):
    lines = problems(tmp_path, "compute: {device: gpu}\nbaseline:\n")
    assert [line.split(": ", 1)[1] for line in lines] == [
        'compute.device: got "gpu", it should match ^(auto|cpu|cuda(:\\d+)?)$',
        "baseline: got null, expected a block of keys",
    ]


def test_unknown_data_set_names_the_nearest_known_one(tmp_path):
    (line,) = problems(tmp_path, "external: {datasets: {selection: [87_glue_colla]}}")
    assert "87_glue_colla" in line
    assert "did you mean '87_glue_cola'" in line


def test_a_family_may_not_stand_on_both_sides(tmp_path):
    (line,) = problems(
        tmp_path,
        "external: {datasets: {selection: [87_glue_cola], confirmation: [92_glue_sst2], ood: []}}",
    )
    assert "glue" in line
    assert "belongs to one side" in line


def test_confirmation_seeds_must_be_fresh(tmp_path):
    (line,) = problems(tmp_path, "confirmation: {seeds: [42, 9002, 9003]}")
    assert "[42] already chose the candidate" in line


def test_unknown_subject_is_named(tmp_path):
    assert any(
        "baseline.subject: 'modullar' is not a subject" in line
        for line in problems(tmp_path, "baseline: {subject: modullar}")
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "subjects: {third: {kind: modular, hooks: [blocks.0.hook_resid_post]}}\n"
            "baseline: {subject: [modular, third]}",
            "baseline.d_sae: no value for subject 'third'",
        ),
        (
            "baseline: {k: {modular: 4, langauge: 4}}",
            "baseline.k: 'langauge' is not a subject; did you mean 'language'?",
        ),
        (
            "ablations: {subject: [modular, modular]}",
            "ablations.subject: ['modular', 'modular'] names a subject twice",
        ),
        ("consistency: {k: {modular: 4, language: -4}}", "consistency.k.language: got -4"),
        (
            "consistency: {k: {modular: 999, language: 8}}",
            "consistency.k: k = 999 is larger than d_sae = 128",
        ),
        ("consistency: {interval: -1}", "consistency.interval: got -1"),
        ("ablations: {subject: []}", "ablations.subject: got []"),
    ],
)
def test_numbers_given_per_subject_are_checked(tmp_path, text, message):
    assert any(message in line for line in problems(tmp_path, text))


HOOK = "blocks.3.hook_resid_post"


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ("{path: nope, subject: language, hook: HOOK}", ["0.path: nope: no such file or folder"]),
        (
            "{path: one.pt, subject: languag, hook: HOOK}",
            ["0.subject: 'languag' is not a subject", "did you mean 'language'"],
        ),
        (
            "{path: one.pt, subject: modular, hook: HOOK}",
            ["0.subject: 'modular' is not external.subject ('language')"],
        ),
        (
            "{path: one.pt, subject: language, hook: HOOKS}",
            ["0.hook: 'HOOKS' is not stored for language", "did you mean 'HOOK'"],
        ),
        (
            "{path: one.pt, subject: language, hook: HOOK}, {path: a/one.pt, subject: language, "
            "hook: HOOK}",
            ["1.name: 'one' is also the name of external.candidates.0"],
        ),
        (
            "{path: [], name: x, subject: language, hook: HOOK}",
            ["0.path: empty; name at least one checkpoint"],
        ),
        (
            "{path: [one.pt, ./one.pt], subject: language, hook: HOOK}",
            ["one.pt is named twice; one SAE is one observation"],
        ),
        (
            "{path: one.pt, confirmation: [one.pt, two.pt], subject: language, hook: HOOK}",
            ["one.pt is named twice", "confirmation needs others"],
        ),
        (
            "{path: one.pt, confirmation: two.pt, subject: language, hook: HOOK}",
            ["0.confirmation: one member; agreement"],
        ),
        ("{path: one.pt, subject: language}", ["0.hook: missing; this key is required"]),
        (
            "{pathh: one.pt, subject: language, hook: HOOK, path: one.pt}",
            ["0.pathh: unknown key, set to \"one.pt\"; did you mean 'path'?"],
        ),
        ("{path: one.pt, name: a b, subject: language, hook: HOOK}", ['0.name: got "a b"']),
    ],
)
def test_mistakes_in_a_brought_sae_are_named_with_file_and_key(
    tmp_path, monkeypatch, entries, expected
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for name in ("one.pt", "two.pt", "a/one.pt"):
        (tmp_path / name).write_bytes(b"")
    (line,) = problems(tmp_path, f"external: {{candidates: [{entries.replace('HOOK', HOOK)}]}}")
    assert line.startswith(f"{tmp_path / 'overlay.yaml'}: external.candidates.")
    assert all(part.replace("HOOK", HOOK) in line for part in expected)


def test_a_key_whose_name_begins_like_a_type_is_named_in_full(tmp_path):
    (line,) = problems(tmp_path, "consistency: {interval: 0}")
    assert "consistency.interval: got 0" in line


def test_duplicate_keys_are_refused(tmp_path):
    lines = problems(
        tmp_path, "gate: {null_campaigns: 10, null_campaigns: 20}\nbaseline:\n  k: 4\n  k: -8\n"
    )
    assert [line.split(": ", 1)[1] for line in lines] == [
        "line 1: key 'null_campaigns' is given twice; keep one",
        "line 4: key 'k' is given twice; keep one",
        "baseline.k: got -8, it should be greater than or equal to 1",
    ]
    with pytest.raises(HusaiError, match="given twice"):
        read_yaml(tmp_path / "overlay.yaml")


def test_policies_are_read_before_anything_runs(tmp_path):
    broken = tmp_path / "mine.yaml"
    broken.write_text(
        "policy: mine\nschema: husai.policy/1\ngates: {g: {why: x, conditions: [{evidence: "
        "stability, metric: SS}]}}\n"
    )
    (tmp_path / "strict.yaml").write_text((ROOT / "husai/gate/policies/strict.yaml").read_text())
    lines = problems(
        tmp_path,
        f"gate: {{policies: [strict, strictt, {broken}, {tmp_path / 'absent.yaml'}, "
        f"{tmp_path / 'strict.yaml'}]}}",
    )
    text = "\n".join(lines)
    assert len(lines) == 4 and all("gate.policies: " in line for line in lines)
    assert (
        "policy 'strictt' is unknown; known: cycle3, strict, or give a YAML file; did you mean "
        "'strict'?" in text
    )
    assert "mine.yaml: 1 mistake: gates.g.conditions[0]: needs basis, op, threshold" in text
    assert "absent.yaml: no such policy file" in text
    assert "two policies are called 'strict'" in text
    assert "lacks strict" in problems(tmp_path, "gate: {policies: [cycle3]}")[0]


def test_a_policy_that_snakemake_or_the_gates_folder_cannot_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "husai/gate/policies/strict.yaml").read_text()
    for name in ("policies/strict.v2.yaml", "{a}/mine.yaml"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    (line,) = problems(tmp_path, "gate: {policies: [cycle3, strict.v2]}")
    assert "lacks strict" in line
    (line,) = problems(tmp_path, "gate: {policies: [cycle3, strict, '{a}/mine.yaml']}")
    assert "{a}/mine.yaml" in line and "its path holds no braces; rename the file" in line


def test_broken_yaml_and_missing_file_are_one_line(tmp_path):
    (line,) = problems(tmp_path, "gate: [")
    assert "not valid YAML" in line
    with pytest.raises(HusaiError, match="no such file"):
        load([tmp_path / "absent.yaml"])


def test_a_merged_block_is_laid_under_its_own_keys(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: {<<: [*a, {z: 4}]}\n")
    assert read_yaml(path) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": 4},
    }


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "its aliases stand for over 100000 values"),
        ("a: &a [*a]", "its aliases stand for over 100000 values"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "not valid YAML"),
        ("a: 2024-13-45", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
    ],
)
def test_hostile_yaml_is_one_line_at_once(tmp_path, text, message):
    path = tmp_path / "hostile.yaml"
    path.write_text(text)
    with pytest.raises(HusaiError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"baseline: {{k: {'9' * 400}}}", "baseline.k: got 9999"),
        ("training: {modular: {learning_rate: .inf}}", "training.modular.learning_rate: got Inf"),
        ("subjects: {language: {hooks: ['blocks.0.$(id)']}}", 'got "blocks.0.$(id)", it should'),
        ("subjects: {a/b: {kind: modular}}", "subjects.a/b"),
        ("subjects: {m-random: {kind: modular, hooks: [h]}}", "names that end in -random"),
        ("gate: {policies: [strict, 'my policy.yaml']}", "should match [A-Za-z0-9]"),
    ],
)
def test_names_and_numbers_that_cannot_be_are_refused(tmp_path, text, message):
    assert any(message in line for line in problems(tmp_path, text))


def test_a_name_may_hold_a_dot(tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(
        "subjects: {qwen2.5: {kind: modular, hooks: [blocks.0.hook_resid_post]}}\n"
        "training: {qwen2.5: {steps: 60, batch_size: 256}}\n"
    )
    assert "qwen2.5" in load([BASE, overlay]).subjects


def test_a_block_of_another_kind_replaces_the_whole_block():
    merged = merge(
        {"s": {"kind": "language", "d_model": 8}}, {"s": {"kind": "pretrained", "model": "x"}}
    )
    assert merged == {"s": {"kind": "pretrained", "model": "x"}}


@pytest.mark.parametrize("text", ["[]", "0", "false"])
def test_a_file_without_keys_is_no_configuration(tmp_path, text):
    (tmp_path / "overlay.yaml").write_text(text)
    with pytest.raises(HusaiError, match="expected a mapping of keys"):
        read_yaml(tmp_path / "overlay.yaml")


def test_generated_documents_are_current():
    assert (ROOT / "config/schema.json").read_text() == schema_text(), "run `make schema`"
    assert key_table() in (ROOT / "config/README.md").read_text(), "run `make schema`"


DRAW = "external: {datasets: {selection: [87_glue_cola], ood: [], confirmation: {draw: 20%s}}}"


def drawn(tmp_path, more=", among: all", rest=""):
    overlay = tmp_path / "draw.yaml"
    overlay.write_text(DRAW % more + rest)
    return resolved_data_sets(load([BASE, overlay]))[1]


def test_confirmation_sets_are_drawn_by_rule_from_the_configuration(tmp_path):
    first = drawn(tmp_path)
    assert len(set(first)) == 20 and drawn(tmp_path) == first
    families = [family(name) for name in first]
    assert "glue" not in families and len(set(families)) == 20, "as many families as there are"
    assert drawn(tmp_path, rest="\ncompute: {device: cpu, mem_mb: 9000}") == first
    assert drawn(tmp_path, rest="\ngate: {fail_on_gate_fail: true}") == first
    assert drawn(tmp_path, more=", among: all, salt: 1") != first
    assert drawn(tmp_path, rest="\ntraining: {language: {learning_rate: 1.0e-4}}") != first


def test_seeds_are_drawn_by_rule_from_the_configuration(tmp_path):
    def seeds(text=""):
        (tmp_path / "draw.yaml").write_text(text)
        return resolved_seeds(load([BASE, tmp_path / "draw.yaml"]))

    confirmation, stress = seeds()
    assert len({*confirmation, *stress}) == 13 and seeds() == (confirmation, stress)
    assert all(10_000 <= seed < 100_000 for seed in (*confirmation, *stress))
    assert seeds("compute: {mem_mb: 9000}") == (confirmation, stress)
    salted = seeds("external: {datasets: {confirmation: {salt: 1}}}")
    assert not {*salted[0]} & {*confirmation} and not {*salted[1]} & {*stress}
    (line,) = problems(tmp_path, "confirmation: {seeds: {draw: 2}}")
    assert "confirmation.seeds.draw: got 2" in line


def test_the_training_text_keeps_clear_of_whatever_may_be_drawn(tmp_path):
    more = ", among: [96_spam_is, 54_cs_tf, 92_glue_sst2, 105_click_bait]"
    overlay = tmp_path / "draw.yaml"
    overlay.write_text((DRAW % more).replace("20", "2"))
    config = load([BASE, overlay])
    assert confirmation_pool(config) == ["96_spam_is", "54_cs_tf", "105_click_bait"]
    names = resolved_data_sets(config)[1]
    assert len(names) == 2 and set(names) < set(confirmation_pool(config))


def test_a_draw_that_cannot_be_and_ood_sets_that_chose_the_candidate(tmp_path):
    (line,) = problems(tmp_path, (DRAW % ", among: [96_spam_is, 92_glue_sst2]"))
    assert "external.datasets.confirmation.draw: 20 data sets are asked for, but 1 are" in line
    (line,) = problems(tmp_path, (DRAW % ", among: [96_spam]"))
    assert "external.datasets.confirmation.among: '96_spam' is not one of" in line
    (line,) = problems(tmp_path, DRAW.replace("20%s", "many"))
    assert "external.datasets.confirmation.draw: " in line
    (line,) = problems(tmp_path, "external: {datasets: {selection: [66_living-room]}}")
    assert "external.datasets.ood: ['66_living-room'] are in the selection too" in line
