"""The experiment log: one entry per run that ended or was interrupted, only ever added to, rebuilt
from the events.
"""

import contextlib
import json
import os

import pytest
import report_tree

from husai.errors import HusaiError
from husai.jobs.log import log_job
from husai.provenance import RUN_ID, job, write_json
from husai.report.closing import closing_paragraph
from husai.report.events import (
    append_events,
    chain_breaks,
    end_run,
    open_run,
    read_events,
    runs_path,
    start_run,
)
from husai.report.log import (
    render_log,
    write_log,
)
from husai.report.quotes import Quote
from husai.report.sections import status_line


@pytest.fixture
def places(tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "reports").mkdir()
    return tmp_path / "results", tmp_path / "reports"


def finished_run(places, command="snakemake", event="success"):
    start_run(*places, command=command, config_hash="c0ffee")
    with job(places[0] / "saes/manifest.json", seeds=[42, 123], data_slice={"rows": 100}):
        pass
    end_run(*places, event)


def test_an_entry_says_everything_about_its_run(places):
    finished_run(places, "snakemake --profile profiles/local")
    report_tree.decision(places[0].parent, report_tree.STRICT_ROWS)
    finished_run(places)
    text = write_log(*places).read_text()
    for part in (
        "command: `snakemake --profile profiles/local`",
        "git commit: ",
        "config hash: c0ffee",
        "seeds: saes: 42, 123",
        "versions: ",
    ):
        assert part in text
    for part in (
        'data slice: saes: [{"rows":100}]',
        "artifact root: ",
        "duration: 0 min",
        "gates: strict failed (reproducibility, saebench)",
    ):
        assert part in text
    assert text.count("\n## ") == 2


def test_a_later_log_begins_with_the_earlier_one(places):
    texts = []
    for event in ("success", "error", "success"):
        finished_run(places, event=event)
        texts.append(write_log(*places).read_text())
    assert texts[1].startswith(texts[0]) and texts[2].startswith(texts[1])
    assert [line.split()[2] for line in texts[2].splitlines() if line.startswith("## ")] == [
        "finished",
        "failed",
        "finished",
    ]


def test_a_run_without_an_end_becomes_interrupted_when_the_next_one_starts(places):
    start_run(*places, command="killed one")
    assert "killed one" not in write_log(*places).read_text()
    finished_run(places, "second")
    text = write_log(*places).read_text()
    assert "interrupted (" in text and text.index("killed one") < text.index("second")
    assert open_run(read_events(runs_path(places[0]))) is None


def test_a_run_counts_the_jobs_that_say_they_are_its_own(places, monkeypatch):
    """Neither a job by hand nor one of a run beside it, whenever they ran."""
    monkeypatch.setenv(RUN_ID, "mine")
    with job(places[0] / "early/manifest.json", seeds=[1]):
        pass
    path = places[0] / "early/manifest.json"
    path.write_text(path.read_text().replace('"start": "20', '"start": "19'))
    start_run(*places)
    for other in ("theirs", None):
        monkeypatch.setenv(RUN_ID, other) if other else monkeypatch.delenv(RUN_ID)
        with job(places[0] / f"{other}/manifest.json", seeds=[7]):
            pass
    end_run(*places, "success")
    text = write_log(*places).read_text()
    assert "- seeds: early: 1\n" in text and "- jobs finished: 1\n" in text and "(mine)" in text


def test_a_failed_job_is_named_with_its_error(places):
    start_run(*places)
    with contextlib.suppress(ValueError), job(places[0] / "stress/manifest.json"):
        raise ValueError("not enough rows")
    end_run(*places, "error")
    assert "stress`: ValueError: not enough rows" in write_log(*places).read_text()
    assert "1 job(s) failed" not in closing_paragraph(*places)


def test_the_closing_paragraph_of_a_failed_run_names_the_job_or_the_logs(places):
    start_run(*places)
    assert "its log is shown above and kept in logs/" in closing_paragraph(*places, event="error")
    with contextlib.suppress(HusaiError), job(places[0] / "stress/manifest.json"):
        raise HusaiError("not enough rows")
    assert (
        "1 job(s) failed, first" in (text := closing_paragraph(*places, event="error"))
        and "stress: not enough rows." in text
    )


def test_the_log_outlives_deleted_results_and_deleted_reports(places):
    finished_run(places, "first")
    runs_path(places[0]).unlink()
    finished_run(places, "second")
    (places[1] / "runs.jsonl").unlink()
    finished_run(places, "third")
    text = write_log(*places).read_text()
    assert text.index("first") < text.index("second") < text.index("third")
    assert chain_breaks(runs_path(places[0])) == []


def test_a_decision_of_an_earlier_run_is_marked_so(places):
    report_tree.decision(places[0].parent, report_tree.STRICT_ROWS)
    path = places[0] / "gate/strict/release_policy.json"
    record = json.loads(path.read_text())
    record["provenance"]["time"] = "2020-01-01T00:00:00+00:00"
    write_json(path, record)
    finished_run(places)
    assert (
        "strict failed (reproducibility, saebench), decided in an earlier run"
        in write_log(*places).read_text()
    )


