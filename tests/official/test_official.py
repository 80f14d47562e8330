"""Official programs: preflight, refusal of shell operators, execution with log and manifest,
results read back; a small script is the program.
"""

import argparse
import json
import os
import sys
import textwrap
import time
from pathlib import Path

import pytest

from husai import provenance
from husai.errors import HusaiError
from husai.official import preflight as official
from husai.official import saebench_program
from husai.official.preflight import parse_command, preflight
from husai.official.results import (
    compare,
    compare_files,
    comparison_table,
    read_cebench,
    read_saebench,
)
from husai.official.run import execute, load_options, official_job, result_files

SAEBENCH_RESULT = {
    "eval_type_id": "sparse_probing_sae_probes",
    "eval_result_details": [
        {
            "dataset_name": "87_glue_cola",
            "llm_test_auc": 0.8,
            "sae_top_1_test_auc": 0.61,
            "sae_top_5_test_auc": 0.70,
            "sae_top_20_test_auc": None,
        },
        {
            "dataset_name": "90_glue_qnli",
            "llm_test_auc": 0.9,
            "sae_metrics_by_k": {"16": {"test_auc": 0.75, "test_f1": 0.1}},
        },
    ],
}
CEBENCH_RESULT = {
    f"{name}_score_mean": {"max": value, "mean": 0.0}
    for name, value in (("contrastive", 7.9), ("independent", 9.0), ("interpretability", 7.6))
}


@pytest.fixture
def program(tmp_path):
    """Options of a fake benchmark whose command writes a SAEBench result."""
    (tmp_path / "fake_bench.py").write_text(
        textwrap.dedent(f"""
        import json, sys
        from pathlib import Path
        if __name__ == "__main__":
            print("evaluating", sys.argv[1:])
            print("a warning", file=sys.stderr)
            if "--fail" in sys.argv:
                sys.exit("out of memory")
            folder = Path(sys.argv[sys.argv.index("--output_folder") + 1])
            folder.mkdir(exist_ok=True)
            if "--silent" not in sys.argv:
                (folder / "x_eval_results.json").write_text({json.dumps(json.dumps(SAEBENCH_RESULT))})
        """)
    )
    command = ["python", "-m", "fake_bench", "--output_folder", "results"]
    return {
        "program": "saebench",
        "command": command,
        "working_directory": str(tmp_path),
        "module": "fake_bench",
    }


@pytest.fixture
def any_version(monkeypatch):
    monkeypatch.setitem(
        official.PROGRAMS,
        "saebench",
        official.PROGRAMS["saebench"]._replace(version=None, distribution=None),
    )


@pytest.mark.parametrize(
    "command",
    [
        "a | b",
        "a; b",
        "a && b",
        "a & b",
        "a > out",
        "a < in",
        "a `b`",
        "a $(b)",
        "a ${b}",
        "a\nb",
        "a 'quoted | pipe'",
        "a 2>&1",
        "a\r\nb",
    ],
)
def test_a_text_with_a_shell_operator_is_refused(command):
    with pytest.raises(HusaiError, match="is a shell operator"):
        parse_command(command)


@pytest.mark.parametrize(
    "argument",
    ["|", "||", "&&", ";", ">", ">>", "<", "2>&1", "&>", "2>", "a\nb", "`b`", "$(b)", "x$(b)y"],
)
def test_a_list_with_a_shell_operator_is_refused(argument):
    with pytest.raises(HusaiError, match="is a shell operator"):
        parse_command(["a", argument, "b"])


def test_commands_become_argument_lists():
    assert parse_command("python -m x --name 'two words'") == [
        "python",
        "-m",
        "x",
        "--name",
        "two words",
    ]
    assert parse_command(["x", "--pattern", "topk.*(a|b)"]) == ["x", "--pattern", "topk.*(a|b)"]


@pytest.mark.parametrize(
    ("command", "message"),
    [("", "is empty"), ([], "is empty"), ("a 'b", "balance the quotes"), (["a", 3], "is not text")],
)
def test_unusable_commands(command, message):
    with pytest.raises(HusaiError, match=message):
        parse_command(command)


def test_an_argument_reaches_the_program_untouched(tmp_path):
    status = execute(
        [sys.executable, "-c", "import sys; print(sys.argv[1])", "$HOME|*"],
        tmp_path / "log",
        working_directory=tmp_path,
    )
    assert status == 0
    assert (tmp_path / "log").read_text().splitlines()[-1] == "$HOME|*"


def test_preflight_of_what_is_not_installed_says_what_to_do(tmp_path):
    found = preflight(
        "saebench", "python -m nowhere", module="no_such_module", working_directory=tmp_path
    )
    assert not found["ready"] and not found["importable"]
    assert (
        "No module named 'no_such_module'" in found["problems"][0]
        and "pip install sae-bench==0.6.0" in found["problems"][0]
    )


