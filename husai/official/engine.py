"""The official engine: sae-probes' own ranking, splits, solver and scores, fed with codes and
activations that are already computed and pooled.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from husai import provenance
from husai.errors import HusaiError
from husai.probing import datasets
from husai.probing.encoders import ProbeData
from husai.probing.protocol import ProbeResult
from husai.probing.splits import PROBE_SEED, probe_split

MODEL = "husai-subject"


class Identity:
    """What sae-probes asks of an SAE, ``encode``, for a cache that holds codes already."""

    @staticmethod
    def encode(codes: torch.Tensor) -> torch.Tensor:
        """The codes ``(n_rows, d_sae)`` themselves."""
        return codes


def probe_officially(
    codes: torch.Tensor,
    source: ProbeData,
    hook_name: str,
    ks: Sequence[int],
    *,
    results: str | Path,
    penalty: str = "l1",
    seed: int = PROBE_SEED,
) -> list[ProbeResult]:
    """One data set through ``sae_probes.run_sae_evals``.

    sae-probes reads a code from each row of its cache and has no pooling of its own, so the cache
    gets the pooled codes in place of activations, and the SAE it is given changes nothing.

    Parameters
    ----------
    codes : Tensor, ``(n_rows, d_sae)``
        Pooled codes of the rows of ``source``; of the baseline its pooled activations.
    results : path
        sae-probes names its results by data set and hook only and skips those that exist, so this
        must be a directory of the codes' content hash: see :func:`results_dir`.
    """
    from sae_probes.run_sae_evals import get_save_metrics_path, run_sae_evals

    datasets.check_names([source.name])
    names = {"model_name": MODEL, "hook_name": hook_name, "reg_type": penalty, "setting": "normal"}
    path = get_save_metrics_path(dataset=source.name, sae_results_path=results, **names)
    _drop_broken(path)
    with _prepared(source, codes, hook_name) as prepared:
        run_sae_evals(Identity(), **names, **prepared, ks=list(ks), results_path=results, seed=seed)
    train, test = probe_split(source.y, seed, name=source.name)
    return [
        ProbeResult(
            source.name,
            source.family,
            r["k"],
            r["test_auc"],
            r["val_auc"],
            r["test_acc"],
            r["test_f1"],
            None,
            r["indices"],
            len(train),
            len(test),
        )
        for r in provenance.read_json(path)
    ]


def dense_officially(
    source: ProbeData, hook_name: str, *, results: str | Path, seed: int = PROBE_SEED
) -> dict:
    """The dense logistic baseline of one data set through ``sae_probes.run_baseline_evals``: auc,
    val_auc, accuracy, f1.
    """
    from sae_probes.run_baselines import get_baseline_save_path, run_baseline_evals

    path = get_baseline_save_path(source.name, hook_name, "logreg", MODEL, results)
    _drop_broken(path)
    names = (MODEL, hook_name, "normal", "logreg")
    with _prepared(source, source.activations(), hook_name) as prepared:
        run_baseline_evals(*names, **prepared, results_path=results, seed=seed)
    found = provenance.read_json(path)[0]
    keys = {"auc": "test_auc", "val_auc": "val_auc", "accuracy": "test_acc", "f1": "test_f1"}
    return {**{ours: found[its] for ours, its in keys.items()}, "C": None}


def results_dir(root: str | Path, content: dict) -> Path:
    """Directory for the results of exactly this content (weights, activations, settings); another
    SAE has another.
    """
    return Path(root) / provenance.hash_json(content)[:16]


def fill_cache(
    name: str, values: torch.Tensor, cache: str | Path, hook_name: str, model_name: str = MODEL
) -> None:
    """Write values ``(n_rows, d)`` of a data set where sae-probes looks for its activations:
    ``model_activations_{model}/{data set}_{hook}.pt``.
    """
    folder = Path(cache) / f"model_activations_{model_name}"
    folder.mkdir(parents=True, exist_ok=True)
    with provenance.atomic_path(folder / f"{name}_{hook_name}.pt") as temporary:
        torch.save(values.float().cpu().contiguous(), temporary)


@contextlib.contextmanager
def _prepared(source: ProbeData, values: torch.Tensor, hook_name: str) -> Iterator[dict]:
    """What sae-probes is told of a cache with one data set; its prints are kept off the terminal,
    and its labels limited to the rows there are.
    """
    probe_split(source.y, name=source.name)
    with (
        tempfile.TemporaryDirectory(prefix="husai-probes-") as cache,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
        _limited_rows(source),
    ):
        warnings.simplefilter("ignore")
        fill_cache(source.name, values, cache, hook_name)
        yield {"model_cache_path": Path(cache), "datasets": [source.name], "device": "cpu"}


@contextlib.contextmanager
def _limited_rows(source: ProbeData) -> Iterator[None]:
    """Let sae-probes see a data set as long as its activations; nothing is changed for a complete
    one.

    With fewer rows the classes may be unequal, so the test set is capped at what both have left (as
    :func:`probe_split` does)."""
    from sae_probes import utils_data

    sizes = utils_data.get_dataset_sizes()
    full = sizes[source.name]
    if len(source.y) == full:
        yield
        return
    if len(source.y) > full:
        raise HusaiError(
            f"data set '{source.name}': {len(source.y)} activation rows but sae-probes has "
            f"{full}; run the activations again"
        )
    get_yvals, get_indices = utils_data.get_yvals, utils_data.get_train_test_indices

    def capped(y, num_train, num_test, pos_ratio=0.5, seed=PROBE_SEED):
        left = min((y == 1).sum() - -(-num_train // 2), (y == 0).sum() - num_train // 2)
        return get_indices(y, num_train, min(num_test, 2 * int(left)), pos_ratio, seed)

    try:
        sizes[source.name] = len(source.y)
        utils_data.get_yvals = lambda name: np.asarray(source.y)
        utils_data.get_train_test_indices = capped
        yield
    finally:
        sizes[source.name] = full
        utils_data.get_yvals, utils_data.get_train_test_indices = get_yvals, get_indices


def _drop_broken(path: Path) -> None:
    """Remove a result an interrupted run left half written; sae-probes would take it for done."""
    if path.is_file():
        try:
            provenance.read_json(path)
        except HusaiError:
            path.unlink()
