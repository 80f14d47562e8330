"""``husai verify --remeasure``: goes on to the weights and the activations of the confirmation, and
measures again what its evidence says.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.evidence import Metric, read_metric
from husai.progress import Progress
from husai.provenance import read_json

TOLERANCE = 1e-3
"""Relative (absolute below 1) difference that other processors and numbers of threads may make: sums
of float32 in another order; measured up to 1e-4. Nulls and splits are drawn from the same seeds."""
CONFIRMATION = Path("results/confirmation")


def remeasure(root: str | Path, device: str = "auto") -> tuple[list[str], dict[str, int]]:
    """Measure the confirmation's evidence again: stability with reconstruction of every role,
    faithfulness of every SAE, and sparse probing of every SAE on one data set.

    Returns
    -------
    tuple
        One line for each number that does not come out the same within :data:`TOLERANCE`
        (probing: within what the two engines may differ by), and how many of each were measured.
    """
    wrong: list[str] = []
    counts: dict[str, int] = {}
    with contextlib.chdir(root), tempfile.TemporaryDirectory() as scratch:
        stages = (
            ("stability records", sorted(CONFIRMATION.glob("stability/*.json")), _stability),
            (
                "SAEs spliced",
                sorted(CONFIRMATION.glob("external/*/seed*/faithfulness.json")),
                _spliced,
            ),
            ("SAEs probed", sorted(CONFIRMATION.glob("external/*/seed*/saebench.json")), _probed),
        )
        progress = Progress(sum(len(paths) for _, paths, _ in stages), "measuring again: records")
        for what, paths, measure in stages:
            for path in paths:
                try:
                    wrong += [f"{path}: {line}" for line in measure(path, Path(scratch), device)]
                except (HusaiError, KeyError, TypeError, ValueError) as error:
                    wrong.append(f"{path}: cannot be measured again ({error})")
                counts[f"{what} again"] = counts.get(f"{what} again", 0) + 1
                progress.update(note=str(path))
    if not counts:
        wrong.append(f"{CONFIRMATION}: holds nothing that could be measured again")
    return wrong, counts


def _stability(path: Path, scratch: Path, device: str) -> Iterator[str]:
    """A stability record from the weights of its role, and of its control where it has one."""
    from husai.jobs.stability import stability_job

    record = read_json(path)
    frozen = CONFIRMATION / "frozen"
    again = stability_job(
        CONFIRMATION / path.stem,
        None,
        scratch / "stability.json",
        frozen_dir=frozen if path.stem == "candidate" and frozen.is_dir() else None,
        split=record.get("split", "confirmation"),
        phase=record.get("phase"),
        device=device,
    )
    yield from _differences(record["metrics"], again["metrics"])


def _spliced(path: Path, scratch: Path, device: str) -> Iterator[str]:
    """A faithfulness record from the SAE and the subject's model."""
    from husai.jobs.faithfulness import faithfulness_jobs
    from husai.planning.specs import FaithfulnessSpec, read_spec

    record = read_json(path)
    spec = read_spec(FaithfulnessSpec, record["provenance"]["config"])
    model = Path("results/subjects") / record["subject"] / "model"
    work = [(_sae_of(path), scratch / "faithfulness.json")]
    (again,) = faithfulness_jobs(spec, work, model, device=device)
    yield from _differences(record["metrics"], again["metrics"])


def _probed(path: Path, scratch: Path, device: str) -> Iterator[str]:
    """A probing record on its first informative data set, with the fast engine."""
    from husai.compute import resolve_device
    from husai.official.results import AUC_TOLERANCE
    from husai.probing.files import load_probe_data
    from husai.probing.protocol import probe_datasets
    from husai.probing.tables import informative
    from husai.sae import load_sae

    record, where = read_json(path), resolve_device(device)
    settings, rows = record["probing"], record["per_dataset"]
    # SAEs of the randomised subject are compared with no dense probe.
    counted = informative(rows) if "dense_val_lcb" in rows[0] else {}
    name = next(iter(counted), rows[0]["dataset"])
    probes = Path("results/subjects") / record["subject"] / "probes"
    hook, pooling = record["hook_name"], settings["pooling"]
    data = load_probe_data(probes, hook, name, pooling, settings["max_rows"])
    sae, k = load_sae(_sae_of(path), device=where), settings["gate_k"]
    options = {"penalty": settings["penalty"], "seed": settings["probe_seed"], "device": where}
    (found,) = probe_datasets(sae, [data], [k], **options)
    (said,) = [row["auc"] for row in rows if row["dataset"] == name and row["k"] == k]
    if not math.isclose(found.auc, said, abs_tol=AUC_TOLERANCE):
        yield f"AUC on {name} at k = {k} is {said:.4f} but measured again {found.auc:.4f}"


def _sae_of(path: Path) -> Path:
    """The SAE of ``external/{role}/seed{n}/{bench}.json``."""
    seed, role = path.parent.name, path.parent.parent.name
    return CONFIRMATION / role / seed


def _differences(said: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted({*said, *again}):
        a, b = (read_metric(of[name]) if name in of else None for of in (said, again))
        if (
            a is None
            or b is None
            or not all(_alike(getattr(a, key), getattr(b, key)) for key in ("value", "lcb", "ucb"))
        ):
            yield f"metric {name} is {_shown(a)} but measured again {_shown(b)}"


def _shown(metric: Metric | None) -> str:
    """Value and interval."""
    if metric is None:
        return "not there"
    return f"{metric.value} [{metric.lcb}, {metric.ucb}]"


def _alike(a: float | None, b: float | None) -> bool:
    if a is None or b is None or math.isnan(a) or math.isnan(b):
        return (a is None or math.isnan(a)) == (b is None or math.isnan(b))
    return a == b or math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