def test_preflight_reports_versions(program, monkeypatch):
    known = official.PROGRAMS["saebench"]
    version = provenance.library_versions()["torch"]
    monkeypatch.setitem(
        official.PROGRAMS, "saebench", known._replace(distribution="torch", version=version)
    )
    assert preflight(**program)["ready"]
    monkeypatch.setitem(
        official.PROGRAMS, "saebench", known._replace(distribution="torch", version="0.1")
    )
    found = preflight(**program)
    assert (
        not found["ready"]
        and f"torch is {version}, the comparison was written for 0.1" in found["problems"][0]
    )


def test_preflight_survives_a_module_that_prints_and_exits(tmp_path, monkeypatch):
    (tmp_path / "loud.py").write_text("print('hello')\nraise SystemExit('no GPU')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = preflight("cebench", "python -m loud", module="loud")
    assert found["error"] == "SystemExit: no GPU"


@pytest.mark.parametrize("module", ["here", "yaml", "json"])
def test_preflight_imports_nothing_from_the_working_directory(module, tmp_path, monkeypatch):
    (tmp_path / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".")
    for folder in (None, tmp_path):
        found = preflight("cebench", f"python -m {module}", module=module, working_directory=folder)
        assert found["ready"] and not (tmp_path / "ran").exists()


def test_saebenchs_own_imports_are_not_hidden_by_the_folder_its_program_lies_in():
    folder = Path(saebench_program.__file__).parent
    names = {p.stem for p in folder.glob("*.py")} - {"__init__"}
    assert not names & {"sae_probes", "sae_bench", "sae_lens", "datasets"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"program": "saebensh"}, "did you mean 'saebench'"),
        ({"program": "saebench", "python": "/no/such/python"}, "no interpreter"),
        ({"program": "saebench", "working_directory": "/no/such"}, "is no folder"),
        ({"program": "saebench", "command": "a | b"}, "shell operator"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(HusaiError, match=message):
        preflight(**options)


def test_without_execute_nothing_runs(program, any_version, tmp_path):
    checked = official_job(program, tmp_path / "out")
    assert checked["ready"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["preflight.json"]
    assert not (tmp_path / "results").exists()


def test_execute_keeps_log_return_code_and_manifest(program, any_version, tmp_path):
    found = official_job(program, tmp_path / "out", execute_program=True)
    assert found["return_code"] == 0
    text = (tmp_path / "out/program.log").read_text()
    assert "evaluating ['--output_folder', 'results']" in text and "a warning" in text
    manifest = provenance.read_json(tmp_path / "out/manifest.json")
    assert manifest["program_return_code"] == 0 and manifest["return_code"] == 0
    assert manifest["argv"][0] == sys.executable and manifest["argv"][1:] == program["command"][1:]
    assert [Path(r["path"]).name for r in manifest["inputs"]] == ["x_eval_results.json"]


def test_a_program_that_fails_is_an_error_that_names_status_last_line_and_log(
    program, any_version, tmp_path
):
    program["command"].append("--fail")
    with pytest.raises(
        HusaiError, match=r"ended with status 1 \(out of memory\); see .*program.log"
    ):
        official_job(program, tmp_path / "out", execute_program=True)
    failed = provenance.read_json(tmp_path / "out/manifest.failed.json")
    assert failed["program_return_code"] == 1 and not (tmp_path / "out/manifest.json").exists()


def test_what_is_not_ready_is_not_run(program, tmp_path):
    program["module"] = "no_such_module"
    with pytest.raises(HusaiError, match="not ready, nothing was run"):
        official_job(program, tmp_path / "out", execute_program=True)
    assert not (tmp_path / "results").exists()


def test_results_of_an_earlier_run_are_not_taken(program, any_version, tmp_path):
    official_job(program, tmp_path / "out", execute_program=True)
    old = tmp_path / "results/x_eval_results.json"
    os.utime(old, (time.time() - 60, time.time() - 60))
    program["command"].append("--silent")
    with pytest.raises(
        HusaiError, match=r"wrote no result under .*1 older ones are left from another run"
    ):
        official_job(program, tmp_path / "out", execute_program=True)
    assert result_files("saebench", ["x", "--output_folder=results"], tmp_path, None, 0) == [old]


def test_a_program_past_its_time_is_ended_with_its_children(tmp_path):
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; "
        'time.sleep(5); open("late", "w")\'])'
    )
    with pytest.raises(HusaiError, match=r"ran past 0\.5 s and was ended"):
        execute(
            [sys.executable, "-c", code],
            tmp_path / "log",
            working_directory=tmp_path,
            timeout_seconds=0.5,
        )
    with pytest.raises(HusaiError, match="cannot be started"):
        execute(["/no/such/program"], tmp_path / "log", working_directory=tmp_path)


def test_official_results_are_compared_with_ours(program, any_version, tmp_path):
    ours = json.loads(json.dumps(SAEBENCH_RESULT))
    ours["eval_result_details"][0]["sae_top_5_test_auc"] = 0.71
    ours["eval_result_details"][1]["dataset_name"] = "91_glue_qqp"
    provenance.write_json(tmp_path / "ours.json", ours)
    comparison = official_job(
        {**program, "ours": tmp_path / "ours.json"}, tmp_path / "out", execute_program=True
    )["comparison"]
    assert comparison["n"] == 3 and comparison["max_abs_difference"] == pytest.approx(0.01)
    assert not comparison["within_tolerance"]
    assert comparison["rows"][0] | {"difference": 0} == {
        "dataset": "87_glue_cola",
        "measure": "sae k=5",
        "ours": 0.71,
        "official": 0.70,
        "difference": 0,
        "within": False,
    }
    assert comparison["only_official"] == ["90_glue_qnli llm", "90_glue_qnli sae k=16"]
    assert (
        "| 87_glue_cola | sae k=5 | 0.71000 | 0.70000 | +0.01000 ** |"
        in (tmp_path / "out/comparison.md").read_text()
    )


def test_our_probing_record_is_understood(tmp_path):
    rows = [
        {"dataset": "87_glue_cola", "k": k, "auc": 0.6 + k / 100, "dense_auc": 0.8} for k in (1, 5)
    ]
    provenance.write_json(tmp_path / "saebench.json", {"per_dataset": rows})
    provenance.write_json(tmp_path / "official.json", SAEBENCH_RESULT)
    found = compare_files("saebench", [tmp_path / "official.json"], tmp_path / "saebench.json")
    assert {r["measure"]: round(r["difference"], 6) for r in found["rows"]} == {
        "sae k=5": -0.05,
        "llm": 0.0,
        "sae k=1": 0.0,
    }
    provenance.write_json(tmp_path / "saebench.json", {"metrics": {}})
    with pytest.raises(HusaiError, match="holds no AUC per data set"):
        compare_files("saebench", [tmp_path / "official.json"], tmp_path / "saebench.json")


def test_cebench_results_are_read_from_both_forms(tmp_path):
    provenance.write_json(tmp_path / "official.json", CEBENCH_RESULT)
    record = {
        "custom_metrics": {f"{name}_max": scores["max"] for name, scores in CEBENCH_RESULT.items()}
    }
    provenance.write_json(tmp_path / "ours.json", record)
    assert read_cebench(tmp_path / "official.json") == read_cebench(tmp_path / "ours.json")


def test_nothing_in_common_is_not_agreement():
    found = compare({("a", "llm"): 0.5}, {("b", "llm"): 0.5}, 0.1)
    assert not found["within_tolerance"] and found["max_abs_difference"] is None
    assert "have nothing in common" in comparison_table(found)


@pytest.mark.parametrize("reader", [read_saebench, read_cebench])
@pytest.mark.parametrize("foreign", [{"eval_result_details": [{}]}, {"custom_metrics": {}}])
def test_foreign_files_are_refused(reader, foreign, tmp_path):
    provenance.write_json(tmp_path / "x.json", foreign)
    with pytest.raises(HusaiError, match=r"x\.json"):
        reader(tmp_path / "x.json")


def test_options_file(tmp_path):
    (tmp_path / "o.yaml").write_text("program: saebench\ncommand: [python, -m, x]\n")
    assert load_options(tmp_path / "o.yaml") == {
        "program": "saebench",
        "command": ["python", "-m", "x"],
    }
    (tmp_path / "o.yaml").write_text("program: saebench\ncomand: x\n")
    with pytest.raises(HusaiError, match="unknown key 'comand'; did you mean 'command'"):
        load_options(tmp_path / "o.yaml")
    (tmp_path / "o.yaml").write_text("a: [")
    with pytest.raises(HusaiError, match="not valid YAML"):
        load_options(tmp_path / "o.yaml")


def test_saebench_runner_separates_results_by_content_and_checks_its_cache(tmp_path):
    sae, cache = tmp_path / "sae", tmp_path / "cache"
    sae.mkdir()
    (sae / "sae_weights.safetensors").write_bytes(b"weights")
    args = argparse.Namespace(sae=sae, ks=[1])
    first = saebench_program.content_hash(args)
    assert (
        saebench_program.content_hash(args)
        == first
        != saebench_program.content_hash(argparse.Namespace(sae=sae, ks=[2]))
    )
    (sae / "sae_weights.safetensors").write_bytes(b"others")
    assert saebench_program.content_hash(args) != first
    folder = cache / "model_activations_language"
    folder.mkdir(parents=True)
    (folder / "a_blocks.1.hook_resid_post.pt").touch()
    assert saebench_program.missing_activations(
        cache, "language", "blocks.1.hook_resid_post", ["a", "b"]
    ) == ["b"]
