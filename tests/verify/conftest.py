"""A finished run, and copies of it to spoil."""

import shutil

import pytest
import report_tree


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    root = report_tree.build_in(tmp_path_factory.mktemp("run"))
    return report_tree.finish_in(report_tree.judge_in(root))


@pytest.fixture
def run(original, tmp_path):
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"
