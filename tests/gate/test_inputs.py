"""What evidence rests on: named, unchanged all the way down, about the same SAEs and made under
settings that agree.
"""

import copy
from dataclasses import replace

import pytest
from gate_records import HASH, passing, write

from husai.errors import HusaiError
from husai.gate import evaluate, load_evidence, load_policy
from husai.provenance import file_records, hash_json, is_special, sha256_file

WHOLE = load_policy("strict")
STRICT = replace(
    WHOLE,
    gates=tuple(
        replace(g, checks=tuple(c for c in g.checks if c not in ("derived", "one_attempt")))
        for g in WHOLE.gates
    ),
)
"""Without the checks of tests/gate/test_derived.py and test_ledger.py: these records hold no raw
values, and there is no ledger."""
BAD = {"delta_vs_frozen": {"value": -1.0, "lcb": -1.0, "ucb": -1.0, "n": 1}}
WEIGHTS = "results/confirmation/candidate/seed1/sae_weights.safetensors"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Evidence of a candidate on disk: stability and ood read its weights, saebench reads one SAE's
    record, stress reads stability.
    """
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    records = {r["kind"]: r for r in passing()}
    one = copy.deepcopy(records["saebench"]) | {"inputs": file_records([WEIGHTS]), "seeds": [1]}
    write(
        tmp_path / "results/external/seed1/saebench.json",
        configured(one, gate_k=16, penalty="l1", max_rows=2000, datasets=["a", "b"]),
    )
    rest = {"saebench": ["results/external/seed1/saebench.json"]}
    rest |= {
        kind: ["results/confirmation/stability.json"]
        for kind in ("random_model", "transcoder", "integrity")
    }
    for kind in ("stability", *(k for k in records if k != "stability")):
        record = records[kind] | {"inputs": file_records(rest.get(kind, [WEIGHTS]))}
        settings = {
            "saebench": {"gate_k": 16, "datasets": ["a", "b"]},
            "ood": {"gate_k": 16, "penalty": "l1", "confirmation": ["a", "b"]},
        }
        write(
            tmp_path / f"results/confirmation/{kind}.json",
            configured(record, **settings.get(kind, {"kind": kind})),
        )
    return tmp_path


def configured(record, **config):
    """The record as made under a configuration slice."""
    return record | {
        "provenance": record["provenance"] | {"config": config, "config_hash": hash_json(config)}
    }


def edit(run, name, change):
    import json

    path = run / name
    record = json.loads(path.read_text())
    change(record)
    write(path, record)


def decide(*names):
    return evaluate(STRICT, load_evidence(names or ["results/confirmation"]), HASH)


def test_evidence_that_hangs_together_passes(run):
    decision = decide()
    assert decision.pass_all, decision.reasons
    behind = {e.kind: [r.kind for r in e.behind] for e in load_evidence(["results/confirmation"])}
    assert (
        behind["saebench"] == ["saebench"]
        and behind["random_model"] == ["stability"]
        and behind["stability"] == []
    )


@pytest.mark.parametrize("inputs", [[], None], ids=["empty", "missing"])
@pytest.mark.parametrize(
    "kind", ["integrity", "stability", "random_model", "transcoder", "ood", "saebench", "cebench"]
)
def test_evidence_that_names_no_inputs_fails_integrity_and_its_own_gate(run, kind, inputs):
    edit(
        run,
        f"results/confirmation/{kind}.json",
        lambda r: r.pop("inputs") if inputs is None else r.update(inputs=[]),
    )
    decision = decide()
    own = {"stability": "reproducibility"}.get(kind, kind)
    assert {"integrity", own} <= set(decision.failing) and "names no inputs" in decision.reasons[
        "integrity"
    ]


def test_the_original_artifacts_and_the_cycle3_policy_are_as_they_were(run):
    """cycle3 takes evidence as it is: what it passes does not hang on inputs."""
    edit(
        run,
        "results/confirmation/ood.json",
        lambda r: r.update(inputs=[], metrics={"ood_drop": {"value": 0.05, "n": 1}}),
    )
    decision = evaluate(load_policy("cycle3"), load_evidence(["results/confirmation/ood.json"]))
    assert decision.gates["ood"]


def test_a_change_behind_the_evidence_that_the_evidence_rests_on_is_seen(run):
    """The per-seed record is untouched, so the record over seeds agrees with it; the weights under
    it were trained again.
    """
    other = run / "results/confirmation/candidate/again/sae_weights.safetensors"
    other.parent.mkdir()
    other.write_bytes(b"weights")
    seed = "results/external/seed1/saebench.json"
    edit(run, seed, lambda r: r.update(inputs=file_records([other.relative_to(run)])))
    edit(run, "results/confirmation/saebench.json", lambda r: r.update(inputs=file_records([seed])))
    assert decide().pass_all
    other.write_bytes(b"trained again")
    decision = decide()
    assert set(decision.failing) == {"integrity", "saebench"}
    assert (
        f"rests on {seed}, which rests on {other.relative_to(run)}, whose sha256 has changed since"
        in decision.reasons["saebench"]
    )


def test_kinds_about_different_saes_cannot_be_combined(run):
    """One recipe hash, two trainings (say on other activations), every hash in order: the parts do
    not belong together.
    """
    other = run / "elsewhere/candidate/seed1/sae_weights.safetensors"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"trained on something else")
    edit(
        run,
        "results/confirmation/ood.json",
        lambda r: r.update(inputs=file_records([other.relative_to(run)])),
    )
    decision = decide()
    assert decision.failing == ["integrity"]
    assert (
        "the evidence is about different SAEs, ood share none with cebench"
        in decision.reasons["integrity"]
    )


@pytest.mark.parametrize(
    ("name", "key", "value", "part"),
    [
        (
            "ood",
            "gate_k",
            8,
            "2 values of latents of a probe: 16 behind results/confirmation/saebench.json; 8 "
            "behind results/confirmation/ood.json",
        ),
        ("ood", "confirmation", ["a", "c"], "2 values of confirmation data sets"),
        ("ood", "penalty", "l2", "2 values of penalty of a probe"),
        ("ood", "max_rows", 500, "2 values of rows of a data set"),
    ],
)
def test_kinds_made_under_other_settings_cannot_be_combined(run, name, key, value, part):
    def change(record):
        config = record["provenance"]["config"] | {key: value}
        record["provenance"] |= {"config": config, "config_hash": hash_json(config)}

    edit(run, f"results/confirmation/{name}.json", change)
    decision = decide()
    assert decision.failing == ["integrity"] and part in decision.reasons["integrity"]


def test_the_slices_of_one_configuration_agree():
    """What a run writes into its records cannot raise a false alarm: the slices of every shipped
    configuration state the same.
    """
    import json
    from dataclasses import replace
    from pathlib import Path

    from husai.config import load
    from husai.evidence import Evidence
    from husai.gate.checks import one_config
    from husai.planning.plan import Plan
    from husai.planning.spec_builder import SpecBuilder

    for names in (["config.yaml"], ["config.yaml", "smoke.yaml"], ["config.yaml", "b200.yaml"]):
        slices = SpecBuilder(Plan(load([Path("config") / n for n in names])))
        made = {
            "integrity": [slices.confirmation()],
            "saebench": [slices.confirmation(), slices.probing("confirmation")],
            "cebench": [slices.confirmation(), slices.cebench()],
            "ood": [slices.ood()],
        }
        stated = {
            kind: [Evidence(kind, "", provenance={"config": json.loads(text)}) for text in texts]
            for kind, texts in made.items()
        }
        items = [replace(one, behind=tuple(others)) for one, *others in stated.values()]
        assert one_config(items, []) == "", names
        keys = {key for records in stated.values() for r in records for key in r.config()}
        assert {"gate_k", "penalty", "max_rows", "datasets", "confirmation"} <= keys


def test_a_record_that_leads_back_to_itself_ends(run):
    path = "results/confirmation/cebench.json"
    edit(run, path, lambda r: r.update(inputs=[{"path": path, "sha256": "0" * 64}]))
    assert "whose sha256 has changed since" in decide().reasons["cebench"]
    assert sha256_file(path)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/proc/kmsg", "'/proc/kmsg', which is special"),
        ("/proc/self/mem", "'/proc/self/mem', which is special"),
        ("results/link.bin", "'results/link.bin', which is special"),
        ("/dev/zero", "'/dev/zero', which is special"),
        ("x" * 5000, "... (5000 characters), which cannot be read (File name too long)"),
        ("a\0b", r"'a\x00b', which cannot be read"),
        ("x\n\x1b[2Jpass", r"'x\n\x1b[2Jpass', which is not there"),
    ],
    ids=["waits", "memory", "link", "device", "long", "nul", "escape"],
)
def test_an_input_that_cannot_be_opened_is_named_and_fails_its_record(run, path, said):
    (run / "results/link.bin").symlink_to("/proc/kmsg")
    entry = {"path": path, "sha256": "0" * 64}
    edit(run, "results/confirmation/ood.json", lambda r: r["inputs"].append(entry))
    decision = decide()
    assert {"ood", "integrity"} == set(decision.failing) and said in decision.reasons["ood"]
    assert len(decision.reasons["ood"]) < 600


def test_evidence_below_the_folders_of_the_system_is_refused(run):
    for path in ("/proc/kmsg", "/dev/null"):
        with pytest.raises(HusaiError, match="no file at all; it was neither followed nor opened"):
            load_evidence([path])


def test_a_run_in_shared_memory_holds_ordinary_files():
    assert not is_special("/dev/shm/run/results/x.json") and is_special("/dev/shm/../zero")


@pytest.mark.parametrize(
    "outputs", [5, [1], [{"path": 3}], [{}], [{"path": "a\0b", "sha256": 1}]], ids=str
)
def test_a_malformed_manifest_beside_the_evidence_is_no_traceback(run, outputs):
    write(run / "results/confirmation/x_manifest.json", {"outputs": outputs})
    assert decide().pass_all


def test_the_way_to_a_file_changes_nothing(run, monkeypatch):
    """The record of one SAE fails by itself, and is part of the record over seeds, by any path."""
    edit(run, "results/external/seed1/saebench.json", lambda r: r.update(seeds=[1], metrics=BAD))
    again = file_records(["results/external/seed1/saebench.json"])
    edit(run, "results/confirmation/saebench.json", lambda r: r.update(inputs=again))
    (run / "again").symlink_to(run / "results")
    ways = [
        ["results/confirmation", "results/external"],
        [run / "results/confirmation", run / "results/external"],
        ["results/../results/confirmation", "results/../results/external"],
        ["results/confirmation", "results/external", run / "results"],
        ["again/confirmation", "again/external"],
    ]
    for way in ways:
        decision = decide(*way)
        assert decision.pass_all, (way, decision.reasons)
        assert len(decision.sources) == 8 and not any("seed1" in s for s in decision.sources)
    assert decide("results/external").failing
