"""The package's rooms: who may import whom, and that the examples in the docstrings are true."""

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1] / "husai"
LIGHT = {"errors", "evidence", "provenance", "progress", "recipe", "compute", "sae_files"}
"""Modules that any room may import."""
MAY_IMPORT = {
    "statistics": LIGHT,
    "activations": LIGHT,
    "stability": LIGHT | {"statistics", "activations"},
    "sae": LIGHT | {"stability", "statistics", "activations"},
    "passport": LIGHT | {"sae", "stability", "statistics", "activations"},
}
DOCUMENTED = (
    "stability.similarity",
    "stability.assignment",
    "stability.nulls.dictionaries",
    "stability.subspace",
    "passport.posterior",
    "statistics.chance",
    "statistics.intervals",
    "statistics.resampling",
    "statistics.recovered",
)


def imports(path):
    """Names of the modules a file imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= (
                {f"{node.module}.{alias.name}" for alias in node.names}
                if node.module == "husai"
                else {node.module}
            )
    return found


def files(room):
    return sorted((ROOT / room).rglob("*.py")) if (ROOT / room).is_dir() else [ROOT / f"{room}.py"]


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_the_rooms_that_compute_know_only_those_below_them(room):
    for path in files(room):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("husai.")} - {room}
        assert rooms <= MAY_IMPORT[room], path


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_the_rooms_that_compute_need_torch_numpy_and_scipy_only(room):
    for path in files(room):
        foreign = (
            {name.split(".")[0] for name in imports(path)}
            - set(sys.stdlib_module_names)
            - {"husai"}
        )
        lazily = (
            {"safetensors", "sae_lens", "huggingface_hub", "triton"}
            if room == "sae"
            else {"safetensors"}
            if room == "activations"
            else set()
        )
        assert foreign <= {"torch", "numpy", "scipy"} | lazily, path


def test_only_one_room_knows_transformer_lens():
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] != "subjects":
            assert not any(name.split(".")[0] == "transformer_lens" for name in imports(path)), path


def test_nothing_imports_the_command_line():
    for path in ROOT.rglob("*.py"):
        if path.name not in ("cli.py", "__main__.py"):
            assert not any(name.startswith("husai.cli") for name in imports(path)), path


@pytest.mark.parametrize("room", ["gate", "report", "statistics"])
def test_gate_report_and_statistics_run_without_torch(room):
    code = f"import sys, husai.{room}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings_are_true(name):
    found = doctest.testmod(importlib.import_module(f"husai.{name}"), extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
