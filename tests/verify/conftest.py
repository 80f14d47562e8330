"""A finished run, and copies of it to spoil."""

import shutil

import pytest
import report_tree

from husai.report import plots, records
from husai.report.front import candidates

DRAWN = {}
"""SVG by what it shows; most of the time of a report goes into its figures."""


@pytest.fixture(autouse=True)
def figures_are_drawn_once(monkeypatch):
    """The same data gives the same bytes (tests/report), so that a run checked hundreds of times
    need not be drawn hundreds of times."""

    def once(module, name):
        draw = getattr(module, name)

        def drawn(*shown, **options):
            key = name, repr(shown), repr(options)
            if key not in DRAWN:
                DRAWN[key] = draw(*shown, **options)
            return DRAWN[key]

        return drawn

    for module, name in ((plots, "line_plot"), (records, "heat_map"), (candidates, "picture")):
        monkeypatch.setattr(module, name, once(module, name))


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = report_tree.build_in(tmp_path_factory.mktemp("run"))
    return report_tree.finish_in(report_tree.judge_in(root))


@pytest.fixture
def run(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"
