"""The package stands alone: a wheel, outside any checkout, without the optional packages."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import report_tree
import torch

from husai.sae import SAE, save_sae

ROOT = Path(__file__).parents[1]
OPTIONAL = ("snakemake", "rocrate", "sae_probes", "sklearn", "numba", "zstandard")
OPTIONAL += ("transformer_lens", "transformers", "tokenizers", "datasets", "sae_lens")
WITHOUT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the package as its wheel installs it, and hides the optional packages."""
    source, wheels, site = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "site"))
    shutil.copytree(ROOT / "husai", source / "husai", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "Snakefile"):
        shutil.copy(ROOT / name, source)
    for name in ("rules", "config", "profiles", "workflow"):
        shutil.copytree(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *options, "-w", wheels, source], check=True)
    (wheel,) = wheels.glob("husai-*.whl")
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True
    )
    (site / "sitecustomize.py").write_text(WITHOUT.format(names=OPTIONAL))
    return site


def husai(installed, folder, *arguments):
    """Run the installed command in a folder outside the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-m", "husai", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def saes(tmp_path):
    """Two SAE folders in SAELens' format, of one dictionary in another order."""
    W = torch.nn.functional.normalize(
        torch.randn(24, 8, generator=torch.Generator().manual_seed(0))
    )
    folders = []
    for name, rows in (("a", W), ("b", W.flip(0))):
        save_sae(
            SAE("topk", rows.T.clone(), rows, torch.zeros(24), torch.zeros(8), k=4), tmp_path / name
        )
        folders.append(tmp_path / name)
    return folders


def test_stability_of_two_saelens_folders(installed, saes, tmp_path):
    done = husai(installed, tmp_path, "stability", *saes)
    assert done.returncode == 0, done.stderr
    assert "PWMCC" in done.stdout.upper()


def test_the_workflow_is_inside(installed, tmp_path):
    script = "from husai.workflow_files import workflow_folder; print(workflow_folder())"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    ).stdout.strip()
    assert Path(found).is_relative_to(installed)
    for pattern in ("Snakefile", "rules/*.smk", "config/*.yaml", "workflow/**/*", "profiles/*/*"):
        wanted = [p for p in ROOT.glob(pattern) if p.is_file() and "__pycache__" not in p.parts]
        absent = [p for p in wanted if not (Path(found) / p.relative_to(ROOT)).is_file()]
        assert wanted and not absent


def test_judge_names_the_packages_it_lacks(installed, tmp_path):
    done = husai(installed, tmp_path, "judge", "x", "--model", "m", "--hook", "h")
    assert done.returncode == 1
    assert "pip install 'husai[workflow,probing,subjects]'" in done.stderr


def test_the_policies_are_inside(installed, tmp_path):
    done = husai(
        installed, tmp_path, "gate", "--policy", "stricct", "--evidence", ".", "--output-dir", "x"
    )
    assert done.returncode == 1
    assert "cycle3, strict" in done.stderr and "did you mean" in done.stderr


def test_verify_says_in_one_line_that_there_is_nothing_here(installed, tmp_path):
    done = husai(installed, tmp_path, "verify")
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


def test_a_finished_run_verifies(installed, tmp_path):
    root = report_tree.finish_in(report_tree.judge_in(report_tree.build_in(tmp_path)))
    done = husai(installed, tmp_path, "verify", root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no mismatch" in done.stdout


def test_a_package_that_is_missing_is_named_in_one_line(installed, tmp_path):
    root = report_tree.build_in(tmp_path)
    done = husai(installed, root, "report")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("husai report: the package rocrate is")


def test_torch_is_pinned_by_the_lock_and_not_by_the_package():
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert not any(d.startswith("torch==") for d in about["dependencies"])
    assert "\ntorch==" in (ROOT / "requirements.lock").read_text()
