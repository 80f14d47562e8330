# Configuration, plan, names and the resources every rule shares. Imports no torch: this file is parsed for every job.
import os
import re
import shlex
import sys
from pathlib import Path

from husai.config import load
from husai.config.overlays import check_overlays
from husai.config.fields import NAME
from husai.errors import HusaiError
from husai.gate.policy_files import policy_file, policy_name
from husai.planning.plan import Plan
from husai.planning.roles import ROLES
from husai.planning.spec_builder import SpecBuilder
from husai.provenance import RUN_ID
from husai.recipe import RANDOM
from husai.report.events import new_run_id
from husai.shown import printable

CONFIG_FILES = [Path(workflow.basedir) / "config/config.yaml", *workflow.overwrite_configfiles]
try:
    check_overlays(sys.argv[1:], os.environ, workflow.overwrite_configfiles, workflow.rundir)
    CONFIG = load(CONFIG_FILES, override=workflow.config_settings.config)
    PLAN = Plan(CONFIG)
except HusaiError as error:
    lines = "\n".join(map(printable, error.args))
    raise WorkflowError(f"configuration:\n{lines}") from None

# Every job that this run starts, here or on a cluster, notes its id.
os.environ.setdefault(RUN_ID, new_run_id())

SPECS = SpecBuilder(PLAN)
ENV = f"{workflow.basedir}/workflow/envs/husai.yaml"
POLICIES = [policy_name(p) for p in CONFIG.gate.policies]
POLICY_FILES = {policy_name(p): str(policy_file(p)) for p in CONFIG.gate.policies}
LANGUAGE = CONFIG.external.subject
RANDOM_LANGUAGE = LANGUAGE + RANDOM
POOL_HOOKS = PLAN.pool_hooks()
COMPARED = PLAN.compared()
THREADS = CONFIG.compute.train_threads
QUOTED_CONFIG_FILES = shlex.join(map(str, CONFIG_FILES))

# What a job asks of the scheduler, and where it runs. Sizes and times are the profile's business (compute.*); a
# summary reads small files only, for which half an hour is ample. Where a job runs is not what it computes: resources
# reach the command but are no params, so changing them reruns nothing.
GPU_JOB = {
    "gpu": 1,
    "gpu_mem_mb": CONFIG.compute.gpu_mem_mb,
    "mem_mb": CONFIG.compute.mem_mb,
    "runtime": CONFIG.compute.runtime,
    "device": CONFIG.compute.device,
    "dtype": CONFIG.compute.dtype,
}
SMALL_JOB = {"mem_mb": CONFIG.compute.mem_mb, "runtime": 30}
DRAWING_JOB = {
    **SMALL_JOB,
    "snakefile": shlex.quote(str(workflow.main_snakefile)),
    "config_files": QUOTED_CONFIG_FILES,
}

shell.prefix(
    f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; "
)

# Notes the start, success or failure of a run in results/runs.jsonl; a dry run notes nothing.
START = (
    f"husai log --event start --run-command {shlex.quote(' '.join(sys.argv))}"
    f" --config-hash {CONFIG.hash} --config-file {QUOTED_CONFIG_FILES} < /dev/null"
)


wildcard_constraints:
    subject=NAME,
    recipe=NAME,
    hook=NAME,
    seed=r"\d+",
    role="|".join(ROLES),
    policy=NAME,
