# Configuration, plan, names and the resources every rule shares. Imports no torch: this file is parsed for every job.
import os
import shlex
import sys
from pathlib import Path

from snakemake.logging import logger

from husai.config import load
from husai.errors import HusaiError
from husai.gate.policy_files import policy_file
from husai.planning.plan import RANDOM, Plan, Slices

CONFIG_FILES = [Path(workflow.basedir) / "config/config.yaml", *workflow.overwrite_configfiles]
try:
    CONFIG = load(CONFIG_FILES, override=workflow.config_settings.config)
    PLAN = Plan(CONFIG)
except HusaiError as error:
    raise WorkflowError(f"configuration:\n{error}") from None

SLICES = Slices(PLAN)
ENV = f"{workflow.basedir}/workflow/envs/husai.yaml"
POLICIES = [Path(p).stem for p in CONFIG.gate.policies]
POLICY_FILES = {Path(p).stem: str(policy_file(p)) for p in CONFIG.gate.policies}
LANGUAGE = CONFIG.external.subject
RANDOM_LANGUAGE = LANGUAGE + RANDOM
ROLES = ["candidate", "frozen", "random_model", "transcoder"]
POOL_HOOKS = PLAN.pool_hooks()
COMPARED = PLAN.compared()

# Where a job runs is not what it computes: these reach the command but not the params, so changing them reruns nothing.
RUN = {
    "where": f"--device {CONFIG.compute.device} --dtype {CONFIG.compute.dtype}",
    "threads": CONFIG.compute.train_threads,
    "configfiles": " ".join(shlex.quote(str(p)) for p in CONFIG_FILES),
}

# What a job asks of the scheduler. Sizes and times are the profile's business (compute.*); a summary
# reads small files only, for which half an hour is ample.
GPU_JOB = {
    "gpu": 1,
    "gpu_mem_mb": CONFIG.compute.gpu_mem_mb,
    "mem_mb": CONFIG.compute.mem_mb,
    "runtime": CONFIG.compute.runtime,
}
SMALL_JOB = {"mem_mb": CONFIG.compute.mem_mb, "runtime": 30}

shell.prefix(
    f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)


wildcard_constraints:
    subject="[A-Za-z0-9_-]+",
    recipe="[^/]+",
    hook="[^/]+",
    seed=r"\d+",
    role="|".join(ROLES),
    policy="[^/]+",


def activations(subject, hook):
    """Manifest of one activation store."""
    return f"results/subjects/{subject}/activations/{hook}/manifest.json"


def recipe_manifest(recipe):
    """Manifest of one trained recipe."""
    return f"results/saes/{recipe.subject}/{recipe.id}/manifest.json"


def stability_of(recipes):
    """Stability evidence of trained recipes."""
    return [f"results/stability/{r.subject}/{r.id}.json" for r in recipes]


def measured(kind, recipes):
    """External records of every seed of the recipes."""
    return [
        f"results/external/{r.id}/seed{s}/{kind}.json"
        for r in recipes
        for s in PLAN.get(r.subject, r.id).seeds
    ]


def run_event(event):
    """Command that notes the start, success or failure of a run in results/runs.jsonl; a dry run notes nothing."""
    about = f" --run-command {shlex.quote(' '.join(sys.argv))} --config-hash {CONFIG.hash} --config-file {RUN['configfiles']}"
    return f"husai log --event {event}{about if event == 'start' else ''} < /dev/null"
