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
LIGHT = {
    "artifacts",
    "compute",
    "errors",
    "evidence",
    "progress",
    "provenance",
    "recipe",
    "recipe_problems",
    "sae_files",
    "shown",
    "yaml_files",
}
"""Modules that any room may import."""
MAY_IMPORT = {
    "statistics": set(),
    "activations": set(),
    "stability": {"statistics", "activations"},
    "sae": {"stability", "statistics", "activations"},
    "passport": {"sae", "stability", "statistics", "activations"},
    "probing": {"compiled", "sae", "statistics"},
    "cebench": {"compiled", "probing", "sae", "statistics"},
    "subjects": {"activations", "probing"},
    "faithfulness": {"subjects", "statistics"},
    "stress": {"probing", "statistics"},
    "official": {"probing"},
    "config": {"gate", "probing"},
    "planning": {"config"},
    "brought": {"activations", "sae", "stability", "statistics"},
    "selection": {"cebench", "statistics"},
    "cycle3": {"cebench", "gate", "selection"},
    "gate": {"cebench", "cycle3", "probing", "sae", "stability", "statistics", "stress"},
    "report": {"gate"},
    "summaries": {
        "cebench",
        "config",
        "gate",
        "planning",
        "probing",
        "report",
        "stability",
        "statistics",
    },
    "release": {"gate", "report"},
    "verify": {"gate", "report"},
}
"""Rooms that a room may import, besides the modules of LIGHT. ``jobs`` may import every room."""
NUMERIC = ("statistics", "activations", "stability", "sae", "passport")
MOST_LINES, MOST_FILES = 320, 16
"""Of a file, and of a folder other than ``jobs``: what a reader holds in mind."""
DOCUMENTED = (
    "stability.similarity",
    "stability.assignment",
    "stability.nulls.dictionaries",
    "stability.subspace",
    "passport.posterior",
    "passport.train_consensus",
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
def test_rooms_import_only_what_they_may(room):
    for path in files(room):
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("husai.")} - {room}
        assert rooms <= LIGHT | MAY_IMPORT[room], path


def test_every_room_has_its_rule():
    rooms = {path.name for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == {*MAY_IMPORT, "jobs"}


def graph():
    """Modules that each module imports, at the top or inside a function."""
    names = {}
    for path in ROOT.rglob("*.py"):
        dotted = ".".join(("husai", *path.relative_to(ROOT).with_suffix("").parts))
        names[dotted.removesuffix(".__init__")] = path
    found = {}
    for name, path in names.items():
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                wanted |= inner & set(names) or {node.module}
        found[name] = {w for w in wanted if w in names and not name.startswith(f"{w}.")} - {name}
    return found


def test_there_is_no_import_cycle():
    left = graph()
    while free := [name for name, wanted in left.items() if not wanted & set(left)]:
        left = {name: wanted for name, wanted in left.items() if name not in free}
    assert not left, f"among {sorted(left)}"


def test_a_class_has_its_name_to_itself():
    where = {}
    for path in ROOT.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                where.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert not {name: files for name, files in where.items() if len(files) > 1}


def test_files_and_rooms_are_small():
    long = [str(p) for p in ROOT.rglob("*.py") if p.read_text().count("\n") > MOST_LINES]
    folders = {path.parent for path in ROOT.rglob("*.py")} - {ROOT / "jobs"}
    crowded = [str(f) for f in folders if len(list(f.glob("*.py"))) > MOST_FILES]
    assert not long + crowded


def test_jobs_are_known_to_the_command_line_alone():
    for path in ROOT.rglob("*.py"):
        if path.name != "cli.py" and path.parent != ROOT / "jobs":
            assert not any(name.startswith("husai.jobs") for name in imports(path)), path


@pytest.mark.parametrize("room", NUMERIC)
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


TORCHLESS = (
    "gate",
    "cycle3",
    "selection",
    "verify",
    "report",
    "release",
    "evidence",
    "planning",
    "statistics",
)


@pytest.mark.parametrize("room", TORCHLESS)
def test_rooms_that_judge_and_plan_run_without_torch(room):
    inside = [f"husai.{room}"]
    if (ROOT / room).is_dir():
        inside += [f"husai.{room}.{p.stem}" for p in (ROOT / room).glob("[!_]*.py")]
    code = f"import sys, {', '.join(inside)}; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("name", DOCUMENTED)
def test_examples_in_docstrings_are_true(name):
    found = doctest.testmod(importlib.import_module(f"husai.{name}"), extraglobs={"torch": torch})
    assert found.attempted > 0
    assert found.failed == 0
