"""Jobs of sparse probing: the baselines of a hook and one SAE's record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from husai import provenance
from husai.compute import resolve_device, use_threads
from husai.errors import HusaiError
from husai.evidence import new_record
from husai.probing import datasets
from husai.probing.baselines import baseline_rows
from husai.probing.encoders import Neurons, SAEEncoder
from husai.probing.files import activation_hashes, probe_data
from husai.probing.paired import cycle3_summary, metrics, paired_rows, validation_k
from husai.probing.partial import Partial
from husai.probing.protocol import ProbeResult, probe_datasets
from husai.probing.solver import check_ks
from husai.probing.splits import PROBE_SEED
from husai.progress import Progress
from husai.sae_files import sae_files

ENGINES = ("fast", "official")
BLOCK = 8
BASELINES_SCHEMA = "husai.probe_baselines/1"
PROBING_DEFAULTS = {
    "engine": "fast",
    "ks": [1, 2, 5, 16],
    "gate_k": 16,
    "penalty": "l1",
    "max_rows": None,
    "probe_seed": PROBE_SEED,
}


def probing_settings(spec: dict) -> dict[str, Any]:
    """Settings of sparse probing from a spec (``external.probing`` plus ``datasets`` and
    ``max_rows``), checked and completed.
    """
    found = {**PROBING_DEFAULTS, **{k: spec[k] for k in PROBING_DEFAULTS if k in spec}}
    if found["engine"] not in ENGINES:
        raise HusaiError(f"external.probing.engine: '{found['engine']}' is not fast or official")
    if found["penalty"] not in ("l1", "l2"):
        raise HusaiError(f"external.probing.penalty: '{found['penalty']}' is not l1 or l2")
    if found["engine"] == "fast":
        check_ks(found["ks"])
    if found["gate_k"] not in found["ks"]:
        raise HusaiError(
            f"external.probing.gate_k: {found['gate_k']} is not among external.probing.ks "
            f"{found['ks']}; add it"
        )
    names = spec.get("datasets") or list(datasets.dataset_names())
    found["datasets"] = datasets.check_names(names, "external.datasets: data set")
    return found


def baselines_job(
    spec: dict,
    probes: str | Path,
    hook_name: str,
    out: str | Path,
    *,
    subject: str | None = None,
    threads: int | None = None,
) -> dict:
    """Write the baselines of one hook, ``results/external/baselines/{split}/{hook}.json``: computed
    once, read by every SAE.

    Parameters
    ----------
    spec : dict
        See :func:`probing_settings`.
    probes : path
        ``results/subjects/{subject}/probes`` or its ``manifest.json``.
    """
    use_threads(threads)
    settings = probing_settings(spec)
    hashes = activation_hashes(probes, hook_name, settings["datasets"])
    protocol = _protocol(settings)
    partial = Partial(
        out, {n: provenance.hash_json(["baselines", sha, protocol]) for n, sha in hashes.items()}
    )
    progress = Progress(len(hashes), f"baselines at {hook_name}: data sets")
    progress.update(len(hashes) - len(partial.missing))
    for names in blocks(partial.missing):
        sources = list(probe_data(probes, hook_name, names, settings["max_rows"]))
        rows = baseline_rows(
            sources, settings["ks"], penalty=settings["penalty"], seed=settings["probe_seed"]
        )
        if settings["engine"] == "official":
            rows = _official_baselines(rows, sources, hook_name, settings, hashes, Path(out).parent)
        partial.add({row["dataset"]: row for row in rows})
        progress.update(len(rows))
    record = {
        "schema": BASELINES_SCHEMA,
        "subject": subject or _subject_of(probes),
        "hook_name": hook_name,
        "probing": {**settings, **protocol},
        "activations": hashes,
        "datasets": {row["dataset"]: row for row in partial.values()},
        "provenance": provenance.provenance(spec),
    }
    provenance.write_json(out, record)
    partial.finish()
    return record


def saebench_job(
    spec: dict,
    sae_dir: str | Path,
    probes: str | Path,
    baselines: str | Path,
    out: str | Path,
    *,
    engine: str | None = None,
    device: str = "auto",
    threads: int | None = None,
) -> dict:
    """Sparse probing of one SAE; writes ``results/external/{recipe}/seed{seed}/saebench.json``.

    An interrupted job goes on with the data sets that are missing, from a side file that is read
    only for the same weights, activations and settings.

    Parameters
    ----------
    spec : dict
        See :func:`probing_settings`; for an SAE that this pipeline did not train also ``recipe``,
        ``seed``, ``subject``, ``hook_name``.
    sae_dir : path
        ``results/saes/{subject}/{recipe}/seed{seed}``, or any checkpoint that ``load_sae`` reads.
    baselines : path
        The record of :func:`baselines_job` for the SAE's hook and the same data sets.
    engine : {"fast", "official"}, optional
        Overrides the spec's.
    """
    use_threads(threads)
    settings = probing_settings({**spec, **({"engine": engine} if engine else {})})
    where = resolve_device(device)
    measured = identified(sae_dir, spec, where)
    base = read_baselines(baselines, probes, measured.hook_name, settings)
    hashes = {n: base["activations"][n] for n in settings["datasets"]}
    content = {
        "weights": measured.weights,
        "hook_name": measured.hook_name,
        "engine": settings["engine"],
        **_protocol(settings),
    }
    partial = Partial(out, {n: provenance.hash_json([content, sha]) for n, sha in hashes.items()})
    _probe_missing(measured, partial, probes, settings, content, hashes, where, Path(out).parent)
    rows = paired_rows([row for value in partial.values() for row in value], base["datasets"])
    name = measured.name
    record = new_record(
        "saebench",
        name["subject"],
        name["recipe"],
        name["recipe_hash"],
        metrics(rows, settings["gate_k"]),
        [*measured.files, Path(baselines)],
        spec,
        [] if name["seed"] is None else [name["seed"]],
        seed=name["seed"],
        hook_name=measured.hook_name,
        sae_meta=name["sae_meta"],
        sae_sha256=measured.weights,
        engine=settings["engine"],
        probing=settings,
        activations=hashes,
        validation_k=validation_k(rows),
        summary=cycle3_summary(rows, {n: base["datasets"][n]["dense"] for n in hashes}),
        per_dataset=rows,
    )
    provenance.write_json(out, record)
    partial.finish()
    return record


class Identified(NamedTuple):
    """An SAE to measure: what it is, where it was trained, and its content."""

    encoder: SAEEncoder
    name: dict
    """subject, recipe, recipe_hash, seed, hook_name, sae_meta; see
    :func:`husai.jobs.cebench.identity`.
    """
    hook_name: str
    files: list[Path]
    weights: str
    """One hash over the checkpoint's files."""


