"""Machine code of the CPU kernels: where it is kept, what it is keyed by, and what kernels may
depend on.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from husai import compiled

KERNELS = [p for p in sorted(compiled.PACKAGE.rglob("*kernels.py")) if "@kernel(" in p.read_text()]
PROGRAM = (
    "from husai.compiled import kernel\n@kernel()\ndef more(x): return x + 1\nassert more(1) == 2\n"
)


def run(program, folder, **changes):
    path = folder / "program.py"
    path.write_text(program)
    environment = {
        **os.environ,
        "NUMBA_CACHE_DIR": str(folder / "kept"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        **changes,
    }
    subprocess.run([sys.executable, path], env=environment, check=True)
    return sorted(p.parent.parent.name for p in folder.rglob("*.nbc"))


def test_machine_code_is_kept_under_the_hash_of_all_kernel_sources(tmp_path):
    assert run(PROGRAM, tmp_path) == [f"kernels-{compiled.sources_hash()}"]


def test_the_hash_changes_with_any_kernel_source(tmp_path, monkeypatch):
    for path in compiled.PACKAGE.rglob("*kernels.py"):
        copy = tmp_path / path.relative_to(compiled.PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(compiled, "PACKAGE", tmp_path)
    hashes = {compiled.sources_hash.__wrapped__()}
    for path in sorted(tmp_path.rglob("*kernels.py")):
        path.write_text(path.read_text() + "\n")
        hashes.add(compiled.sources_hash.__wrapped__())
    assert len(hashes) == 1 + len(list(tmp_path.rglob("*kernels.py")))


def test_where_no_folder_can_be_written_kernels_are_compiled_in_memory(tmp_path):
    (tmp_path / "file").touch()
    assert run(PROGRAM, tmp_path, NUMBA_CACHE_DIR=str(tmp_path / "file")) == []


def test_a_kernel_without_a_file_is_compiled_in_memory():
    nowhere = {"kernel": compiled.kernel}
    exec("@kernel()\ndef more(x): return x + 1", nowhere)
    assert nowhere["more"](1) == 2


@pytest.mark.parametrize("path", KERNELS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_kernels_read_no_source_that_the_hash_leaves_out(path):
    # A global of another module would be frozen into machine code kept on disk.
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {a.name for a in node.names} <= {"math", "numpy"}
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("__future__", "husai.compiled") or node.module.endswith(
                "kernels"
            )


def test_loading_a_module_of_kernels_makes_them_ready_to_run():
    assert KERNELS
    for path in KERNELS:
        name = ".".join(path.relative_to(Path(compiled.PACKAGE).parent).with_suffix("").parts)
        module = compiled.load(name)
        ready = [f for f in vars(module).values() if getattr(f, "signatures", None)]
        assert ready and compiled.load(name) is module
