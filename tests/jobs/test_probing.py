"""Jobs of sparse probing: baselines once per hook, one record per SAE, resume, refusals, SAEBench's
schema, and the official engine.
"""

import json

import jsonschema
import numpy as np
import pytest
import torch

from husai import provenance
from husai.errors import HusaiError
from husai.jobs import probe_baselines
from husai.jobs.probe_baselines import baselines_job
from husai.jobs.saebench import saebench_job
from husai.official.engine import results_dir
from husai.official.results import to_saebench_schema
from husai.planning.specs import ProbingSpec, read_spec
from husai.probing import datasets
from husai.probing.files import load_probe_data, save_probe_data
from husai.probing.paired import cycle3_summary, validation_k
from husai.probing.protocol import probe_datasets
from husai.sae import SAE, save_sae

NAMES = ["96_spam_is", "87_glue_cola", "90_glue_qnli"]
HOOK = "blocks.1.hook_resid_post"
SPEC = {
    "datasets": NAMES,
    "ks": [1, 4],
    "gate_k": 4,
    "dense_k": 4,
    "recipe": "mine",
    "seed": 3,
    "subject": "toy",
    "hook_name": HOOK,
}
D_IN = 12


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Probe activations of three data sets at one hook, two SAEs, and the baselines."""
    root = tmp_path_factory.mktemp("probing")
    rng = np.random.default_rng(0)
    hook = root / "toy" / "probes" / HOOK
    hook.mkdir(parents=True)
    directions = rng.normal(size=(len(NAMES), D_IN))
    for name, direction in zip(NAMES, directions, strict=True):
        y = datasets.load_dataset(name).y[:420]
        x = rng.normal(size=(420, D_IN)) + 0.7 * y[:, None] * direction
        # Two tokens a row, the second of which carries the label twice as strongly.
        tokens = torch.tensor(np.stack([0.5 * x, x], 1).reshape(-1, D_IN), dtype=torch.float32)
        path = hook / f"{name}.safetensors"
        save_probe_data(path, tokens, torch.arange(0, 2 * 420 + 1, 2), y, "mean")
    for seed in (0, 1):
        save_sae(relu_sae(seed), root / f"sae{seed}")
    baselines_job(
        read_spec(ProbingSpec, SPEC), root / "toy" / "probes", HOOK, root / "baselines.json"
    )
    return root


def relu_sae(seed, d_in=D_IN):
    g = torch.Generator().manual_seed(seed)
    W = torch.randn(d_in, 32, generator=g)
    return SAE("relu", W, W.T.clone(), torch.zeros(32), torch.zeros(d_in))


def run(world, out, sae="sae0", spec=SPEC, **options):
    return saebench_job(
        read_spec(ProbingSpec, spec),
        world / sae,
        world / "toy" / "probes",
        world / "baselines.json",
        out,
        **options,
    )


def test_record_pairs_every_data_set_with_its_own_baselines(world, tmp_path):
    record = run(world, tmp_path / "saebench.json")
    rows = record["per_dataset"]
    assert [(r["dataset"], r["k"]) for r in rows] == [(n, k) for n in NAMES for k in (1, 4)]
    base = provenance.read_json(world / "baselines.json")["datasets"]
    for row in rows:
        assert row["dense_auc"] == base[row["dataset"]]["dense"]["auc"]
        assert row["neurons_auc"] == base[row["dataset"]]["neurons"][str(row["k"])]["auc"]
        assert row["family"] == datasets.family(row["dataset"])
        assert row["informative"] == base[row["dataset"]]["informative"]
        assert row["dense_val_lcb"] == base[row["dataset"]]["validation"]["lcb"]
    at_gate = [r for r in rows if r["k"] == 4 and r["informative"]]
    assert record["n_informative"] == len(at_gate) > 0
    assert record["metrics"]["delta_vs_dense"].value == pytest.approx(
        np.mean([r["auc"] - r["dense_auc"] for r in at_gate])
    )
    assert record["metrics"]["delta_vs_dense"].lcb == -np.inf, "one seed gives no interval"
    assert provenance.read_json(tmp_path / "saebench.json")["kind"] == "saebench"
    assert not list(tmp_path.glob("*.partial.json"))


def test_where_no_data_set_is_informative_the_metrics_are_missing_and_the_record_says_why(
    world, tmp_path
):
    base = provenance.read_json(world / "baselines.json")
    for row in base["datasets"].values():
        row["validation"]["lcb"], row["informative"] = 0.59, False
    provenance.write_json(tmp_path / "baselines.json", base)
    record = saebench_job(
        read_spec(ProbingSpec, SPEC),
        world / "sae0",
        world / "toy" / "probes",
        tmp_path / "baselines.json",
        tmp_path / "saebench.json",
    )
    assert record["metrics"] == {} and record["n_informative"] == 0
    assert "no data set is informative" in record["reason"]
    assert len(record["per_dataset"]) == 6, "they are listed all the same"


def test_without_baselines_a_record_has_the_same_aucs_and_no_deltas(world, tmp_path):
    whole = run(world, tmp_path / "whole.json")["per_dataset"]
    alone = saebench_job(
        read_spec(ProbingSpec, SPEC),
        world / "sae0",
        world / "toy" / "probes",
        None,
        tmp_path / "alone.json",
    )
    assert alone["metrics"] == {}
    assert [r["auc"] for r in alone["per_dataset"]] == [r["auc"] for r in whole]


def test_llm_mean_is_over_exactly_the_data_sets_evaluated(world, tmp_path):
    subset = {**SPEC, "datasets": NAMES[:2]}
    record = run(world, tmp_path / "saebench.json", spec=subset)
    base = provenance.read_json(world / "baselines.json")["datasets"]
    assert record["summary"]["llm_metrics"]["llm_test_auc"] == pytest.approx(
        np.mean([base[n]["dense"]["auc"] for n in NAMES[:2]])
    )


def test_a_second_sae_never_reads_the_results_of_the_first(world, tmp_path):
    first = run(world, tmp_path / "a.json")
    # The first SAE's partial results lie where the second one's would.
    keys = dict.fromkeys(NAMES, "stale")
    provenance.write_json(
        tmp_path / "b.partial.json", {n: {"key": keys[n], "value": []} for n in NAMES}
    )
    second = run(world, tmp_path / "b.json", sae="sae1")
    assert [r["latents"] for r in first["per_dataset"]] != [
        r["latents"] for r in second["per_dataset"]
    ]
    assert first["sae_sha256"] != second["sae_sha256"]
    assert results_dir("r", {"weights": first["sae_sha256"]}) != results_dir(
        "r", {"weights": second["sae_sha256"]}
    )


def test_an_interrupted_evaluation_goes_on_with_the_missing_data_sets(world, tmp_path, monkeypatch):
    monkeypatch.setattr(probe_baselines, "BLOCK", 1)
    whole = run(world, tmp_path / "whole.json")
    seen = []

    def stop_after_two(probes, hook, names, *options):
        for i, name in enumerate(names):
            if i == 2 and not seen:
                seen.append("stopped")
                raise KeyboardInterrupt
            yield load_probe_data(probes, hook, name, *options)

    monkeypatch.setattr("husai.probing.files.probe_data", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "cut.json")
    assert set(json.loads((tmp_path / "cut.partial.json").read_text())) == set(NAMES[:2])
    loaded = []

    def count(probes, hook, names, *options):
        loaded.extend(names)
        return (load_probe_data(probes, hook, name, *options) for name in names)

    monkeypatch.setattr("husai.probing.files.probe_data", count)
    assert run(world, tmp_path / "cut.json")["per_dataset"] == whole["per_dataset"]
    assert loaded == NAMES[2:]


def test_changed_activations_make_the_baselines_stale(world, tmp_path):
    probes = tmp_path / "toy" / "probes" / HOOK
    probes.mkdir(parents=True)
    for name in NAMES:
        data = load_probe_data(world / "toy" / "probes", HOOK, name, "mean")
        path = probes / f"{name}.safetensors"
        save_probe_data(path, data.tokens + 1.0, data.offsets, data.y, "mean")
    with pytest.raises(
        HusaiError, match=r"no baseline for the present activations of data set '96_spam_is'"
    ):
        saebench_job(
            read_spec(ProbingSpec, SPEC),
            world / "sae0",
            tmp_path / "toy" / "probes",
            world / "baselines.json",
            tmp_path / "o.json",
        )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hook_name": "blocks.0.hook_resid_pre"}, "blocks.0.hook_resid_pre"),
        ({"gate_k": 16}, "gate_k: 16 is not among"),
        ({"dense_k": 8}, "dense_k: 8 is not among"),
        ({"ks": [1, 2], "gate_k": 2, "dense_k": 2}, "baselines were measured with ks"),
        ({"pooling": "last"}, "holds tokens for pooling 'mean'|measured with pooling = mean"),
        ({"penalty": "l0"}, "penalty: got \"l0\", it should be 'l1' or 'l2'"),
        ({"engine": "turbo"}, "engine: got \"turbo\", it should be 'fast' or 'official'"),
        ({"datasets": ["87_glue_colla"]}, "87_glue_cola"),
    ],
)
def test_a_wrong_spec_is_one_line(world, tmp_path, change, words):
    with pytest.raises(HusaiError, match=words):
        run(world, tmp_path / "o.json", spec={**SPEC, **change})


def test_a_missing_hook_names_those_there_are(world):
    with pytest.raises(HusaiError, match=f"no probe activations at hook 'blocks.9'; it has {HOOK}"):
        baselines_job(
            read_spec(ProbingSpec, SPEC), world / "toy" / "probes", "blocks.9", world / "none.json"
        )


def test_an_sae_of_another_width_names_both(world, tmp_path):
    save_sae(relu_sae(0, d_in=20), tmp_path / "wide")
    with pytest.raises(HusaiError, match=rf"d = {D_IN} but the SAE has d_in = 20"):
        saebench_job(
            read_spec(ProbingSpec, SPEC),
            tmp_path / "wide",
            world / "toy" / "probes",
            world / "baselines.json",
            tmp_path / "o.json",
        )


def test_validation_k_never_looks_at_test_scores():
    rows = [{"k": 1, "auc": 0.9, "val_auc": 0.5}, {"k": 4, "auc": 0.5, "val_auc": 0.6}]
    assert validation_k(rows) == 4


def test_cycle3_summary_takes_the_best_test_auc_up_to_k_5():
    rows = [
        {"dataset": "a", "k": k, "auc": auc, "accuracy": 0.5, "f1": 0.4}
        for k, auc in ((1, 0.6), (5, 0.7), (16, 0.9))
    ]
    summary = cycle3_summary(
        rows,
        {
            "a": {"auc": 0.8, "accuracy": 0.7, "f1": 0.6},
            "b": {"auc": 0.0, "accuracy": 0.0, "f1": 0.0},
        },
    )
    assert summary["best_by_auc"]["k"] == 5
    assert summary["best_minus_llm_auc"] == pytest.approx(-0.1)
    assert [row["k"] for row in summary["sae_metrics_by_k"]] == [1, 5]


# Restated by hand from SparseProbingSaeProbesEvalOutput and BaseEvalOutput of sae-bench 0.6.0.
NUMBER = {"type": ["number", "null"]}
NAMED = {
    f"sae_top_{k}_test_{m}": NUMBER
    for k in (1, 2, 5, 10, 20, 50, 100)
    for m in ("accuracy", "auc", "f1")
} | {"sae_test_accuracy": NUMBER}
LLM = {f"llm_test_{m}": NUMBER for m in ("accuracy", "auc", "f1")}
BY_K = {
    "type": ["object", "null"],
    "propertyNames": {"pattern": "^[0-9]+$"},
    "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": [
        "eval_type_id",
        "eval_config",
        "eval_id",
        "datetime_epoch_millis",
        "eval_result_metrics",
        "eval_result_details",
        "sae_bench_commit_hash",
        "sae_lens_id",
        "sae_lens_release_id",
        "sae_lens_version",
        "sae_cfg_dict",
    ],
    "properties": {
        "eval_type_id": {"const": "sparse_probing_sae_probes"},
        "eval_config": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "model_name": {"type": "string"},
                "random_seed": {"type": "integer"},
                "dataset_names": {"type": "array", "items": {"type": "string"}},
                "reg_type": {"enum": ["l1", "l2"]},
                "setting": {"enum": ["normal", "scarcity", "imbalance"]},
                "ks": {"type": "array", "items": {"type": "integer"}},
                "binarize": {"type": "boolean"},
                "results_path": {"type": "string"},
                "model_cache_path": {"type": ["string", "null"]},
                "include_llm_baseline": {"type": "boolean"},
                "baseline_method": {"type": "string"},
            },
        },
        "eval_id": {"type": "string", "pattern": "^[0-9a-f-]{36}$"},
        "datetime_epoch_millis": {"type": "integer", "minimum": 0, "maximum": 9999999999999},
        "eval_result_metrics": {
            "type": "object",
            "additionalProperties": False,
            "required": ["llm", "sae"],
            "properties": {
                "llm": {"type": "object", "additionalProperties": False, "properties": LLM},
                "sae": {"type": "object", "additionalProperties": False, "properties": NAMED},
            },
        },
        "eval_result_details": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["dataset_name"],
                "properties": {
                    "dataset_name": {"type": "string"},
                    **LLM,
                    **NAMED,
                    "sae_metrics_by_k": BY_K,
                },
            },
        },
        "sae_metrics_by_k": BY_K,
        "eval_result_unstructured": {},
        "sae_bench_commit_hash": {"type": "string"},
        "sae_lens_id": {"type": ["string", "null"]},
        "sae_lens_release_id": {"type": ["string", "null"]},
        "sae_lens_version": {"type": ["string", "null"]},
        "sae_cfg_dict": {"type": ["object", "null"]},
    },
}


def test_output_validates_against_saebenchs_schema_and_reads_back(world, tmp_path):
    from husai.official.results import read_saebench

    record = run(world, tmp_path / "saebench.json")
    base = provenance.read_json(world / "baselines.json")["datasets"]
    written = to_saebench_schema(record, {n: base[n]["dense"] for n in NAMES})
    jsonschema.validate(written, SCHEMA)
    assert written["eval_id"] == to_saebench_schema(record)["eval_id"]
    provenance.write_json(tmp_path / "sb.json", written)
    table = read_saebench(tmp_path / "sb.json")
    for row in record["per_dataset"]:
        assert table[row["dataset"], f"sae k={row['k']}"] == pytest.approx(row["auc"])
        assert table[row["dataset"], "llm"] == pytest.approx(row["dense_auc"])


def test_official_engine_agrees_and_leaves_sae_probes_as_it_was(world, tmp_path):
    pytest.importorskip("sae_probes")
    fast = run(world, tmp_path / "fast.json")
    official = run(world, tmp_path / "official.json", spec={**SPEC, "engine": "official"})
    for ours, theirs in zip(fast["per_dataset"], official["per_dataset"], strict=True):
        assert ours["latents"] == theirs["latents"]
        assert ours["auc"] == pytest.approx(theirs["auc"], abs=0.002)
        assert ours["val_auc"] == pytest.approx(theirs["val_auc"], abs=0.002)
        assert (ours["n_train"], ours["n_test"]) == (theirs["n_train"], theirs["n_test"])
    from sae_probes import utils_data

    assert utils_data.get_dataset_sizes()["87_glue_cola"] == 5000
    assert len(utils_data.get_yvals("87_glue_cola")) == 5000
    other = run(world, tmp_path / "other.json", "sae1", {**SPEC, "engine": "official"})
    mine = probe_datasets(
        relu_sae(1),
        [load_probe_data(world / "toy" / "probes", HOOK, n, "mean") for n in NAMES],
        [1, 4],
    )
    assert [r["latents"] for r in other["per_dataset"]] == [r.latents for r in mine]
