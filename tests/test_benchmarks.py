"""The benchmark programs use what the package has; those of the SAE engine run where there is neither
a GPU nor another trainer, and count what they say they count.
"""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from husai.activations import ActivationStore, BatchReader
from husai.recipe import Recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PROGRAM = BENCHMARKS / "bench_sae.py"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("program", sorted(BENCHMARKS.glob("*.py")), ids=lambda p: p.stem)
def test_every_program_imports_what_the_package_has(program):
    for node in ast.walk(ast.parse(program.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "husai":
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                inner = f"{node.module}.{name}"
                assert hasattr(module, name) or importlib.util.find_spec(inner), inner


def test_the_fraction_of_the_matmul_rate_is_measured_on_a_cpu(tmp_path):
    out = tmp_path / "out.json"
    arguments = [
        "--matmul-fraction",
        "--sizes",
        "16->64",
        "--batch",
        "128",
        "--k",
        "4",
        "--seeds",
        "2",
        "--threads",
        "1",
        "--json",
        str(out),
    ]
    done = subprocess.run(
        [sys.executable, PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    (line,) = json.loads(out.read_text())["matmul_fraction"]
    assert (line["size"], line["seeds"], line["kernels"], line["format"]) == (
        "16->64",
        2,
        "k-sparse",
        "float32",
    )
    assert line["fraction"] == pytest.approx(line["reached_gflops"] / line["matmul_gflops"])
    assert line["reached_gflops"] == pytest.approx(line["useful_gflop"] / line["ms_per_step"] * 1e3)
    assert 0 < line["fraction"] < 1
    assert "| 16->64 | 128 | 2 | float32 | k-sparse |" in done.stdout


def test_useful_operations_are_those_a_sparse_code_needs(benchmarks):
    """Counted by torch on the definition: a dense encoder, then k latents of each row, forwards and
    backwards.
    """
    from matmul_fraction import performed_flops, useful_flops
    from torch.utils.flop_counter import FlopCounterMode

    B, d_in, d_sae, k = 32, 12, 40, 5
    recipe = Recipe("s", "h", "topk", d_sae, k=k, batch_size=B)
    x, g = torch.randn(B, 1, d_in), torch.randn(B, 1, d_in)
    code, rows = torch.randn(B, 1, k), torch.randn(B, k, d_in)
    with FlopCounterMode(display=False) as counted:
        x[:, 0] @ torch.randn(d_in, d_sae)
        code @ rows  # decode
        g @ rows.mT  # gradient of the code
        code.mT @ g  # of the decoder rows used
        code.mT @ x  # of the encoder columns used
    assert (
        useful_flops(recipe, d_in, d_in)
        == performed_flops(recipe, d_in, d_in, True)
        == counted.get_total_flops()
    )
    X, Z = x[:, 0], torch.randn(B, d_sae)
    with FlopCounterMode(display=False) as counted:
        (
            X @ torch.randn(d_in, d_sae),
            Z @ torch.randn(d_sae, d_in),
            X @ torch.randn(d_in, d_sae),
            Z.T @ X,
            Z.T @ X,
        )
    assert performed_flops(recipe, d_in, d_in, False) == counted.get_total_flops()


def test_a_repeated_store_reads_like_any_other(tmp_path, benchmarks):
    from store_memory import repeated_store

    repeated_store(tmp_path / "s", 1000, 6, 64)
    store = ActivationStore.open(tmp_path / "s")
    assert len(store) == 1024
    assert torch.equal(store.rows(60, 70), torch.cat([store.rows(60, 64), store.rows(0, 6)]))
    reader = BatchReader(store, 100, 0, resident_bytes=0, block_bytes=240, window_bytes=2400)
    assert next(reader).std() > 0.5
    reader.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_without_a_gpu_the_gpu_benchmark_says_so_in_one_line():
    done = subprocess.run(
        [sys.executable, PROGRAM, "--device", "cuda"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "bench_sae: this machine has no CUDA device; run without --device, or on a machine "
        "that has one"
    )


def test_a_store_from_text_is_compared_file_by_file(tmp_path):
    arguments = ["--rows", "3000", "--kills", "0", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "store_from_text.py", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "3000 rows of 64 values, 1 shards" in done.stdout and "identical" in done.stdout
