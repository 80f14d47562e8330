"""A real browser (Debian's Chromium, driven by Playwright) and a report to open. Run by
``make test-real``.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from report_tree import build_in, finish_in, record, tamper

ROOT = Path(__file__).parents[2]
HOSTILE = "<img src=x onerror=\"document.title='owned'\">"
"""A name that would run as code wherever it is not escaped."""


@pytest.fixture(scope="session")
def browser():
    path = shutil.which("chromium")
    assert path, "chromium is not installed; make test-real installs it"
    with sync_playwright() as play:
        one = play.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield one
        one.close()


@pytest.fixture(scope="session")
def reports(tmp_path_factory):
    """Folder of the reports of a small finished run whose candidate has a hostile name."""
    root = build_in(tmp_path_factory.mktemp("run"))
    tamper(root / "results/selection/selected_candidate.json", "recipe", HOSTILE)
    record(root / "results/stress/hostile.json", HOSTILE, {HOSTILE: {"value": 1.0}})
    reports = finish_in(root) / "reports"
    dag = [sys.executable, "-m", "husai", "dag", "--snakefile", ROOT / "Snakefile"]
    subprocess.run([*dag, "--out", reports], cwd=root, check=True, env=environment())
    return reports


def environment():
    """The workflow's picture is drawn by the snakemake beside this interpreter."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


class Opened:
    """A page that was opened from disk, with what went wrong and what it asked of the network."""

    def __init__(self, browser, path, width=1400, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())


@pytest.fixture
def visit(browser):
    """``visit(path, width, scheme)`` opens a page; all are closed at the end."""
    opened = []

    def open_one(path, width=1400, scheme="light"):
        opened.append(Opened(browser, path, width, scheme))
        return opened[-1]

    yield open_one
    for one in opened:
        one.context.close()
