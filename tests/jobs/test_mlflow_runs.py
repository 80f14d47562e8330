"""The run records for MLflow: a run per ensemble with curves, a run per decision, each once."""

import builtins

import pytest
import report_tree

from husai.errors import HusaiError
from husai.jobs.mlflow_runs import write_runs
from husai.provenance import write_json


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    root = report_tree.build_in(tmp_path_factory.mktemp("run"))
    ensemble = root / "results/saes/language/topk-d512-k16"
    write_json(ensemble / "recipe.json", {"recipe": {"architecture": "topk", "k": 16}})
    return root / "results"


def test_without_mlflow_the_error_says_what_to_install(results, tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name.partition(".")[0] == "mlflow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(HusaiError, match=r"pip install 'husai\[mlflow\]'"):
        write_runs(results, tmp_path)


def test_ensembles_and_decisions_are_runs_and_are_added_once(results, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="husai[mlflow] is not installed")
    assert write_runs(results, tmp_path) == 3
    assert write_runs(results, tmp_path) == 0
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    found = client.search_runs([client.get_experiment_by_name("husai").experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert set(runs) == {"saes/language/topk-d512-k16", "gate/strict", "gate/cycle3"}
    ensemble = runs["saes/language/topk-d512-k16"]
    assert ensemble.data.params == {"architecture": "topk", "k": "16"}
    curve = client.get_metric_history(ensemble.info.run_id, "seed1/explained_variance")
    assert [(m.step, m.value) for m in curve][:2] == [(0, 0.1), (1, 0.5)]
    strict = runs["gate/strict"]
    assert strict.data.tags["failing"] == "reproducibility, saebench"
    assert strict.data.metrics["stability.S/lcb"] == 0.2541
    assert strict.data.metrics["gate/pass_all"] == 0
    assert strict.info.status == "FINISHED"