def identified(sae_dir: str | Path, spec: dict, device) -> Identified:
    """Load an SAE and say which subject, recipe, seed and hook it belongs to.

    Raises
    ------
    HusaiError
        No checkpoint, or neither it nor the spec names its hook.
    """
    from husai.jobs.cebench import identity
    from husai.sae import load_sae, resolve

    sae_dir = resolve(sae_dir)
    files = sae_files(sae_dir)
    sae = load_sae(sae_dir, device=device)
    name = identity(sae_dir, sae, spec)
    if not name["hook_name"]:
        raise HusaiError(
            f"{sae_dir}: the SAE does not say which hook it was trained on; add hook_name to the "
            "spec"
        )
    weights = provenance.hash_json([provenance.sha256_file(p) for p in files])
    return Identified(SAEEncoder(sae), name, name["hook_name"], files, weights)


def read_baselines(path: str | Path, probes: str | Path, hook_name: str, settings: dict) -> dict:
    """Baselines fit for this hook, protocol and these activations; anything else is refused by
    name.
    """
    base = provenance.read_json(path)
    if base.get("schema") != BASELINES_SCHEMA or base.get("hook_name") != hook_name:
        raise HusaiError(
            f"{path}: holds no baselines of hook '{hook_name}' (found {base.get('hook_name')!r}); "
            "name the file of that hook"
        )
    wanted = _protocol(settings)
    for key, value in wanted.items():
        found = base["probing"].get(key)
        fits = set(value) <= set(found or []) if key == "ks" else found == value
        if not fits:
            raise HusaiError(
                f"{path}: baselines were measured with {key} = {found}, the spec says {value}; "
                "run --baselines-only again"
            )
    now = activation_hashes(probes, hook_name, settings["datasets"])
    for name, sha in now.items():
        if base["activations"].get(name) != sha:
            raise HusaiError(
                f"{path}: no baseline for the present activations of data set '{name}'; run "
                "--baselines-only again"
            )
    return base


