"""The workflow itself: what runs when something changes, profiles without a GPU, bad
configurations.
"""

import re
import subprocess
import sys
import sysconfig
import venv
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


FAKE = """#!/bin/sh
# Stands in for husai: writes what each verb would write, at once.
while [ $# -gt 0 ]; do
  case "$1" in
    --out) out=$2; shift; while [ $# -gt 1 ] && [ "${2#--}" = "$2" ]; do shift; more="$more $1"; done ;;
    --output-dir) dir=$2 ;;
  esac
  shift
done
if [ -n "$dir" ]; then mkdir -p "$dir"; for f in release_policy.json release_policy.md selected_candidate.json; do echo x > "$dir/$f"; done; exit; fi
case "$out" in
  reports) mkdir -p reports; echo x > reports/gate_report.html; echo x > reports/gate_report.md; exit ;;
  results/passport) mkdir -p "$out" reports; for f in passport.parquet passport.json manifest.json; do echo x > "$out/$f"; done; echo x > reports/passport.html; exit ;;
  */integrity.json) for f in integrity stability saebench cebench faithfulness; do echo x > "${out%/*}/$f.json"; done ;;
  */brought-*/manifest.json) echo x > "${out%/*}/matched.json" ;;
  */baseline/summary.json) echo x > results/baseline/evidence.json ;;
esac
for f in "$out" "${out%.json}.parquet" "${out%.json}.md" $more; do echo x > "$f"; done
"""


