"""The workflow as Snakemake's own checks and catalog want it, and environments that pip can
read."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def test_snakemake_s_linter_has_no_remark():
    command = [sys.executable, "-m", "snakemake", "--lint", "--snakefile", ROOT / "Snakefile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "in a good condition" in done.stdout + done.stderr, done.stdout


@pytest.mark.parametrize("path", sorted(ROOT.glob("workflow/envs/*.yaml")), ids=lambda p: p.stem)
def test_conda_environments_name_what_pip_can_read(path):
    *_, last = yaml.safe_load(path.read_text())["dependencies"]
    for line in last["pip"]:
        kind, _, target = line.partition(" ")
        if kind in ("-r", "-e"):
            assert (path.parent / target).resolve().exists(), line
        else:
            Requirement(line)


def test_the_catalog_entry_names_the_configuration():
    entry = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert (ROOT / "config/README.md").is_file()
    assert "config.yaml" in (ROOT / "Snakefile").read_text()
    assert "report" in entry and "software-stack-deployment" in entry
