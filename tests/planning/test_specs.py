"""The specs of jobs: what planning builds is what jobs accept, with the configuration's defaults,
and a mistake is one line.
"""

import json
from pathlib import Path

import pytest

from husai.config import external, load, stages
from husai.config.draws import drawn_from
from husai.errors import HusaiError
from husai.gate.checks.derived import KINDS
from husai.gate.verdict import drawn_by_rule
from husai.planning import specs
from husai.planning.plan import Plan
from husai.planning.spec_builder import SpecBuilder
from husai.recipe import Recipe

ROOT = Path(__file__).parents[2]
TOPK = {"subject": "s", "hook_name": "h", "architecture": "topk", "d_sae": 64, "k": 4}


@pytest.fixture(scope="module", params=[[], ["smoke.yaml"], ["b200.yaml"]])
def built(request):
    """Every spec of a shipped configuration: ``[(model, text)]``."""
    plan = Plan(load([ROOT / "config" / n for n in ["config.yaml", *request.param]]))
    b = SpecBuilder(plan)
    subject, recipe = next(iter(plan.trained))
    return [
        *((specs.SubjectSpec, b.subject(s)) for s in ("modular", "language", "language-random")),
        *((specs.ActivationsSpec, b.activations(s)) for s in ("modular", "language")),
        (specs.TrainSpec, b.train(subject, recipe)),
        (specs.PlantedSpec, b.planted()),
        (specs.ProbesSpec, b.probes("language")),
        (specs.PairsSpec, b.pairs()),
        *((specs.ProbingSpec, b.probing(split)) for split in ("selection", "confirmation")),
        *((specs.CEBenchSpec, b.cebench(split)) for split in ("selection", "confirmation")),
        (specs.BaselineSpec, b.baseline()),
        (specs.AblationsSpec, b.ablations()),
        (specs.CalibrationSpec, b.calibration()),
        (specs.ConsistencySpec, b.consistency()),
        (specs.FrontierSpec, b.frontier()),
        (specs.ScalingSpec, b.scaling()),
        (specs.ConfirmationSpec, b.confirmation()),
        (specs.OODSpec, b.ood()),
        (specs.SelectionSpec, b.selection()),
        (specs.SelfTestSpec, b.gate_selftest()),
        (specs.AssertSpec, b.gate_assert()),
    ]


def test_a_job_reads_back_exactly_what_planning_wrote(built):
    for model, text in built:
        assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
        assert specs.read_spec(model, json.loads(text)).text() == text


def test_an_attempt_names_the_settings_of_everything_that_is_measured(built):
    (text,) = [text for model, text in built if model is specs.ConfirmationSpec]
    measured = json.loads(text)["measured"]
    assert set(measured) == {*KINDS} - {"integrity"} and all(measured.values())


def test_a_setting_has_the_default_of_the_configuration():
    probing = specs.ProbingSpec()
    assert (probing.ks, probing.gate_k) == (external.Probing().ks, external.Probing().gate_k)
    assert specs.SelectionSpec().min_seeds == stages.SelectionSection().min_seeds
    assert specs.SelfTestSpec().null_campaigns == stages.GateSection().null_campaigns


def test_a_recipe_travels_whole():
    recipe = Recipe(**TOPK, steps=7)
    text = specs.TrainSpec(recipe=recipe, seeds=[1]).text()
    assert specs.read_spec(specs.TrainSpec, json.loads(text)).recipe == recipe
    assert json.loads(text)["recipe"] == recipe.to_dict()


@pytest.mark.parametrize(
    ("model", "values", "line"),
    [
        (specs.ProbingSpec, {"gate_k": 0}, "--spec: gate_k: got 0, "),
        (specs.ProbingSpec, {"kss": [1]}, "kss: unknown key, set to [1]; did you mean 'ks'?"),
        (specs.TrainSpec, {"recipe": TOPK}, "--spec: seeds: missing; this key is required"),
        (specs.TrainSpec, {"recipe": {**TOPK, "k": 65}, "seeds": [1]}, "k = 65 is larger than"),
        (specs.TrainSpec, {"recipe": {"subject": "s"}, "seeds": [1]}, "recipe: missing 3 required"),
        (
            specs.SubjectSpec,
            {"kind": "modular", "name": "m", "p": 10**400},
            "--spec: p: got 1000",
        ),
        (specs.OODSpec, {"penalty": "l0"}, "penalty: got \"l0\", it should be 'l1' or 'l2'"),
    ],
)
def test_a_mistake_in_a_spec_is_one_line(model, values, line):
    with pytest.raises(HusaiError) as caught:
        specs.read_spec(model, values)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_the_engine_of_the_confirmation_is_no_setting_of_the_selection():
    config = [ROOT / "config/config.yaml"]
    one, other = (
        SpecBuilder(Plan(load(config, override={"external": {"probing": probing}})))
        for probing in ({"confirmation_engine": "official"}, {"confirmation_engine": "fast"})
    )
    assert one.probing("selection") == other.probing("selection")
    assert one.probing("confirmation") != other.probing("confirmation")


@pytest.mark.parametrize(
    ("more", "drawn"),
    [
        ("", True),
        ("confirmation: {seeds: [1, 2, 3]}", False),
        ("stress: {seeds: [1, 2, 3]}", False),
        ("external: {datasets: {confirmation: [21_headline_istrump]}}", False),
    ],
)
def test_an_attempt_is_drawn_where_nothing_of_it_is_named(tmp_path, more, drawn):
    (tmp_path / "named.yaml").write_text(more)
    config = load([ROOT / "config/config.yaml", tmp_path / "named.yaml"])
    assert (drawn_from(config) is not None) is drawn
    spec = specs.read_spec(
        specs.ConfirmationSpec, json.loads(SpecBuilder(Plan(config)).confirmation())
    )
    entry = {"drawn": spec.drawn and spec.drawn.model_dump(), "data": spec.datasets}
    entry |= {"seeds": sorted(spec.seeds), "stress_seeds": spec.stress.seeds}
    assert drawn_by_rule(entry) is drawn
