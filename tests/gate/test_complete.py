"""A record holds every data set at every k, for every seed, once: what is left out was chosen."""

import json
from pathlib import Path

import pytest
from derivable import PROBED, SETS, attempt, write_confirmation
from gate_records import HASH, write

from husai.gate import load_evidence
from husai.gate.checks.complete import incomplete
from husai.gate.checks.derived import unfounded
from husai.gate.checks.one_attempt import one_attempt
from husai.gate.ledger import CONFIRMATION_LEDGER, read_ledger
from husai.provenance import file_records

SETTINGS = {
    "saebench": {"datasets": [*PROBED], "ks": [16, 128], "penalty": "l1"},
    "ood": {"ood": SETS},
    "cebench": {"n_pairs": 104},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A confirmation whose records say what they were measured with."""
    monkeypatch.chdir(tmp_path)
    write_confirmation(tmp_path)
    for path in tmp_path.glob("results/confirmation/**/*.json"):
        record = json.loads(path.read_text())
        config = dict(SETTINGS.get(record.get("kind"), {}))
        if "datasets" in config and "candidate" not in path.parts:
            config["ks"] = [16]
        if "provenance" in record:
            record["provenance"].setdefault("config", {}).update(config)
            write(path, record)
    return Path("results/confirmation")


def evidence(run):
    """The records as read, with the hashes of what they rest on made again."""
    paths = sorted(run.glob("**/*.json"), key=lambda path: -len(path.parts))
    for _ in range(3):  # records rest on records that rest on records
        for path in paths:
            record = json.loads(path.read_text())
            if "inputs" in record:
                record["inputs"] = file_records([entry["path"] for entry in record["inputs"]])
                write(path, record)
    return load_evidence([run], recipe_hash=HASH)


def over_seeds(run, kind):
    return next(e for e in evidence(run) if e.kind == kind and "seed" not in e.record)


def said(run, kind):
    return incomplete(over_seeds(run, kind))


def edit(path, change):
    record = json.loads(path.read_text())
    change(record)
    write(path, record)


def rows(keep):
    return lambda record: record.update(per_dataset=[r for r in record["per_dataset"] if keep(r)])


def test_a_whole_record_lacks_nothing(run):
    assert not said(run, "saebench") + said(run, "ood") + said(run, "cebench")


PROBES = "external/candidate/seed3/saebench.json"
CONTROL = "external/frozen/seed3/saebench.json"
PAIRS = "external/candidate/seed3/cebench.json"


@pytest.mark.parametrize(
    ("kind", "name", "change", "problem"),
    [
        ("ood", "ood.json", rows(lambda r: r["dataset"] != "set5"), "no row of set5 at seed 0"),
        ("ood", "ood.json", rows(lambda r: r["seed"] != 2), "no row of set0 at seed 2"),
        (
            "ood",
            "ood.json",
            lambda r: [row.update(seed=0) for row in r["per_dataset"]],
            "two rows of set0 at seed 0",
        ),
        (
            "ood",
            "ood.json",
            lambda r: r["per_dataset"][0].update(llm_ood=0.6),
            "rests on several baselines of set0",
        ),
        ("saebench", PROBES, rows(lambda r: r["dataset"] != "set7"), "no row of set7 at k 128"),
        (
            "saebench",
            PROBES,
            rows(lambda r: r["k"] == 16 or r["dataset"] == "set1"),
            "no row of set0 at k 128",
        ),
        (
            "saebench",
            CONTROL,
            lambda r: r["per_dataset"].append(r["per_dataset"][0] | {"auc": 0.5}),
            "two rows of set0 at k 16",
        ),
        (
            "saebench",
            PROBES,
            lambda r: r["per_dataset"].append(r["per_dataset"][0] | {"dataset": "more"}),
            "has a row of more at k 16",
        ),
        (
            "saebench",
            PROBES,
            lambda r: r["per_dataset"][0].update(neurons_auc=0.5),
            "rests on several baselines of set0",
        ),
        (
            "saebench",
            PROBES,
            lambda r: r["probing"].update(penalty="l2"),
            "states another penalty than it was measured with",
        ),
        (
            "cebench",
            PAIRS,
            lambda r: r.update(n_pairs=200),
            "holds [104] pairs and names [104, 200]",
        ),
        ("cebench", PAIRS, lambda r: r.update(d_sae=200), "names 200 latents of weights that hold"),
    ],
)
def test_what_is_left_out_or_said_twice_is_named(run, kind, name, change, problem):
    edit(run / name, change)
    (line,) = said(run, kind)
    assert problem in line


def test_a_grid_with_holes_needs_no_settings_to_be_seen(run):
    path = run / PROBES
    edit(path, rows(lambda r: r["k"] == 16 or r["dataset"] == "set1"))
    edit(path, lambda r: r["provenance"]["config"].clear())
    assert "no row of set0 at k 128" in said(run, "saebench")[0]


@pytest.mark.parametrize("held", ["text", {"a": 1}, [["list"]], [{"k": 1}], None])
def test_rows_of_any_shape_are_no_traceback(run, held):
    edit(run / "ood.json", lambda r: r.update(per_dataset=held))
    assert unfounded(over_seeds(run, "ood"))


def test_a_control_measured_on_other_texts_is_refused(run):
    for path in run.glob("external/frozen/seed*/faithfulness.json"):
        edit(path, lambda r: r["texts"].update(ablated=[0.5] * 100))
    found = unfounded(over_seeds(run, "faithfulness"))
    assert any("measured on different texts" in line for line in found)


@pytest.mark.parametrize("change", [{"final": [{}]}, {"seeds": [0]}])
def test_the_end_of_every_training_is_noted(run, change):
    edit(run / "candidate/recipe.json", lambda r: r.update(change))
    found = unfounded(over_seeds(run, "integrity"))
    assert any("seeds ended with" in line for line in found)


def test_what_no_seed_may_hide_is_nan(run):
    def broken(record):
        record["final"][3]["plateau_gain"] = float("nan")

    edit(run / "candidate/recipe.json", broken)
    found = unfounded(over_seeds(run, "integrity"))
    assert any("plateau_gain" in line for line in found)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"roles": []}, "does not say which recipe each role"),
        ({"measured": {"saebench": {"datasets": ["z"]}}}, "names other data sets than"),
    ],
)
def test_an_entry_must_say_what_is_compared_and_measured(tmp_path, monkeypatch, changes, problem):
    monkeypatch.chdir(tmp_path)
    write_confirmation(tmp_path)
    attempt(**changes)
    items = load_evidence(["results/confirmation"], recipe_hash=HASH)
    assert problem in one_attempt(items, (), read_ledger(CONFIRMATION_LEDGER))


def test_no_entry_may_be_forced(run):
    attempt()
    items, entries = load_evidence([run], recipe_hash=HASH), read_ledger(CONFIRMATION_LEDGER)
    again = entries[0] | {"resumed": True, "forced": True, "attempt": 2}
    assert "was forced" in one_attempt(items, (), [*entries, again])
