"""``husai judge``: from SAEs, a model and a text to a verdict, in an empty directory, offline, as
the documents show it. Run by ``make test-real``."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub import build

ROOT = Path(__file__).parents[2]
SIZES = Path(__file__).with_name("judge.yaml")
PAGES = [ROOT / "docs/examples/judge.md", ROOT / "docs/tutorial.md"]
COMMAND = re.compile(r"^husai judge (topk .*)$", re.M)
MEASURED = {
    "integrity.leak_excess",
    "integrity.dead_fraction",
    "stability.explained_variance",
    "stability.S",
    "stability.shared_fraction",
    "stability.activation_agreement",
    "random_model.delta_S",
    "transcoder.delta_S",
}
"""What the internal gates read; the rest needs longer runs or what weights do not tell, as which
text they were trained on."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """What the documents have made: a GPT-NeoX, a text, and SAEs trained on it."""
    return build.judge(tmp_path_factory.mktemp("inputs"))


def judge(folder, *arguments):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "husai", "judge", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def as_documented(inputs):
    """The arguments of the documents' command; its names become those of the inputs."""
    (command,) = {found for page in PAGES for found in COMMAND.findall(page.read_text())}
    there = {path.name: str(path) for path in inputs.iterdir()}
    return [there.get(word, word) for word in command.split()]


def without_numbers(line):
    return " ".join(re.sub(r"[-+]?\d+(\.\d+)?", "", line).split())


def test_the_pages_show_the_inputs_and_sizes_that_are_tested(inputs):
    example, tutorial = (page.read_text() for page in PAGES)
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", example, re.M | re.S)
    assert shown == (inputs / "small.yaml").read_text() == SIZES.read_text()
    for page in (example, tutorial):
        assert "tests/hub/build.py judge " in page
        assert COMMAND.search(page)


def test_two_folders_a_model_and_a_text_become_a_verdict(inputs, tmp_path):
    arguments = as_documented(inputs)
    done = judge(tmp_path, *arguments)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    decision = json.loads((tmp_path / "judged/results/gate/strict/release_policy.json").read_text())
    measured = {row["condition"].split()[0] for row in decision["rows"] if row["value"] is not None}
    assert measured >= MEASURED
    assert "no fresh seeds" not in json.dumps(decision["reasons"])
    printed = {without_numbers(line) for line in (done.stdout + done.stderr).splitlines()}
    (shown,) = re.findall(r"^```console\n(.*?)^```", PAGES[1].read_text(), re.M | re.S)
    assert not [line for line in shown.splitlines() if without_numbers(line) not in printed]
    assert (tmp_path / "judged/reports/gate_report.html").is_file()
    again = judge(tmp_path, *arguments, "--fail-on-gate-fail")
    assert again.returncode == 2
    assert "Nothing to be done" in again.stdout + again.stderr
