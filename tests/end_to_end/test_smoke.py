"""The whole graph on the smoke configuration: every file of the contract, a decision, a verified
run, bad input, restart.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "config/smoke.yaml")
BIN = Path(sys.executable).parent
AS_MAKE = {**os.environ, "PYTHONPATH": str(ROOT / "workflow/logger")}
"""Where Snakemake finds the logger that `make run` asks for."""


def command(directory, *args):
    exclusive = [sys.executable, str(ROOT / "workflow/exclusive.py"), str(directory / "run.lock")]
    flow = [
        sys.executable,
        "-m",
        "snakemake",
        "--logger",
        "husai",
        "--nolock",
        "--profile",
        str(ROOT / "profiles/local"),
        "--snakefile",
        str(ROOT / "Snakefile"),
    ]
    return [
        *exclusive,
        *flow,
        "--directory",
        str(directory),
        "--cores",
        "2",
        "--configfile",
        SMOKE,
        *args,
    ]


def snakemake(directory, *args):
    return subprocess.run(
        command(directory, *args), capture_output=True, text=True, cwd=ROOT, env=AS_MAKE
    )


def killed_run(directory):
    """Start a run and kill all of it, without warning, once the first ensembles are there."""
    process = subprocess.Popen(
        command(directory),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=AS_MAKE,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while (
        len(list(directory.glob("results/saes/*/*/manifest.json"))) < 3
        and process.poll() is None
        and time.monotonic() < deadline
    ):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def husai(directory, *args):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [str(BIN / "husai"), *map(str, args)],
        capture_output=True,
        text=True,
        cwd=directory,
        env=env,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("smoke")
    killed_run(directory)
    assert not (directory / "reports/gate_report.html").exists()
    done = snakemake(directory)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return directory, done


def load(path):
    return json.loads(path.read_text())


def test_every_file_of_the_contract_is_there(run):
    directory, _ = run
    names = [
        *(
            f"results/{stage}/summary.{ext}"
            for stage in ("baseline", "ablations", "calibration", "consistency")
            for ext in ("json", "parquet", "md")
        ),
        "results/calibration/selected.json",
        *(
            f"results/external/{name}.{ext}"
            for name in ("frontier", "scaling")
            for ext in ("json", "parquet")
        ),
        "results/selection/selected_candidate.json",
        *(f"results/stress/{name}.json" for name in ("random_model", "transcoder", "ood")),
        *(
            f"results/gate/{policy}/release_policy.{ext}"
            for policy in ("cycle3", "strict")
            for ext in ("json", "md")
        ),
        *(
            f"reports/{name}"
            for name in (
                "gate_report.html",
                "gate_report.md",
                "passport.html",
                "experiment_log.md",
                "dag.svg",
            )
        ),
        "results/passport/passport.parquet",
        "results/release/README.md",
    ]
    missing = [name for name in names if not (directory / name).is_file()]
    assert not missing


def test_the_run_ends_with_one_paragraph_and_exit_status_0_although_the_gate_fails(run):
    directory, done = run
    assert not load(directory / "results/gate/strict/release_policy.json")["gates"]["pass_all"]
    assert "NOT RELEASED: the strict gate failed on" in done.stdout + done.stderr
    assert "reports/gate_report.html" in done.stdout + done.stderr


def test_without_a_terminal_a_run_is_fewer_than_60_lines(run):
    _, done = run
    lines = (done.stdout + done.stderr).splitlines()
    assert 10 < len(lines) < 60
    assert any(" stages: " in line for line in lines)


def test_the_report_states_the_status_first_and_names_every_strict_gate(run):
    directory, _ = run
    text = (directory / "reports/gate_report.md").read_text()
    assert "NOT RELEASED" in "\n".join(text.splitlines()[:3])
    gates = load(directory / "results/gate/strict/release_policy.json")["gates"]
    assert {
        "integrity",
        "is_sae",
        "reproducibility",
        "functional",
        "random_model",
        "transcoder",
        "ood",
        "saebench",
        "cebench",
    } <= set(gates)
    assert all(gate in text for gate in gates if gate != "pass_all")


def test_the_release_loads_in_saelens_and_its_card_begins_with_the_reports_verdict(run):
    from sae_lens import SAE

    directory, _ = run
    release = directory / "results/release"
    verdict = (directory / "reports/gate_report.md").read_text().splitlines()[0]
    assert (release / "README.md").read_text().split("---\n", 2)[2].startswith(f"{verdict}\n")
    described = load(directory / "results/confirmation/candidate/recipe.json")
    loaded = SAE.load_from_disk(release, device="cpu")
    assert loaded.cfg.metadata["recipe_hash"] == described["hash"]


def test_the_page_of_passports_quotes_text_and_leads_back_to_the_report(run):
    page = (run[0] / "reports/passport.html").read_text()
    assert '"Gate report": "gate_report.html"' in page
    assert "sae-probes" in page and '"activations"' in page
    assert 'href="passport.html"' in (run[0] / "reports/gate_report.html").read_text()


def test_no_strict_gate_fails_for_want_of_evidence(run):
    directory, _ = run
    reasons = load(directory / "results/gate/strict/release_policy.json")["reasons"]
    missing = {
        gate: reason
        for gate, reason in reasons.items()
        if "missing" in reason or "no evidence" in reason
    }
    assert not missing


def test_saved_saes_are_read_by_saelens_with_the_same_result(run):
    import torch
    from sae_lens import SAE

    from husai.activations import ActivationStore
    from husai.sae import load_sae

    directory, _ = run
    x = ActivationStore.open(
        directory / "results/subjects/language/activations/blocks.0.hook_resid_post/held_out"
    ).tensor()
    for folder in sorted(directory.glob("results/saes/language/*/seed42"))[:6]:
        if "resid" in folder.parent.name:
            continue
        ours, theirs = load_sae(folder), SAE.load_from_disk(str(folder))
        with torch.no_grad():
            torch.testing.assert_close(ours.encode(x), theirs.encode(x), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(
                ours.forward(x), theirs.decode(theirs.encode(x)), atol=1e-5, rtol=1e-5
            )


def test_every_folder_that_a_job_wrote_has_a_manifest_with_provenance(run):
    directory, _ = run
    for folder in [
        *directory.glob("results/saes/*/*"),
        *directory.glob("results/subjects/*/model"),
        *directory.glob("results/confirmation/candidate"),
    ]:
        manifest = load(folder / "manifest.json")
        assert manifest["return_code"] == 0
        assert manifest["outputs"]
        assert {
            "command",
            "git_commit",
            "code_hash",
            "config_hash",
            "seeds",
            "versions",
            "hardware",
            "start",
            "end",
        } <= set(manifest)


def test_the_log_holds_the_killed_run_and_the_finished_one(run):
    directory, _ = run
    log = (directory / "reports/experiment_log.md").read_text()
    assert "interrupted" in log
    assert " finished (" in log


def test_a_second_run_has_nothing_to_do(run):
    directory, _ = run
    again = snakemake(directory)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_verify_accepts_the_run_and_names_flipped_bytes(run):
    directory, _ = run
    clean = husai(directory, "verify")
    assert clean.returncode == 0, clean.stdout + clean.stderr
    rng = random.Random(0)
    files = sorted(
        p
        for top in ("results", "reports")
        for p in (directory / top).rglob("*")
        if p.is_file() and p.stat().st_size
    )
    index = directory / "reports/checksums.json"
    files = [p for p in files if p.suffix != ".lock" and p != index]
    for chosen in ([index], rng.sample(files, min(200, len(files)))):
        before = {path: path.read_bytes() for path in chosen}
        for path, content in before.items():
            at = rng.randrange(len(content))
            path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        found = husai(directory, "verify")
        for path, content in before.items():
            path.write_bytes(content)
        assert found.returncode == 1
        missed = [
            str(p.relative_to(directory))
            for p in chosen
            if str(p.relative_to(directory)) not in found.stdout + found.stderr
        ]
        assert not missed


def test_measuring_again_names_what_the_weights_do_not_give_and_nothing_else(run):
    directory, _ = run
    found = directory.glob("results/confirmation/external/frozen/seed*/faithfulness.json")
    name = str(next(found).relative_to(directory))
    before = (directory / name).read_text()
    record = json.loads(before)
    record["metrics"]["recovered"]["value"] += 0.01
    (directory / name).write_text(json.dumps(record))
    done = husai(directory, "verify", "--remeasure", "--device", "cpu")
    (directory / name).write_text(before)
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "measured again" in line]
    assert [line for line in lines if name not in line] == [] and len(lines) == 1, done.stdout
    saes = ("SAEs spliced", "SAEs contrasted", "SAEs probed")
    for what in ("stability records", "OOD records", *saes):
        assert f"{what} again" in done.stderr, done.stderr


def test_a_failed_gate_ends_the_run_with_an_error_after_report_and_log_when_asked(run, tmp_path):
    directory, _ = run
    overlay = tmp_path / "fail.yaml"
    overlay.write_text("gate: {fail_on_gate_fail: true}\n")
    before = (directory / "reports/gate_report.html").stat().st_mtime_ns
    done = snakemake(directory, str(overlay))
    assert done.returncode == 1
    assert "NOT RELEASED: the strict gate failed" in done.stdout + done.stderr
    assert (directory / "reports/gate_report.html").stat().st_mtime_ns == before
    assert snakemake(directory).returncode == 0


def test_an_unreadable_checkpoint_and_missing_cuda_are_one_line(run, tmp_path):
    directory, _ = run
    (tmp_path / "a").mkdir()
    (tmp_path / "a/cfg.json").write_text("{}")
    (tmp_path / "a/sae_weights.safetensors").write_bytes(b"broken")
    done = husai(directory, "stability", tmp_path / "a", tmp_path / "a")
    assert done.returncode == 1
    assert done.stderr.strip().count("\n") == 0
    assert str(tmp_path / "a") in done.stderr
    import torch

    if not torch.cuda.is_available():
        saes = sorted(directory.glob("results/saes/modular/topk-d64-k8/seed*"))
        done = husai(directory, "stability", *saes, "--device", "cuda")
        assert done.returncode == 1
        assert "no CUDA device" in done.stderr


def test_stability_of_trained_saes_prints_one_table(run):
    directory, _ = run
    saes = sorted(directory.glob("results/saes/modular/topk-d64-k8/seed*"))
    done = husai(directory, "stability", *saes)
    assert done.returncode == 0, done.stderr
    assert "gaussian" in done.stdout