def snakemake(*args, directory, check=True, python=sys.executable):
    command = [
        str(python),
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(directory),
        "--cores",
        "2",
        *args,
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


def jobs(done):
    """``{rule: count}`` of a dry run; rules of one purpose for other seeds (saebench_1) are one."""
    found = re.findall(
        r"^(\w+) +(\d+)$", (done.stdout + done.stderr).split("Job stats:")[-1], flags=re.M
    )
    counts = Counter()
    for name, count in found:
        counts[re.sub(r"_\d+$", "", name)] += int(count)
    return dict(counts)


def overlay(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return str(path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the smoke configuration, with a fake ``husai`` that only writes the
    files.
    """
    directory = tmp_path_factory.mktemp("run")
    venv.create(directory / "venv", symlinks=True)
    (site,) = (directory / "venv").glob("lib/python*/site-packages")
    (site / "real.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    fake = directory / "venv/bin/husai"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    smoke = str(ROOT / "config/smoke.yaml")
    snakemake("--configfile", smoke, directory=directory, python=directory / "venv/bin/python")
    return directory, smoke


def test_the_default_configuration_plans_every_stage(tmp_path):
    found = jobs(snakemake("-n", directory=tmp_path))
    for rule in (
        "subject",
        "activations",
        "train",
        "stability",
        "baseline",
        "ablations",
        "calibration",
        "consistency",
        "saebench",
        "cebench",
        "faithfulness",
        "passport",
        "release",
    ):
        assert found[rule] >= 1
    for rule in (
        "frontier",
        "scaling",
        "select",
        "confirm",
        "random_model",
        "transcoder",
        "ood",
        "gate",
        "report",
        "log",
        "gate_assert",
    ):
        assert found[rule] >= 1


@pytest.mark.parametrize("profile", ["local", "b200", "slurm"])
def test_every_profile_plans_without_a_gpu_or_a_scheduler(tmp_path, profile):
    """An unknown key or an empty list in a profile would be an error of the command line."""
    options = [] if profile == "local" else ["--configfile", str(ROOT / "config/b200.yaml")]
    found = jobs(
        snakemake("--profile", str(ROOT / "profiles" / profile), "-n", *options, directory=tmp_path)
    )
    assert found["saebench"] > (20 if options else 5)


@pytest.mark.parametrize("profile", ["local", "b200", "slurm"])
def test_profiles_name_only_rules_that_exist(profile):
    rules = set(
        re.findall(
            r"^(?:use rule \w+ as|rule) (\w+)(?: with)?:",
            "".join(p.read_text() for p in [*ROOT.glob("rules/*.smk"), ROOT / "Snakefile"]),
            flags=re.M,
        )
    )
    settings = yaml.safe_load((ROOT / f"profiles/{profile}/config.yaml").read_text())
    for key in ("set-resources", "set-threads"):
        assert set(settings.get(key, {})) <= rules
    named = [n for values in settings.get("set-resources", {}).values() for n in values]
    assert set(named) <= {"gpu", "gpu_mem_mb", "gpu_model", "mem_mb", "runtime", "slurm_partition"}


def test_rule_files_are_short_and_every_rule_declares_log_benchmark_and_environment():
    for path in ROOT.glob("rules/*.smk"):
        text = path.read_text()
        assert text.count("\n") < 150, path
        for rule in re.split(r"^ *rule\b", text, flags=re.M)[1:]:
            name = rule.split(":")[0]
            for part in (
                "log:",
                "benchmark:",
                "conda:",
                "threads:",
                "resources:",
                "params:",
                "shell:",
            ):
                assert part in rule, f"{path.name}: rule {name} lacks {part}"
            if "{resources.device}" in rule:
                assert "**GPU_JOB" in rule, f"{path.name}: rule {name} asks for no GPU"


def test_every_path_and_name_of_a_rule_is_quoted():
    for path in ROOT.glob("rules/*.smk"):
        for command in re.findall(r"shell:\n((?: +\".*\"\n)+)", path.read_text() + "\n"):
            unquoted = re.findall(r"\{(?:input|output|log|wildcards|params)[^}:]*\}", command)
            assert not unquoted, f"{path.name}: {unquoted}"


def test_one_output_needs_only_its_own_jobs(tmp_path):
    found = jobs(
        snakemake(
            "-n",
            "results/external/topk-d384-k16/seed42/saebench.json",
            "--configfile",
            overlay(tmp_path, "o.yaml", "frontier: {k: 32}\nscaling: {k: 32}\n"),
            directory=tmp_path,
        )
    )
    assert found == {
        "subject": 1,
        "activations": 1,
        "train": 1,
        "probe_activations": 1,
        "probe_baselines": 1,
        "saebench": 1,
        "total": 6,
    }


@pytest.fixture
def candidate(tmp_path):
    """An overlay that brings an ensemble of two and keeps eight back, and the folder of the
    checkpoints.
    """
    for i in range(10):
        folder = tmp_path / ("mine" if i < 2 else "kept") / f"seed{i}"
        folder.mkdir(parents=True)
        (folder / "ae.pt").write_text("weights")
        (folder / "config.json").write_text("{}")
    entry = (
        f"{{path: {tmp_path}/mine, subject: language, hook: blocks.0.hook_resid_post, "
        f"confirmation: {tmp_path}/kept}}"
    )
    return overlay(tmp_path, "candidate.yaml", f"external: {{candidates: [{entry}]}}\n"), tmp_path


def test_a_brought_ensemble_adds_its_import_its_control_and_their_measurements(tmp_path, candidate):
    smoke = str(ROOT / "config/smoke.yaml")
    without, with_it = (
        jobs(snakemake("-n", "--configfile", smoke, *more, directory=tmp_path / "run"))
        for more in ([], [candidate[0]])
    )
    added = {
        rule: n - without.get(rule, 0) for rule, n in with_it.items() if n != without.get(rule, 0)
    }
    assert added == {
        "bring": 1,
        "train": 1,
        "stability": 1,
        "saebench": 2,
        "cebench": 2,
        "faithfulness": 2,
        "total": 9,
    }


def test_what_the_choice_of_a_candidate_waits_for_comes_first(finished):
    results = finished[0] / "results"
    chosen = (results / "selection/selected_candidate.json").stat().st_mtime
    others = list(results.glob("saes/modular/*/manifest.json"))
    assert sum(path.stat().st_mtime > chosen for path in others) > len(others) / 2


def test_a_changed_checkpoint_is_imported_again_and_a_changed_fresh_one_confirmed_again(
    finished, candidate
):
    directory, base = finished
    configs, files = ["--configfile", base, candidate[0]], candidate[1]
    python = directory / "venv/bin/python"
    targets = [
        "results/saes/language/brought-mine/manifest.json",
        "results/confirmation/candidate/manifest.json",
    ]
    snakemake(*targets[:1], *configs, directory=directory, python=python)
    assert (
        "Nothing to be done"
        in (done := snakemake("-n", targets[0], *configs, directory=directory)).stdout + done.stderr
    )
    (files / "mine/seed1/config.json").write_text("{ }")
    assert jobs(snakemake("-n", targets[0], *configs, directory=directory)) == {
        "bring": 1,
        "total": 1,
    }
    snakemake(*targets, *configs, directory=directory, python=python)
    (files / "kept/seed9/ae.pt").write_text("other weights")
    assert jobs(snakemake("-n", *targets, *configs, directory=directory)) == {
        "confirm_train": 1,
        "total": 1,
    }
    snakemake("--configfile", base, directory=directory, python=python)


def test_a_finished_run_has_nothing_to_do(finished):
    directory, base = finished
    assert (
        "Nothing to be done"
        in (done := snakemake("-n", "--configfile", base, directory=directory)).stdout + done.stderr
    )


def test_changing_one_ablation_k_reruns_exactly_what_depends_on_it(finished):
    directory, base = finished
    change = overlay(directory, "change.yaml", "ablations: {k: [4, 6]}\n")
    found = jobs(snakemake("-n", "--configfile", base, change, directory=directory))
    assert found == {
        "train": 2,
        "stability": 2,
        "ablations": 1,
        "report": 1,
        "log": 1,
        "gate_assert": 1,
        "dag": 1,
        "all": 1,
        "total": 10,
    }


def test_changing_where_jobs_run_reruns_nothing(finished):
    directory, base = finished
    change = overlay(directory, "device.yaml", "compute: {device: cpu, train_threads: 2}\n")
    assert (
        "Nothing to be done"
        in (done := snakemake("-n", "--configfile", base, change, directory=directory)).stdout
        + done.stderr
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("basline: {}", "basline: unknown key, set to {}; did you mean 'baseline'?"),
        ("baseline: {k: -1}", "baseline.k: got -1"),
        ("baseline: {k: 4096}", "k = 4096 is larger than d_sae = 1024"),
        (
            "gate: {policies: [strictt]}",
            "gate.policies: policy 'strictt' is unknown; known: cycle3, strict",
        ),
        (
            "external: {datasets: {selection: [nonesuch]}}",
            "'nonesuch' is not one of the 113 probing data sets",
        ),
    ],
)
def test_bad_configuration_stops_before_anything_runs(tmp_path, text, message):
    done = snakemake(
        "-n", "--configfile", overlay(tmp_path, "bad.yaml", text), directory=tmp_path, check=False
    )
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()


def test_the_randomised_subject_is_probed_on_the_confirmation_sets_alone(tmp_path):
    smoke = str(ROOT / "config/smoke.yaml")
    done = snakemake(
        "-n", "-p", "results/stress/random_model.json", "--configfile", smoke, directory=tmp_path
    )
    found, shown = jobs(done), done.stdout + done.stderr
    assert found["probe_activations"] == found["confirm_saebench"] == 2
    assert found["probe_baselines"] >= 1 and "ood" not in found
    assert "results/subjects/language-random/probes/manifest.json" in shown