def _probe_missing(
    measured: Identified,
    partial: Partial,
    probes,
    settings: dict,
    content: dict,
    hashes: dict,
    where,
    folder: Path,
) -> None:
    """Probe the data sets that have no result yet, keeping each block as it is done."""
    encoder, hook = measured.encoder, measured.hook_name
    progress = Progress(len(partial.keys), "sparse probing: data sets")
    progress.update(len(partial.keys) - len(partial.missing))

    def keep(found: list[ProbeResult]) -> None:
        rows: dict[str, list] = {}
        for result in found:
            rows.setdefault(result.dataset, []).append(result._asdict())
        partial.add(rows)
        progress.update(len(rows))

    options = {"penalty": settings["penalty"], "seed": settings["probe_seed"], "device": where}
    sources = probe_data(probes, hook, partial.missing, settings["max_rows"])
    if settings["engine"] == "fast":
        probe_datasets(encoder, sources, settings["ks"], on_done=keep, **options)
        return
    from husai.official.engine import probe_officially, results_dir

    for source in sources:
        results = results_dir(folder / "official", {**content, "activations": hashes[source.name]})
        keep(probe_officially(encoder, source, hook, settings["ks"], results=results, **options))


def _official_baselines(
    rows: list[dict], sources: list, hook: str, settings: dict, hashes: dict, folder: Path
) -> list[dict]:
    """The dense probe and the neurons by sae-probes itself; PCA-k has no official counterpart at
    fixed k.
    """
    from husai.official.engine import dense_officially, probe_officially, results_dir

    out = []
    for row, source in zip(rows, sources, strict=True):
        results = results_dir(
            folder / "official", {"neurons": hashes[source.name], "protocol": _protocol(settings)}
        )
        options = {"penalty": settings["penalty"], "seed": settings["probe_seed"]}
        neurons = probe_officially(
            Neurons(source.x.shape[1]), source, hook, settings["ks"], results=results, **options
        )
        values = {
            str(r.k): {name: getattr(r, name) for name in ("auc", "val_auc", "accuracy", "f1", "C")}
            for r in neurons
        }
        out.append(
            {
                **row,
                "dense": dense_officially(
                    source, hook, results=results, seed=settings["probe_seed"]
                ),
                "neurons": values,
            }
        )
    return out


def _protocol(settings: dict) -> dict:
    """What a probe result depends on besides weights and activations."""
    return {key: settings[key] for key in ("ks", "penalty", "probe_seed", "max_rows")}


def blocks(names: Sequence[str]) -> list[list[str]]:
    """Names in groups small enough to hold their activations at once."""
    return [list(names[i : i + BLOCK]) for i in range(0, len(names), BLOCK)]


def _subject_of(probes: str | Path) -> str:
    """Name of the subject from ``results/subjects/{subject}/probes``."""
    path = Path(probes)
    folder = path.parent if path.suffix == ".json" else path
    return folder.resolve().parent.name
