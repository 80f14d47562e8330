"""The run records for MLflow: a run per ensemble with its training curves, a run per decision.

Off unless ``husai log --mlflow DIR`` asks for it. DIR holds a database of one file and the
artifacts; ``mlflow ui --backend-store-uri sqlite:///DIR/mlflow.db`` shows it. Nothing leaves the
machine.
"""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.provenance import read_object, sha256_file

EXPERIMENT = "husai"
KEY = "husai.sha256"
"""Tag that names the file a run was made from, so that a second call adds only what is new."""
BATCH = 1000
"""Most values that MLflow takes in one call."""


def write_runs(results: str | Path, folder: str | Path) -> int:
    """Add a run for every ensemble and every decision below ``results`` that MLflow does not have
    yet.

    Returns
    -------
    int
        Number of runs that were added.

    Raises
    ------
    HusaiError
        MLflow is not installed.
    """
    results, folder = Path(results), Path(folder).resolve()
    client, experiment = _open(folder)
    known = {run.data.tags.get(KEY) for run in client.search_runs([experiment], max_results=50_000)}
    added = 0
    sources = [*results.glob("saes/*/*/manifest.json"), *results.glob("gate/*/release_policy.json")]
    for path in sorted(sources):
        key = sha256_file(path)
        if key in known:
            continue
        write = _ensemble if path.name == "manifest.json" else _decision
        name = path.parent.relative_to(results).as_posix()
        run = client.create_run(experiment, run_name=name, tags={KEY: key, "husai.path": str(path)})
        write(client, run.info.run_id, path)
        client.set_terminated(run.info.run_id)
        added += 1
    return added


def _open(folder: Path) -> tuple[Any, str]:
    """A client of the database in ``folder``, and the id of the experiment."""
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise HusaiError(
            "--mlflow: MLflow is not installed; pip install 'husai[mlflow]', or leave --mlflow out"
        ) from None
    logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table it makes
    folder.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    found = client.get_experiment_by_name(EXPERIMENT)
    place = (folder / "artifacts").as_uri()
    return client, found.experiment_id if found else client.create_experiment(EXPERIMENT, place)


def _ensemble(client: Any, run: str, manifest: Path) -> None:
    """Parameters of the recipe, and the curves of every seed: ``seed42/explained_variance``."""
    import pandas
    from mlflow.entities import Metric, Param, RunTag

    record, trained = read_object(manifest), read_object(manifest.with_name("recipe.json"))
    recipe = trained.get("recipe") or {}
    params = [Param(k, str(v)) for k, v in recipe.items() if v is not None]
    tags = [RunTag(k, str(record.get(k))) for k in ("git_commit", "code_hash", "config_hash")]
    client.log_batch(run, params=params, tags=[*tags, RunTag("kind", "ensemble")])
    path = manifest.with_name("training.parquet")
    if not path.is_file():
        return
    curves = pandas.read_parquet(path)
    values = [
        Metric(f"seed{int(row['seed'])}/{name}", float(row[name]), 0, int(row["step"]))
        for row in curves.to_dict("records")
        for name in curves.columns
        if name not in ("seed", "step") and row[name] is not None and math.isfinite(row[name])
    ]
    _log_values(client, run, values)


def _log_values(client: Any, run: str, values: list) -> None:
    for start in range(0, len(values), BATCH):
        client.log_batch(run, metrics=values[start : start + BATCH])


def _decision(client: Any, run: str, path: Path) -> None:
    """Every measured value that the policy read, the verdicts, and the page that explains them."""
    from mlflow.entities import Metric, Param, RunTag

    decision = read_object(path)
    verdicts = [Metric(f"gate/{k}", float(v), 0, 0) for k, v in decision["gates"].items()]
    values = [
        Metric(re.sub(r"[^\w./ -]", "_", f"{name}/{part}"), float(number), 0, 0)
        for name, metric in decision["metrics"].items()
        for part, number in (metric.items() if isinstance(metric, dict) else [("value", metric)])
        if isinstance(number, (int, float)) and math.isfinite(number)
    ]
    tags = [RunTag("kind", "decision"), RunTag("policy", str(decision["policy"]))]
    tags.append(RunTag("failing", ", ".join(decision.get("failing") or []) or "none"))
    candidate = decision.get("candidate")
    named = candidate if isinstance(candidate, dict) else {"candidate": candidate}
    params = [Param(k, str(v)) for k, v in named.items() if isinstance(v, (str, int, float))]
    client.log_batch(run, params=params, tags=tags)
    _log_values(client, run, verdicts + values)
    page = path.with_suffix(".md")
    if page.is_file():
        client.log_artifact(run, str(page))
