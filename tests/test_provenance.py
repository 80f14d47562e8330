"""Artifacts appear whole or not at all, and every job leaves a manifest that marks its end."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from husai import provenance
from husai.errors import HusaiError


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    provenance.write_text(target, "old")
    with pytest.raises(RuntimeError), provenance.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk_is_one_clear_line_and_loses_nothing(tmp_path):
    target = tmp_path / "a.txt"
    provenance.write_text(target, "old")

    with (
        pytest.raises(
            HusaiError, match=r"a\.txt: cannot be written \(No space left on device\); free space"
        ),
        provenance.atomic_path(target),
    ):
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"


@pytest.mark.parametrize("writer", ["safetensors", "torch", "parquet", "text"])
def test_a_writer_on_a_really_full_disk_is_one_clear_line(small_disk, writer):
    """Each library has its own error for it: an exception of its own, a RuntimeError, an
    OSError.
    """
    import pandas
    import safetensors.torch
    import torch

    numbers = torch.arange(200_000, dtype=torch.float32)
    write = {
        "safetensors": lambda path: safetensors.torch.save_file({"x": numbers}, path),
        "torch": lambda path: torch.save({"x": numbers}, path),
        "parquet": lambda path: pandas.DataFrame({"x": numbers.numpy()}).to_parquet(path),
        "text": lambda path: path.write_text("x" * 800_000),
    }[writer]
    target = small_disk / "a.bin"
    target.write_text("old")
    with (
        pytest.raises(
            HusaiError, match=r"a\.bin: cannot be written \(.*No space left on device\); free space"
        ),
        provenance.atomic_path(target) as path,
    ):
        write(path)
    assert [p.name for p in small_disk.iterdir()] == ["a.bin"] and target.read_text() == "old"


def test_written_files_are_readable_by_others(tmp_path):
    import safetensors.torch
    import torch

    with provenance.atomic_path(tmp_path / "w.safetensors") as path:
        safetensors.torch.save_file({"x": torch.zeros(3)}, path)
    provenance.write_text(tmp_path / "t.txt", "x")
    modes = {p.name: p.stat().st_mode for p in tmp_path.iterdir()}
    assert modes["w.safetensors"] == modes["t.txt"]


def test_json_is_strict_and_infinities_become_null(tmp_path):
    provenance.write_json(tmp_path / "m.json", {"lcb": -math.inf, "nan": math.nan, "value": 0.0})
    assert json.loads((tmp_path / "m.json").read_text()) == {"lcb": None, "nan": None, "value": 0.0}


def test_manifest_names_command_commit_config_and_hashes(tmp_path):
    source, made = tmp_path / "in.txt", tmp_path / "out" / "made.txt"
    source.write_text("x")
    with provenance.job(
        tmp_path / "out/manifest.json", config={"k": 3}, seeds=[1, 2], data_slice="rows 0-9"
    ) as work:
        work.reads(source)
        provenance.write_text(made, "y")
        work.writes(made)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for key in (
        "command",
        "git_commit",
        "code_hash",
        "config",
        "config_hash",
        "seeds",
        "data_slice",
        "inputs",
        "outputs",
        "versions",
        "hardware",
        "start",
        "end",
    ):
        assert key in manifest
    assert manifest["return_code"] == 0
    assert manifest["outputs"] == [{"path": "made.txt", "sha256": provenance.sha256_file(made)}]


def test_failed_job_leaves_its_error_and_no_manifest(tmp_path):
    with pytest.raises(ValueError, match="boom"), provenance.job(tmp_path / "manifest.json"):
        raise ValueError("boom")
    assert not (tmp_path / "manifest.json").exists()
    assert (
        json.loads((tmp_path / "manifest.failed.json").read_text())["error"] == "ValueError: boom"
    )


def test_missing_and_broken_json_are_named(tmp_path):
    with pytest.raises(HusaiError, match="no such file"):
        provenance.read_json(tmp_path / "absent.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(HusaiError, match="not readable as JSON"):
        provenance.read_json(tmp_path / "broken.json")


@pytest.mark.parametrize(
    "module",
    [
        "husai.config",
        "husai.planning.plan",
        "husai.config.brought",
        "husai.recipe",
        "husai.provenance",
        "husai.cli",
        "husai.gate",
        "husai.report",
    ],
)
def test_light_modules_import_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
    )


@pytest.mark.parametrize(
    "module", ["husai.sae", "husai.stability", "husai.statistics", "husai.activations"]
)
def test_numeric_rooms_import_only_torch_numpy_scipy(module):
    heavy = (
        "transformer_lens",
        "sae_lens",
        "sae_probes",
        "pandas",
        "pyarrow",
        "pydantic",
        "sklearn",
        "matplotlib",
        "transformers",
    )
    code = (
        f"import sys, {module}; found = [m for m in {heavy!r} if m in sys.modules]; sys.exit(' "
        "'.join(found) or 0)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
    )