def test_a_line_cut_short_by_a_kill_is_dropped_and_a_changed_line_is_found(places):
    finished_run(places)
    path = runs_path(places[0])
    whole = path.read_text()
    path.write_text(whole + '{"event": "sta')
    assert len(read_events(path)) == 2
    append_events(*places, [{"event": "start", "run_id": "x", "time": "2030"}])
    assert chain_breaks(path) == []
    path.write_text(path.read_text().replace("c0ffee", "c0fffe"))
    assert chain_breaks(path) == [2]


def test_a_broken_line_inside_the_record_is_an_error(tmp_path):
    event = '{"event": "start", "run_id": "x", "time": "2030"}\n'
    for broken in ("{", "[1]", '{"b": 2}'):
        (tmp_path / "runs.jsonl").write_text(f"{event}{broken}\n{event}")
        with pytest.raises(HusaiError, match="line 2 is not JSON"):
            read_events(tmp_path / "runs.jsonl")


def test_the_handler_leaves_the_time_of_the_log_alone(places):
    finished_run(places)
    path = write_log(*places)
    os.utime(path, (1, 1))
    start_run(*places)
    log_job(*places, event="success")
    assert path.stat().st_mtime == 1
    assert path.read_text().count("\n## ") == 2
    assert (places[1] / "checksums.json").is_file()


def test_an_unknown_event_is_an_error(places):
    with pytest.raises(HusaiError, match="event 'finish' is not one of"):
        end_run(*places, "finish")


def test_a_log_without_runs_is_only_a_heading():
    assert render_log([]).startswith("# Experiment log")


def test_the_closing_paragraph_says_passed_or_not_why_and_where(places):
    assert closing_paragraph(*places).startswith("No decision: the strict gate was not reached.")
    report_tree.decision(places[0].parent, report_tree.STRICT_ROWS)
    (places[1] / "gate_report.html").write_text("")
    text = closing_paragraph(*places)
    assert text.startswith("NOT RELEASED: the strict gate failed on reproducibility, saebench;")
    assert text.endswith("gate_report.html.") and "\n" not in text
    report_tree.decision(
        places[0].parent, [{**row, "passed": True} for row in report_tree.STRICT_ROWS]
    )
    assert closing_paragraph(*places).startswith("RELEASED:")


@pytest.mark.parametrize(
    "verdict", [None, "passed as brought", "PASSED  AS BROUGHT", ["RELEASED"], {}, 1, "released"]
)
def test_a_verdict_that_is_none_releases_nothing(places, verdict, monkeypatch):
    root = places[0].parent
    rows = [{**row, "passed": True} for row in report_tree.STRICT_ROWS]
    report_tree.decision(root, rows)
    path = places[0] / "gate/strict/release_policy.json"
    record = json.loads(path.read_text())
    for change in ({"verdict": "NOT RELEASED"}, {"verdict": verdict}):
        line = status_line(Quote("f", record | change))
        assert line[0].startswith("NOT RELEASED: the decision passed but states no verdict")
        found = {"strict": {"pass_all": True, "changed": False, "failed": [], **change}}
        with monkeypatch.context() as patch:
            patch.setattr("husai.report.closing.gate_status", lambda *_, found=found: found)
            assert closing_paragraph(*places).startswith("NOT RELEASED: the decision passed but")
    for body in (
        record | {"verdict": verdict},
        {name: value for name, value in record.items() if name != "verdict"},
    ):
        write_json(path, body)
        with pytest.raises(HusaiError, match="verdict is none of RELEASED, NOT RELEASED, PASSED"):
            closing_paragraph(*places)


def test_a_run_ends_with_the_strict_decision_a_line_for_each_gate(places, capsys):
    report_tree.decision(places[0].parent, report_tree.STRICT_ROWS)
    start_run(*places)
    log_job(*places, event="success")
    lines = capsys.readouterr().out.splitlines()
    gates = list(dict.fromkeys(row["gate"] for row in report_tree.STRICT_ROWS))
    assert [line.rsplit("(", 1)[1].rstrip(")") for line in lines[:-1]] == gates
    assert lines[1].startswith("NO    -0.15  Does training again with another seed")
    assert lines[-1].startswith("NOT RELEASED: ")


def test_the_passports_are_part_of_an_entry(places):
    finished_run(places)
    sae = {"name": "seed7", "certified": 12, "living": 40}
    passports = {"saes": [{**sae, "name": "seed3", "certified": 9}, sae], "representative": "seed7"}
    write_json(places[0] / "passport/passport.json", passports)
    finished_run(places)
    first, second = write_log(*places).read_text().split("- passports: ")[1:]
    assert first.startswith("none\n")
    assert second.startswith("12 of 40 living latents of seed7 certified\n")


def test_a_confirmation_attempt_is_part_of_its_runs_entry(places):
    from husai.gate.attempts import begin_confirmation

    start_run(*places)
    for _ in range(2):
        begin_confirmation(
            "feed",
            seeds=list(range(100, 108)),
            data="held out",
            ledger=places[0] / "confirmation/ledger.jsonl",
        )
    end_run(*places, "success")
    assert (
        "confirmation: attempt 1 for feed; attempt 1 for feed (resumed)"
        in write_log(*places).read_text()
    )
