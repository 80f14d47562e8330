"""The documents' code runs as it stands, and the pages mention nothing that is not there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from husai.activations import write_store
from husai.sae import SAE, save_sae

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    "docs/tutorial.md",
    "docs/index.md",
    *sorted(f"docs/examples/{p.name}" for p in ROOT.glob("docs/examples/*.md")),
]
PAGES.remove("docs/examples/judge.md")  # takes minutes: run by tests/real/test_judge.py
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.M | re.S)
PRINTED = re.compile(r"^```text\n(.*?)^```", re.M | re.S)
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?")


def blocks(name):
    return BLOCK.findall((ROOT / name).read_text())


def printed_lines(name):
    """Lines of the outputs that a document shows: the text blocks after its first code block."""
    text = (ROOT / name).read_text()
    start = BLOCK.search(text).start()
    shown = "\n".join(PRINTED.findall(text, start))
    return [as_compared(line) for line in shown.splitlines() if line.strip()]


def as_compared(line):
    """The line without its numbers, which depend on the processor, and without its spacing."""
    return " ".join(NUMBER.sub("#", line).split())


def run_all(found, folder):
    """Run a document's blocks in their order as one Python program, shell lines by bash; what they
    print.
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    program = "import subprocess\n"
    for kind, text in found:
        bash = ["bash", "-euc", text.replace("husai ", "python -m husai ")]
        program += text if kind == "python" else f"subprocess.run({bash!r}, check=True)\n"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def folder(tmp_path):
    """A folder in a checkout, which is where the tutorial starts."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "tutorial").mkdir()
    return tmp_path / "tutorial"


def given(name, folder):
    """Make what a document takes as there already."""
    if name != "README.md":
        return
    generator = torch.Generator().manual_seed(0)
    write_store(folder / "rows/held_out", torch.randn(500, 16, generator=generator))
    for seed in range(2):
        decoder = torch.randn(32, 16, generator=generator)
        encoder = decoder.T.contiguous()
        sae = SAE("topk", encoder, decoder, torch.zeros(32), torch.zeros(16), k=4)
        save_sae(sae, folder / f"saes/seed{seed}")


@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs_and_prints_what_is_shown(name, folder):
    found = blocks(name)
    assert found, f"{name} holds no code"
    given(name, folder)
    outputs = run_all(found, folder)
    assert outputs.strip()
    lines = {as_compared(line) for line in outputs.splitlines()}
    assert not [line for line in printed_lines(name) if line not in lines]


def test_relative_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
