"""What a run writes follows from its configuration."""

from pathlib import Path

import pytest

from husai.config import load
from husai.planning.disk import disk_needed

CONFIG = Path(__file__).parents[2] / "config"


def test_b200_writes_51_gb_for_each_hook_of_its_subject():
    config = load([CONFIG / "config.yaml", CONFIG / "b200.yaml"])
    fewer = load(
        [CONFIG / "config.yaml", CONFIG / "b200.yaml"],
        override={"activations": {"language": {"train_rows": 1}}},
    )
    (whole, assumed), (less, _) = disk_needed(config), disk_needed(fewer)
    hooks, per_hook = divmod(whole["activations"] - less["activations"], 51_200_000_000)
    assert assumed and hooks >= 3
    assert per_hook == pytest.approx(51_200_000_000, rel=1e-6)
    assert whole["SAEs"] == less["SAEs"] > 0


def test_the_width_of_a_model_in_a_folder_is_read(tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_size": 32}')
    subject = {"kind": "pretrained", "model": str(tmp_path)}
    subject["hooks"] = load([CONFIG / "config.yaml"]).subjects["language"].hooks
    config = load([CONFIG / "config.yaml"], override={"subjects": {"language": subject}})
    assert disk_needed(config)[1] is False
