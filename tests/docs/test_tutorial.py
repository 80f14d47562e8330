"""The documents' code runs as it stands, and the pages mention nothing that is not there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [
    "docs/tutorial.md",
    "docs/index.md",
    *sorted(f"docs/examples/{p.name}" for p in ROOT.glob("docs/examples/*.md")),
]
PAGES.remove("docs/examples/judge.md")  # takes minutes: run by tests/end_to_end/test_judge.py
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```", re.M | re.S)


def blocks(name):
    return BLOCK.findall((ROOT / name).read_text())


def run_all(found, folder):
    """Run a document's blocks in their order: Python as one session, shell lines by bash."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = str(ROOT)
    session = ""
    for kind, text in found:
        if kind == "python":
            session += text
            command = [sys.executable, "-c", session]
        else:
            command = ["bash", "-euc", text.replace("husai ", "python -m husai ")]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stderr}"
        yield done.stdout


@pytest.mark.parametrize("name", PAGES)
def test_every_block_runs(name, tmp_path):
    found = blocks(name)
    assert found, f"{name} holds no code"
    assert any(run_all(found, tmp_path))


def test_relative_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
