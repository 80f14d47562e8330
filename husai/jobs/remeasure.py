"""``husai verify --remeasure``: goes on to the weights and the activations of the confirmation, and
measures again what the evidence behind a decision says.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from husai.errors import HusaiError
from husai.evidence import Evidence, Metric, read_metric, records_in
from husai.gate.inputs import WEIGHTS, Inputs
from husai.progress import Progress
from husai.provenance import read_json, read_object
from husai.report.mirror import sources_of

TOLERANCE = 1e-3
"""Relative (absolute below 1) difference that other processors and numbers of threads may make:
sums of float32 in another order; measured up to 1e-4. Nulls and splits are drawn from the same
seeds."""
DECISIONS = Path("results/gate")
UNREADABLE = (HusaiError, LookupError, TypeError, ValueError, AttributeError, OSError)
"""What reading a record that somebody else wrote may raise."""


def remeasure(root: str | Path, device: str = "auto") -> tuple[list[str], dict[str, int]]:
    """Measure again what the decisions of a run rest on, from their sources down: stability with
    reconstruction of every ensemble, faithfulness and CE-Bench of every SAE, sparse probing of
    every SAE at every gated k on its first informative data set, and the OOD drop of every seed on
    the first.

    Not measured again are the further data sets of probing and OOD, the baselines that probing is
    compared with, the alphabetical OOD split, the leak probe, text overlap, what training noted of
    itself (plateau, dead latents, likeness to the start), and the subject's activations. Decisions
    of the original's policy, ``cycle3``, are left out.

    Returns
    -------
    tuple
        One line for each number that does not come out the same within :data:`TOLERANCE`
        (probing: AUC within what the two engines may differ by), and how many of each were
        measured.
    """
    wrong: list[str] = []
    counts: dict[str, int] = {}
    with contextlib.chdir(root), tempfile.TemporaryDirectory() as scratch:
        work = [item for item in _behind_decisions() if _measure_of(item)]
        progress = Progress(len(work), "measuring again: records")
        known: dict[tuple, dict[str, Any]] = {}
        for item in work:
            what, measure = _measure_of(item)
            more = (known,) if measure is _stability else ()
            try:
                found = measure(item.record, Path(scratch), device, *more)
                wrong += [f"{item.path}: {line}" for line in found]
            except UNREADABLE as error:
                why = f"{type(error).__name__}: {error}"
                wrong.append(f"{item.path}: cannot be measured again ({why})")
            counts[f"{what} again"] = counts.get(f"{what} again", 0) + 1
            progress.update(note=item.path)
    if not counts:
        wrong.append(f"{DECISIONS}: no decision names evidence that could be measured again")
    return wrong, counts


def _behind_decisions() -> list[Evidence]:
    """Records that the decisions name as sources, and those that these rest on, each once. A source
    that is not here, or not readable, is left out: the decision cannot be made again without it.
    """
    found: dict[tuple, Evidence] = {}
    inputs = Inputs(Path(), hashing=False)
    for path in sorted(DECISIONS.glob("*/release_policy.json")):
        decision = read_object(path)
        for name in sources_of(decision) if decision.get("policy") != "cycle3" else ():
            try:
                records = records_in(read_json(name))
            except HusaiError:
                continue
            for record in records:
                item = Evidence.read(record, name)
                for one in (item, *inputs.of(item).behind):
                    found[one.path, one.kind, repr(one.record.get("seed"))] = one
    return list(found.values())


def _measure_of(item: Evidence) -> tuple[str, Any] | None:
    """What a record is counted as, and how it is measured; None for one that only sums up
    others."""
    if item.kind in ENSEMBLES:
        return ENSEMBLES[item.kind]
    return SINGLES.get(item.kind) if "seed" in item.record else None


def _saes(record: Mapping[str, Any]) -> list[Path]:
    """Folders of the SAEs whose weights a record names, in its order."""
    paths = [Path(entry["path"]) for entry in record["inputs"]]
    return [path.parent for path in paths if path.name == WEIGHTS]


def _stability(
    record: Mapping[str, Any], scratch: Path, device: str, known: dict[tuple, dict[str, Any]]
) -> Iterator[str]:
    """A stability record from the weights that it names; ``known`` has what was measured before."""
    from husai.jobs.stability import stability_job

    folders = [sae.parent for sae in _saes(record)]
    frozen = next((folder for folder in folders if folder != folders[0]), None)
    split = record.get("split", "confirmation")
    key = folders[0], frozen, split
    if key not in known:
        known[key] = stability_job(
            folders[0],
            None,
            scratch / "stability.json",
            frozen_dir=frozen,
            split=split,
            device=device,
        )
    again = known[key]
    if sorted(_saes(again)) != sorted(_saes(record)):
        yield "does not rest on all SAEs of the ensembles that it names"
    yield from _differences(record["metrics"], again["metrics"])


def _spliced(record: Mapping[str, Any], scratch: Path, device: str) -> Iterator[str]:
    """A faithfulness record from the SAE and the subject's model."""
    from husai.jobs.faithfulness import faithfulness_jobs
    from husai.planning.specs import FaithfulnessSpec, read_spec

    spec = read_spec(FaithfulnessSpec, record["provenance"]["config"])
    model = Path("results/subjects") / record["subject"] / "model"
    work = [(_saes(record)[0], scratch / "faithfulness.json")]
    (again,) = faithfulness_jobs(spec, work, model, device=device)
    yield from _differences(record["metrics"], again["metrics"])
    yield from _lists_apart(record["texts"], again["texts"])


