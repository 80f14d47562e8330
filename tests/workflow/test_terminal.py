"""What `make run` shows: few dated lines without a terminal, bars on one, the end of a failed job's
log on both.
"""

import io
import logging
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "workflow/logger"))

from snakemake_logger_plugin_husai import LogHandler  # noqa: E402
from snakemake_logger_plugin_husai.progress import Run, lasting, purpose, stages_of_rules  # noqa: E402

COUNTS = {
    "subject": 3,
    "train": 15,
    "stability": 11,
    "saebench": 58,
    "saebench_1": 2,
    "gate": 2,
    "all": 1,
}


class Shown:
    """A handler whose console is a string."""

    def __init__(self, terminal):
        self.text = io.StringIO()
        common = types.SimpleNamespace(dryrun=False, stdout=False)
        self.handler = LogHandler(common, None)
        console = Console(file=self.text, force_terminal=terminal, width=100, height=30)
        self.handler.listen(console)

    def event(self, event, message="", level=logging.INFO, **fields):
        record = logging.LogRecord("snakemake", level, __file__, 1, message, (), None)
        record.__dict__.update({"event": event, **fields} if event else fields)
        self.handler.emit(record)

    def start(self, job, rule, **wildcards):
        self.event("job_info", jobid=job, rule_name=rule, rule_msg=None, wildcards=wildcards)

    def whole_run(self):
        self.event("run_info", stats=COUNTS)
        job = 0
        for rule, count in COUNTS.items():
            for _ in range(count):
                job += 1
                self.start(job, rule)
                self.event(None, "Select jobs to execute...")
                self.event("job_finished", job_id=job)
        self.handler.close()
        return self.text.getvalue()


def test_without_a_terminal_a_run_is_few_dated_lines():
    lines = Shown(False).whole_run().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert "91 jobs in 4 stages: Subjects, SAEs, External, Gate" in lines[0]
    assert any("SAEs is done" in line for line in lines)
    assert "91 of 91 jobs" in lines[-2]
    assert re.search(r"one after the other: Subjects \d+ s, SAEs \d+ s, ", lines[-1])
    assert len(lines) <= 20


def test_on_a_terminal_each_stage_has_a_bar_and_the_current_job_is_named():
    shown = Shown(True)
    shown.event("run_info", stats=COUNTS)
    shown.start(1, "train", recipe="topk-d64-k8")
    with shown.handler.display.console.capture() as capture:
        shown.handler.display.console.print(shown.handler.display.picture())
    text = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    assert re.search(r"SAEs +━+ +0 of 26", text)
    assert "now: train topk-d64-k8 (0 s)" in text
    assert "0 of 91 jobs in 0 s" in text and "left" not in text
    shown.handler.close()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_failure_shows_the_end_of_its_log(tmp_path, terminal):
    log = tmp_path / "train.log"
    log.write_text("\n".join(f"line {n}" for n in range(40)) + "\nthe learning rate is negative")
    shown = Shown(terminal)
    shown.event("run_info", stats=COUNTS)
    shown.start(1, "train", recipe="r")
    failed = {"jobid": 1, "rule_name": "train", "log": [str(log)]}
    shown.event("job_error", level=logging.ERROR, **failed)
    shown.event(None, "Exiting because a job execution failed.", logging.ERROR)
    shown.handler.close()
    text = shown.text.getvalue()
    assert "FAILED train r" in text
    assert "the learning rate is negative" in text
    assert "line 5\n" not in text


def test_a_job_of_snakemake_that_fails_shows_the_end_of_its_log(tmp_path):
    (tmp_path / "Snakefile").write_text(
        "rule broken:\n    output: 'out'\n    log: 'broken.log'\n"
        "    shell: 'echo the weights are damaged > {log}; exit 1'\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--logger", "husai", "--cores", "1", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "workflow/logger")},
        capture_output=True,
        text=True,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "FAILED broken" in said and "the weights are damaged" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("terminal", [False, True])
def test_errors_and_the_end_are_said_and_the_diary_is_not(terminal):
    shown = Shown(terminal)
    shown.event(None, "Building DAG of jobs...")
    shown.event(None, "Nothing to be done (all requested files are present and up to date).")
    shown.event("error", "WorkflowError: config: k: -3 is not positive", logging.ERROR)
    shown.handler.close()
    text = shown.text.getvalue()
    assert "Building" not in text
    assert "Nothing to be done" in text and "-3 is not positive" in text


def test_every_rule_belongs_to_a_stage():
    command = [sys.executable, "-m", "snakemake", "--list-rules", "--snakefile", ROOT / "Snakefile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rules = {purpose(line.split()[0]) for line in done.stdout.splitlines() if line.strip()}
    targets = set(re.findall(r"^rule (\w+):", (ROOT / "Snakefile").read_text(), re.M))
    assert set(stages_of_rules(ROOT)) == rules - targets


def test_the_time_left_follows_the_rules_that_are_known():
    run = Run({"a": "A", "b": "B"})
    run.plan({"a": 2, "b": 3}, now=0)
    assert run.seconds_left(0) is None
    run.start(1, "a", "a", 0)
    run.finish(1, 10)
    run.start(2, "b", "b", 10)
    run.finish(2, 12)
    assert run.seconds_left(12) == pytest.approx(10 + 2 * 2), "one a of 10 s, two b of 2 s"
    run.start(3, "a", "a", 12)
    assert run.seconds_left(15) == pytest.approx(10 + 2 * 2 - 3), "3 s of the a are over"


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (240, "4 min"), (6000, "1 h 40 min")])
def test_durations_have_units_that_fit(seconds, text):
    assert lasting(seconds) == text
