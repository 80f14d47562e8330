"""Out-of-domain probing: rows of the official protocol, the paired excess drop, and the original's
alphabetical partition.
"""

import glob
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from husai.errors import HusaiError
from husai.jobs.ood import ood_job
from husai.planning.specs import OODSpec
from husai.probing import datasets, splits
from husai.probing.encoders import ProbeData
from husai.probing.files import save_probe_data
from husai.sae import SAE, save_sae
from husai.stress import out_of_domain

HOOK = "blocks.0.hook_resid_post"
D_IN = 10


def planted(n, direction, seed, shift=0.0, name="87_glue_cola"):
    """Label along one direction; ``shift`` moves the signal to another direction, as an
    out-of-domain set may.
    """
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    axis = (1 - shift) * direction + shift * np.roll(direction, 1)
    x = rng.normal(size=(n, len(direction))) + 1.5 * y[:, None] * axis
    tokens = torch.tensor(x, dtype=torch.float32)
    return ProbeData(name, datasets.family(name), tokens, torch.arange(n + 1), y)


def test_training_rows_come_from_the_first_1500_and_never_test_in_domain():
    y = np.random.default_rng(0).permutation(np.arange(3000) % 2)
    train, rest = out_of_domain.ood_rows(y)
    assert len(train) == 1024 and train.max() < 1500 and y[train].sum() == 512
    assert not set(train) & set(rest)
    assert not set(splits.probe_train_rows(y)) & set(rest), "rows the subject may have read"


def test_too_few_rows_are_refused_by_name():
    with pytest.raises(HusaiError, match="66_living-room"):
        out_of_domain.ood_rows(np.arange(180) % 2, name="66_living-room")


def test_a_probe_on_the_moved_signal_loses_auc_and_the_same_features_lose_no_more_than_dense():
    direction = np.eye(D_IN)[0]
    data, same, moved = (
        planted(2600, direction, 0),
        planted(300, direction, 1),
        planted(300, direction, 2, shift=1.0),
    )
    eye = torch.eye(D_IN)
    sae = SAE("relu", eye, eye.clone(), torch.zeros(D_IN), torch.zeros(D_IN))
    kept = out_of_domain.sae_drop(sae, data, same, k=1)
    lost = out_of_domain.sae_drop(sae, data, moved, k=1)
    assert abs(kept["id"] - kept["ood"]) < 0.06
    assert lost["id"] - lost["ood"] > 0.2
    dense = out_of_domain.dense_drop(data, moved)
    assert abs((lost["id"] - lost["ood"]) - (dense["id"] - dense["ood"])) < 0.1
    assert 0.6 < dense["val_lcb"] < dense["id"] + 0.05


def test_alphabetical_partition_takes_the_last_quarter_of_the_domains():
    parts = out_of_domain.alphabetical_partition(datasets.dataset_names())
    assert (len(parts["id"]), len(parts["ood"]), len(parts["ood_domains"])) == (81, 32, 15)
    assert parts["ood_domains"][0] == "social-security" and parts["ood_domains"][-1] == "world"


@pytest.mark.skipif(
    not glob.glob("../shared/evidence/cycle3_queue_final/ood_stress_summary_*.json"),
    reason="the old evidence is not here",
)
def test_alphabetical_partition_is_the_one_of_the_old_evidence():
    record = json.loads(
        Path(
            glob.glob("../shared/evidence/cycle3_queue_final/ood_stress_summary_*.json")[0]
        ).read_text()
    )
    parts = out_of_domain.alphabetical_partition(datasets.dataset_names())
    assert sorted(parts["id"]) == sorted(record["datasets"]["id"]) and sorted(
        parts["ood"]
    ) == sorted(record["datasets"]["ood"])


def test_alphabetical_drop_subtracts_each_parts_own_dense_mean():
    auc = {"5_a_x": 0.8, "6_b_x": 0.7, "7_c_x": 0.6, "8_z_x": 0.55}
    rows = [{"dataset": n, "k": 5, "auc": v, "accuracy": 0.5, "f1": 0.5} for n, v in auc.items()]
    dense = {n: {"auc": 0.9 if n == "8_z_x" else 0.8, "accuracy": 0.5, "f1": 0.5} for n in auc}
    found = out_of_domain.alphabetical_drop(rows, dense)
    assert found["ood_domains"] == ["z"]
    assert found["ood_drop"] == pytest.approx((0.7 - 0.8) - (0.55 - 0.9))


def test_job_pairs_seeds_and_data_sets(tmp_path):
    names = ["87_glue_cola", "66_living-room"]
    probes = tmp_path / "toy" / "probes" / HOOK
    probes.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(names):
        direction = rng.normal(size=D_IN)
        direction *= 0.7 / np.linalg.norm(direction)
        for label, n, shift in ((name, 900, 0.0), (f"{name}_OOD", 300, 0.5)):
            data = planted(n, direction, i, shift)
            path = probes / f"{label}.safetensors"
            save_probe_data(path, data.tokens, data.offsets, data.y, "mean")
    directories = []
    for seed in (0, 1, 2):
        g = torch.Generator().manual_seed(seed)
        W = torch.randn(D_IN, 24, generator=g)
        save_sae(
            SAE("relu", W, W.T.clone(), torch.zeros(24), torch.zeros(D_IN)),
            tmp_path / f"seed{seed}",
        )
        directories.append(tmp_path / f"seed{seed}")
    spec = {
        "ood": names,
        "selection": names,
        "gate_k": 4,
        "subject": "toy",
        "hook_name": HOOK,
        "recipe": "mine",
    }
    record = ood_job(
        OODSpec(**spec), directories, tmp_path / "toy" / "probes", tmp_path / "out_of_domain.json"
    )
    excess = [
        (r["sae_id"] - r["sae_ood"]) - (r["llm_id"] - r["llm_ood"]) for r in record["per_dataset"]
    ]
    assert record["kind"] == "ood" and len(excess) == 6
    metric = record["metrics"]["excess_drop"]
    assert record["n_informative"] == record["n_families"] == 2
    assert metric.value == pytest.approx(np.mean(excess)) and metric.lcb < metric.value < metric.ucb
    assert record["metrics"]["ood_drop"].n == 3
    assert record["alphabetical"]["ood_domains"] == ["living-room"]
    with pytest.raises(HusaiError, match=r"no activations of data set .90_glue_qnli"):
        ood_job(
            OODSpec(**{**spec, "ood": ["90_glue_qnli"]}),
            directories,
            tmp_path / "toy" / "probes",
            tmp_path / "o.json",
        )