def _contrasted(record: Mapping[str, Any], scratch: Path, device: str) -> Iterator[str]:
    """A CE-Bench record from the SAE and the activations of the story pairs."""
    from husai.jobs.cebench import cebench_jobs
    from husai.planning.specs import CEBenchSpec, read_spec

    spec = read_spec(CEBenchSpec, record["provenance"]["config"])
    pairs = Path("results/subjects") / record["subject"] / "pairs"
    (again,) = cebench_jobs(
        spec, [(_saes(record)[0], scratch / "cebench.json")], pairs, device=device
    )
    yield from _differences(record["metrics"], again["metrics"])
    yield from _lists_apart(record["per_pair"], again["per_pair"])


def _probed(record: Mapping[str, Any], scratch: Path, device: str) -> Iterator[str]:
    """A probing record on its first informative data set at every gated k, with the fast engine."""
    from husai.compute import resolve_device
    from husai.probing.files import load_probe_data
    from husai.probing.protocol import probe_datasets
    from husai.probing.tables import informative
    from husai.sae import load_sae

    where = resolve_device(device)
    settings, rows = record["probing"], record["per_dataset"]
    # SAEs of the randomised subject are compared with no dense probe.
    counted = informative(rows) if "dense_val_lcb" in rows[0] else {}
    name = next(iter(counted), rows[0]["dataset"])
    probes = Path("results/subjects") / record["subject"] / "probes"
    hook, pooling = record["hook_name"], settings["pooling"]
    data = load_probe_data(probes, hook, name, pooling, settings["max_rows"])
    sae, ks = load_sae(_saes(record)[0], device=where), {settings["gate_k"], settings["dense_k"]}
    options = {"penalty": settings["penalty"], "seed": settings["probe_seed"], "device": where}
    for found in probe_datasets(sae, [data], sorted(ks), **options):
        said = [r["auc"] for r in rows if r["dataset"] == name and r["k"] == found.k]
        yield from _auc_apart(said, found.auc, f"AUC on {name} at k = {found.k}")


def _ood(record: Mapping[str, Any], scratch: Path, device: str) -> Iterator[str]:
    """An OOD record on its first data set: dense probe, and the SAE's of every seed."""
    from husai.compute import resolve_device
    from husai.probing.files import load_probe_data
    from husai.sae import load_sae
    from husai.stress.out_of_domain import dense_drop, sae_drop

    settings, where = record["provenance"]["config"], resolve_device(device)
    probes = Path("results/subjects") / record["subject"] / "probes"
    hook, name = record["hook_name"], record["per_dataset"][0]["dataset"]
    options = (settings["pooling"], settings["max_rows"])
    pair = [load_probe_data(probes, hook, name, *options, ood=ood) for ood in (False, True)]
    dense = dense_drop(*pair)
    rows = {row["seed"]: row for row in record["per_dataset"] if row["dataset"] == name}
    for folder in _saes(record):
        row = rows[int(folder.name.removeprefix("seed"))]
        sae, k = load_sae(folder, device=where), settings["gate_k"]
        own = sae_drop(sae, *pair, k, penalty=settings["penalty"], device=where)
        for side, found in (("sae", own), ("llm", dense)):
            for domain in ("id", "ood"):
                said, of = [row[f"{side}_{domain}"]], f"{side}_{domain} of {folder.name} on {name}"
                yield from _auc_apart(said, found[domain], of)


ENSEMBLES = {"stability": ("stability records", _stability), "ood": ("OOD records", _ood)}
SINGLES = {
    "faithfulness": ("SAEs spliced", _spliced),
    "cebench": ("SAEs contrasted", _contrasted),
    "saebench": ("SAEs probed", _probed),
}
"""What a record of an ensemble, or of one SAE, is counted as, and how it is measured, by kind."""


def _auc_apart(said: list[float], found: float, of: str) -> Iterator[str]:
    from husai.official.results import AUC_TOLERANCE

    if len(said) != 1 or not math.isclose(found, said[0], abs_tol=AUC_TOLERANCE):
        shown = ", ".join(f"{value:.4f}" for value in said) or "not there"
        yield f"{of} is {shown} but measured again {found:.4f}"


def _lists_apart(said: Mapping[str, Any], again: Mapping[str, Any]) -> Iterator[str]:
    """Values per text or pair that do not come out again."""
    for name in sorted({*said, *again}):
        a, b = said.get(name, ()), again.get(name, ())
        if len(a) != len(b) or not all(map(_alike, a, b)):
            yield f"the single values of {name} do not come out again"


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
