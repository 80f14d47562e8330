"""The steps of the Dockerfile, one after another in an empty folder: what is copied is there, the
environment is made of it alone, and both commands of the README start. Debian's packages are left
to Debian. Run by ``make test-real``."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def instructions():
    """``(name, rest)`` of every line of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(r"^([A-Z]+) +(.+)$", text, re.M)


def tracked():
    """Files of the checkout that ``COPY . .`` takes."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def copy(names, into):
    for name in names:
        into_place = into / name
        into_place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, into_place)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    """The folder that the Dockerfile's steps leave."""
    folder = tmp_path_factory.mktemp("image")
    for name, rest in instructions():
        if name == "COPY":
            *sources, _ = shlex.split(rest)
            copy(tracked() if sources == ["."] else sources, folder)
        elif name == "RUN" and "apt-get" not in rest:
            subprocess.run(rest, shell=True, cwd=folder, check=True)
    return folder


def test_both_commands_start_from_what_the_steps_leave(image):
    (command,) = [rest for name, rest in instructions() if name == "CMD"]
    assert command == '["make", "run"]'
    path = {**os.environ, "PATH": f"{image}/.venv/bin:{os.environ['PATH']}", "PYTHONPATH": ""}
    for target in ("run", "test"):
        done = subprocess.run(
            ["make", "-n", target], cwd=image, env=path, capture_output=True, text=True
        )
        assert done.returncode == 0 and "pip install" not in done.stdout, done.stdout + done.stderr
    planned = subprocess.run(
        ["snakemake", "--profile", "profiles/local", "-n"],
        cwd=image,
        env=path,
        capture_output=True,
        text=True,
    )
    assert planned.returncode == 0 and "gate_assert" in planned.stdout + planned.stderr
    said = subprocess.run(["husai", "--help"], cwd=image, env=path, capture_output=True, text=True)
    assert said.returncode == 0 and "stability" in said.stdout
