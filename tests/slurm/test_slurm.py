"""``profiles/slurm`` on a real Slurm: every stage from subject to gate, GPU jobs get a card, and a
job that is killed in the middle is submitted again. Run by ``make test-slurm``.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cluster import Cluster

ROOT = Path(__file__).parents[2]
CONFIG = [ROOT / "config/smoke.yaml", Path(__file__).with_name("tiny.yaml")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    one = Cluster(tmp_path_factory.mktemp("slurm"))
    one.start()
    yield one
    one.stop()


@pytest.fixture(scope="module")
def run(cluster, tmp_path_factory):
    """The finished run: its folder, its output, and the Slurm job that was killed."""
    folder, profile = tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("profile")
    text = (ROOT / "profiles/slurm/config.yaml").read_text()
    # The smoke configuration in the place of the campaign that the profile names.
    (profile / "config.yaml").write_text(re.sub(r"^configfile:.*\n", "", text, flags=re.M))
    flow = [sys.executable, "-m", "snakemake", "--profile", profile, "--nolock"]
    flow += ["--snakefile", ROOT / "Snakefile", "--directory", folder, "--configfile", *CONFIG]
    flow += ["--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "2"]
    flow += ["--latency-wait", "5"]
    log = folder / "snakemake.out"
    environment = {**os.environ, **cluster.environment, "OMP_NUM_THREADS": "1"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [str(part) for part in flow], cwd=ROOT, env=environment, stdout=out, stderr=out
        )
        killed = kill_one_training(cluster, process)
        status = process.wait(timeout=900)
    return folder, status, log.read_text(), killed


def kill_one_training(cluster, process):
    """Kill the processes of the first training job that runs, without warning; its Slurm job id."""
    deadline = time.monotonic() + 400
    while process.poll() is None and time.monotonic() < deadline:
        for line in cluster.ask("squeue", "-h", "-t", "RUNNING", "-o", "%i %k").splitlines():
            job, _, comment = line.partition(" ")
            if "train" in comment and "confirm" not in comment:
                pids = cluster.ask("scontrol", "listpids", job).split("\n")[1:]
                found = [int(row.split()[0]) for row in pids if row.strip()]
                for pid in (p for p in found if p > 0):
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        continue
                if found:
                    return job
        time.sleep(0.3)
    return None


def jobs(cluster):
    """What Slurm says of every job of the run: ``{id: {field: value}}``."""
    lines = cluster.ask("scontrol", "show", "job", "-o", "-d").splitlines()
    found = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines if "JobId=" in line]
    return {job["JobId"]: job for job in found}


def test_the_run_ends_with_a_decision_and_a_report(run):
    folder, status, text, _ = run
    assert status == 0, text[-4000:]
    decision = json.loads((folder / "results/gate/strict/release_policy.json").read_text())
    assert isinstance(decision["gates"]["pass_all"], bool)
    assert (folder / "reports/gate_report.html").stat().st_size > 10_000


def test_every_gpu_job_was_given_a_card(run, cluster):
    wishes = {
        name: job.get("TresPerJob", job.get("TresPerNode", ""))
        for name, job in jobs(cluster).items()
    }
    given = {name: job.get("JOB_GRES", "") for name, job in jobs(cluster).items()}
    asked = [name for name, wish in wishes.items() if "gpu" in wish]
    assert len(asked) > 20
    assert all("gpu" in given[name] for name in asked)
    assert any("b200" in wishes[name] for name in asked)


def test_the_job_that_was_killed_was_submitted_again(run, cluster):
    _, _, text, killed = run
    assert killed is not None, "no training job was seen running"
    assert jobs(cluster)[killed]["JobState"] != "COMPLETED"
    assert "Trying to restart job" in text
