"""The machine check: one line per question, ok, warn or fail."""

import pytest

from husai.errors import HusaiError
from husai.jobs.doctor import doctor_job
from husai.report import doctor
from husai.report.doctor import FAIL, GIB, OK, WARN, examine, pins, table


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    (tmp_path / "profiles/local").mkdir(parents=True)
    (tmp_path / "profiles/local/config.yaml").write_text("cores: 1\nresources: [mem_mb=100]\n")
    (tmp_path / "requirements.lock").write_text(
        "# comment\nPyYAML==6.0.0\nnothing-of-this-name==1.0\nold==1; python_version < '3'\n"
    )
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "gpu_memory_mb", list)
    return tmp_path


def state(checks, what):
    """State of one line."""
    return next(c for c in checks if c.what == what)


def test_a_plain_machine_can_run_a_plain_profile(checkout):
    checks = examine(checkout)
    assert state(checks, "profile").state == OK
    assert state(checks, "device").state == OK
    assert FAIL not in [c.state for c in checks]
    assert len(table(checks).splitlines()) == len(checks)


def test_a_profile_that_asks_for_more_than_there_is_gets_a_warning(checkout):
    text = "cores: 4096\nresources:\n  gpu: 1\n  gpu_mem_mb: 60000\n  mem_mb: 100000000000\n"
    (checkout / "profiles/local/config.yaml").write_text(text)
    checks = examine(checkout)
    assert {c.what for c in checks if c.state == WARN} >= {
        "cpu cores",
        "device",
        "gpu memory",
        "memory",
    }


def test_a_gpu_is_named_with_its_memory(checkout, monkeypatch):
    monkeypatch.setattr(doctor, "gpu_memory_mb", lambda: [("NVIDIA B200", 183359)])
    assert "NVIDIA B200 (179 GiB)" in state(examine(checkout), "device").found


def test_a_missing_profile_fails_and_names_the_known_ones(checkout):
    with pytest.raises(HusaiError, match=r"cannot run profile 'b2000' \(profile\)"):
        doctor_job(checkout, "b2000")
    assert "there are: local" in state(examine(checkout, "b2000"), "profile").found


def test_versions_are_compared_with_the_lock(checkout):
    assert pins(checkout / "requirements.lock") == {
        "PyYAML": "6.0.0",
        "nothing-of-this-name": "1.0",
    }
    found = state(examine(checkout), "versions")
    assert found.state == WARN and "nothing-of-this-name missing (lock: 1.0)" in found.found


def test_an_unreachable_hub_only_matters_where_it_is_needed(checkout, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    assert state(examine(checkout), "model hub").state == OK
    assert state(examine(checkout, hub_needed=True), "model hub").state == FAIL


def test_the_disk_must_have_room_for_what_the_run_writes(checkout):
    assert state(examine(checkout, writes={"activations": 0}), "disk").state == OK
    found = state(examine(checkout, writes={"activations": 10**6 * GIB}), "disk")
    assert found.state == FAIL
    assert "activations 1000000.0" in found.found
