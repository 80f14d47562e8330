"""Publishing: what arrives at a stand-in hub on loopback, and what never gets there."""

import shutil

import huggingface_hub.constants
import pytest
import report_tree
from hub.server import serve
from released_run import build_run

from husai.cli import main
from husai.jobs.export import CARD
from husai.report.mirror import SUMS, write_sums


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    build_run(root)
    with report_tree.inside(root):
        assert main(["export", "--device", "cpu"]) == 0
    return root / "results/release"


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "release")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with serve() as running:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.address)
        yield running


def publish(folder, capsys, *options):
    status = main(["publish", "org/name", "--folder", str(folder), *options])
    out, err = capsys.readouterr()
    return status, out, err.strip().split("\n")


def change(folder, old, new):
    """Another card under right checksums: somebody who knows how folders are checked."""
    text = (folder / CARD).read_text()
    assert old in text
    (folder / CARD).write_text(text.replace(old, new))
    names = [line.split("  ")[1] for line in (folder / SUMS).read_text().splitlines()]
    write_sums(folder, names)


def test_the_whole_folder_arrives_with_the_verdict(folder, hub, capsys):
    status, out, _ = publish(folder, capsys, "--private")
    assert status == 0
    asked = hub.repositories["org/name"]
    assert asked.get("visibility") == "private" or asked["private"] is True
    sent = {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "manifest.json"}
    assert hub.files == sent
    assert hub.commits[0]["summary"] == "NOT RELEASED: strict gate failed (2 of 5 gates)"
    assert out.splitlines() == [f"{hub.address}/org/name/commit/1", hub.commits[0]["summary"]]


@pytest.mark.parametrize("new", ["# A lovely SAE", "# RELEASED: strict gate passed (5 of 5 gates)"])
def test_a_card_without_its_verdict_is_never_published(folder, hub, capsys, new):
    change(folder, "# NOT RELEASED: strict gate failed (2 of 5 gates)", new)
    status, _, err = publish(folder, capsys)
    assert (status, len(err)) == (1, 1)
    assert "refused: " in err[0]
    assert not hub.repositories


def test_a_changed_file_is_never_published(folder, hub, capsys):
    (folder / "passport.parquet").write_bytes(b"better")
    status, _, err = publish(folder, capsys)
    assert (status, len(err)) == (1, 1)
    assert "passport.parquet: is not what husai export wrote" in err[0]
    assert not hub.repositories


def test_a_hub_that_is_away_or_refuses_is_one_line(folder, hub, capsys, monkeypatch):
    hub.refuse.append(403)
    status, _, err = publish(folder, capsys)
    assert (status, len(err)) == (1, 1)
    assert "log in with 'hf auth login'" in err[0]
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    status, _, err = publish(folder, capsys)
    assert (status, len(err)) == (1, 1)
    assert "http://127.0.0.1:9 cannot be reached" in err[0]


def test_what_is_no_release_is_refused(tmp_path, capsys):
    status, _, err = publish(tmp_path, capsys)
    assert (status, len(err)) == (1, 1)
    assert "write the folder with husai export" in err[0]
