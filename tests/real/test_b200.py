"""``profiles/b200`` runs end to end, tiny, on a model hub in a folder and without a network. Run by
``make test-real``.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub import build

ROOT = Path(__file__).parents[2]
CONFIG = (ROOT / "config/b200.yaml", Path(__file__).with_name("tiny_b200.yaml"))
BY_REQUEST = {"bring"}
"""A campaign brings no SAEs of others."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The finished run: its folder, exit status and output."""
    hub = build.b200(tmp_path_factory.mktemp("hub"))
    folder = tmp_path_factory.mktemp("run")
    flow = [sys.executable, "-m", "snakemake", "--profile", ROOT / "profiles/b200", "--nolock"]
    flow += ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--cores", "2"]
    flow += ["--retries", "0", "--configfile", *CONFIG]
    offline = {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in flow],
        cwd=ROOT,
        env={**os.environ, **offline, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    return folder, done.returncode, done.stdout + done.stderr


def test_the_campaign_ends_with_a_decision_and_the_exit_status_it_asks_for(run):
    folder, status, said = run
    path = folder / "results/gate/strict/release_policy.json"
    assert path.is_file(), said[-6000:]
    assert not json.loads(path.read_text())["gates"]["pass_all"]
    assert status == 1 and "the strict gate failed" in said, said[-3000:]
    assert (folder / "reports/gate_report.html").is_file()


def test_every_rule_ran(run):
    folder, _, _ = run
    rules = {
        name
        for file in (ROOT / "rules").glob("*.smk")
        for name in re.findall(
            r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:", file.read_text(), re.M
        )
    }
    ran = {p.name.removesuffix(".tsv") for p in (folder / "results/benchmarks").iterdir()}
    assert rules - ran - BY_REQUEST <= {"gate_assert"}, "the last rule fails as asked"


def test_the_model_came_from_the_hub_in_the_folder(run):
    folder, _, _ = run
    record = json.loads((folder / "results/subjects/language/model/config.json").read_text())
    assert record["reference"]["revision"] == build.REVISION
